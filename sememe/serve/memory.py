"""Memory that was freed, given back to the system: opening a model leaves some 80 MB behind that nobody needs."""

import ctypes


def give_back_memory() -> None:
    """Have the C library give back what it keeps for later; nothing where it is not glibc.

    It takes some milliseconds, in which other threads go on.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
