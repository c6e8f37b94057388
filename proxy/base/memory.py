"""How the C library keeps freed memory. Of a process that is ours alone: an embedder's is left as it is."""

import ctypes

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


def keep_freed_memory(kept: int, largest: int) -> None:
    """Let glibc keep up to `kept` freed bytes at hand, of blocks of up to `largest` bytes (mallopt(3)).

    By default it gives a block of a read's size back to the system when it is freed, and takes it again, page by
    page, for the next read: measured, a third of the CPU of one long body. Elsewhere than on glibc nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; Windows
        return
    mallopt(_M_TRIM_THRESHOLD, kept)
    mallopt(_M_MMAP_THRESHOLD, largest)
