"""How the process keeps freed memory and finds cycles.

For a process of our own only: that of an embedding program stays as it is.

Freed blocks are kept for the next read, see `keep_freed_memory`. The C library gives back only what is free at the top
of its heap, and one small block in use there holds all that is free below it. After a flood of connections this would
be hundreds of megabytes for good, so that `FreedMemory` gives it back once it has not been needed for a while.
"""

import asyncio
import ctypes
import gc
from dataclasses import dataclass

__all__ = ["FreedMemory", "MemorySettings", "keep_freed_memory", "seek_cycles_seldom"]

_MALLINFO2 = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


@dataclass(frozen=True, slots=True)
class MemorySettings:
    """Numbers of a process's memory: sizes in bytes, and a number of objects."""

    kept_heap_bytes: int  # freed memory that the C library keeps at the top of the heap
    kept_block_bytes: int  # the largest block that the C library allocates there
    collector_objects: int  # made and not freed, after which Python looks for cycles among them
    freed_look_seconds: float  # pause between two looks at what is free; what was free at both is given back


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
    objects are freed by reference counts. By default a look at everything stops the event loop for tens of
    milliseconds, several times in 5,000 creates, and finds nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(settings.collector_objects)


class _Mallinfo2(ctypes.Structure):
    """`struct mallinfo2` of glibc 2.33 and later (mallinfo(3))."""

    _fields_ = [(name, ctypes.c_size_t) for name in _MALLINFO2.split()]


class FreedMemory:
    """Gives memory that was freed, and that nothing has needed since, back to the system (malloc_trim(3))."""

    def __init__(self, settings: MemorySettings) -> None:
        """With another C library, or a glibc before 2.33, nothing is ever given back."""
        self._settings = settings
        self._before = 0  # free bytes at the last look
        self._hollow = 0  # of those, bytes that were given back: they stay in the library's books as free
        self._library: ctypes.CDLL | None = None
        try:
            library = ctypes.CDLL(None)
            library.malloc_trim.argtypes = [ctypes.c_size_t]
            library.mallinfo2.restype = _Mallinfo2
        except (AttributeError, OSError, TypeError):
            return
        self._library = library

    async def watch(self) -> None:
        """Look again and again, until cancelled."""
        while self._library is not None:
            await asyncio.sleep(self._settings.freed_look_seconds)
            self.look()

    def look(self) -> bool:
        """Give back what was free at the last look, too, if that is worth the call; whether it was given back."""
        if self._library is None:
            return False
        free = self._library.mallinfo2().fordblks
        kept, self._before = min(free, self._before), free
        self._hollow = min(self._hollow, free)
        if kept - self._hollow <= self._settings.kept_heap_bytes:
            return False
        self._library.malloc_trim(self._settings.kept_heap_bytes)
        self._hollow = self._library.mallinfo2().fordblks
        return True
