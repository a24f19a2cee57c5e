"""What opening a model leaves in memory: given back to the system, or out of the garbage collector's sight."""

import ctypes
import gc


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
