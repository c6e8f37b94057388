"""The streams that are in memory, by path. Owns how many: the least recently used leave, unless somebody holds them.

A path has at most one `Stream`: whoever holds one (a reader, a queued write) and whoever asks get the same object.
"""

import asyncio
import weakref
from collections.abc import Callable, Iterator

from proxy.store.state import Stream

__all__ = ["StreamTable"]


class StreamTable:
    """At most `size` streams that nobody holds. `evicted` is called with each that leaves."""

    def __init__(self, size: int, evicted: Callable[[Stream], None]) -> None:
        self._size = size
        self._evicted = evicted
        self._used: dict[str, Stream] = {}  # the least recently used first
        self._held: weakref.WeakValueDictionary[str, Stream] = weakref.WeakValueDictionary()
        self._opening: dict[str, asyncio.Future[None]] = {}
        self._outdated: set[str] = set()

    def __iter__(self) -> Iterator[Stream]:
        return iter(list(self._held.values()))

    def get(self, path: str) -> Stream | None:
        """The stream at `path`, if it is in memory."""
        stream = self._used.pop(path, None)
        if stream is None:
            stream = self._held.get(path)
            if stream is not None:
                self.put(stream)
            return stream
        self._used[path] = stream
        return stream

    def put(self, stream: Stream) -> None:
        """Remember `stream`, the last one used."""
        self._held[stream.path] = stream
        self._used[stream.path] = stream
        while len(self._used) > self._size:
            self._evicted(self._used.pop(next(iter(self._used))))

    def removed(self, path: str) -> Stream | None:
        """The path is free again: the stream that had it, if it was in memory."""
        if path in self._opening:
            self._outdated.add(path)
        self._used.pop(path, None)
        return self._held.pop(path, None)

    async def opened(self, path: str) -> None:
        """Wait until nobody is loading or creating the stream at `path`."""
        while (opening := self._opening.get(path)) is not None:
            await asyncio.wait((opening,))

    def begin(self, path: str) -> None:
        """The stream at `path` is being loaded or created: others wait until `end`."""
        self._opening[path] = asyncio.get_running_loop().create_future()

    def end(self, path: str) -> bool:
        """It was. False when the path was freed meanwhile: what was loaded is not there any more."""
        self._opening.pop(path).set_result(None)
        if path in self._outdated:
            self._outdated.discard(path)
            return False
        return True
