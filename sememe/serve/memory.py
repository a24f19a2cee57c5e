"""Memory of a server: shared by its threads, and given back where opening a model left it behind."""

import ctypes
import gc

M_ARENA_MAX = -8
"""As in glibc's malloc.h."""
ARENAS = 2


def share_memory() -> None:
    """Have all threads take memory from the same few pools of the C library; called before there are threads.

    With a pool for each, as glibc has it, what one thread frees no other takes: some 20 MB more.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_ARENA_MAX, ARENAS)


def settle_memory() -> None:
    """Called when a model was opened, and again for each that takes over.

    Some 200,000 objects live as long as the process.  To look through all of them takes the collector .1 s, in which no
    request is answered, and it would do so again and again: so they are frozen.  What a model is made of is freed all
    the same when the model goes, as it holds no cycles.  Of what was freed while it was opened, the C library keeps
    some 80 MB for later, unless it is glibc and told not to.
    """
    gc.collect()
    gc.freeze()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
