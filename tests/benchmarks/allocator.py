"""Keep the C library from returning freed memory to the system between two products."""

import ctypes

__all__ = ["keep_freed_memory"]

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Let freed memory stay with the process, as torch's own allocator does on a GPU.

    By default glibc maps every tensor above 32 MiB anew and unmaps it when it is freed, and the
    system clears each page again at its first touch. That can cost more than the arithmetic: the
    README beside this file has figures with and without. Which library crosses 32 MiB depends on the
    size of the problem as well as on its method.

    Returns
    -------
    bool
        Whether the C library obeyed; only glibc does.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, TypeError, OSError):
        return False
    never_map: int = mallopt(_M_MMAP_MAX, 0)
    never_trim: int = mallopt(_M_TRIM_THRESHOLD, -1)
    return never_map == 1 and never_trim == 1
