"""How the process keeps freed memory and finds cycles.

For a process of our own only: that of an embedding program stays as it is.
"""

import ctypes
import gc
from dataclasses import dataclass

__all__ = ["MemorySettings", "keep_freed_memory", "seek_cycles_seldom"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


@dataclass(frozen=True, slots=True)
class MemorySettings:
    """Numbers of a process's memory: sizes in bytes, and a number of objects."""

    kept_heap_bytes: int  # freed memory that the C library keeps at the top of the heap
    kept_block_bytes: int  # the largest block that the C library allocates there
    collector_objects: int  # made and not freed, after which Python looks for cycles among them


def keep_freed_memory(settings: MemorySettings) -> None:
    """Let glibc keep freed memory for later use (mallopt(3)). With another C library nothing happens.

    By default glibc returns a block of a read's size to the system when it is freed, and gets it back, page by page,
    for the next read. Measured: a third of the CPU time of one long body.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; Windows
        return
    mallopt(_M_TRIM_THRESHOLD, settings.kept_heap_bytes)
    mallopt(_M_MMAP_THRESHOLD, settings.kept_block_bytes)


def seek_cycles_seldom(settings: MemorySettings) -> None:
    """Let Python's cycle collector leave out all objects that are there now, and look at later ones less often.

    Call it after the start. What the start has made lives as long as the process, and requests leave no cycles: their
    objects are freed by reference counts. By default a look at everything stops the event loop for up to 100 ms,
    several times in 5,000 creates, and what looks cost in all is 3 to 8 % of the CPU time of small streams.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(settings.collector_objects)
