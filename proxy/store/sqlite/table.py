"""The streams that are in memory, by path. Owns their number: the least recently used leave, unless something holds
them.

A path has at most one `Entry`: everything that holds one (a reader, a queued write) and every later request for the
path get the same object, however many others were used in between. So there is only one state of a stream.
"""

import asyncio
import weakref
from collections.abc import Callable, Iterator

from proxy.store.sqlite.state import Entry

__all__ = ["StreamTable"]


class StreamTable:
    """At most `size` entries that nothing holds. `evicted` is called with each that leaves."""

    def __init__(self, size: int, evicted: Callable[[Entry], None]) -> None:
        self._size = size
        self._evicted = evicted
        self._used: dict[str, Entry] = {}  # the least recently used first
        self._held: weakref.WeakValueDictionary[str, Entry] = weakref.WeakValueDictionary()
        self._opening: dict[str, asyncio.Future[None]] = {}
        self._outdated: set[str] = set()

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._held.values()))

    def get(self, path: str) -> Entry | None:
        """The entry of the stream at `path`, if it is in memory."""
        entry = self._used.pop(path, None)
        if entry is None:
            entry = self._held.get(path)
            if entry is not None:
                self.put(entry)
            return entry
        self._used[path] = entry
        return entry

    def put(self, entry: Entry) -> None:
        """Remember `entry`, the last one used."""
        path = entry.stream.path
        self._held[path] = entry
        self._used[path] = entry
        while len(self._used) > self._size:
            self._evicted(self._used.pop(next(iter(self._used))))

    def removed(self, path: str) -> Entry | None:
        """The path is free again: the entry that had it, if it was in memory."""
        if path in self._opening:
            self._outdated.add(path)
        self._used.pop(path, None)
        return self._held.pop(path, None)

    async def opened(self, path: str) -> None:
        """Wait until the stream at `path` is not being loaded or created."""
        while (opening := self._opening.get(path)) is not None:
            await asyncio.wait((opening,))

    def begin(self, path: str) -> None:
        """The stream at `path` is being loaded or created: others wait until `end`."""
        self._opening[path] = asyncio.get_running_loop().create_future()

    def end(self, path: str) -> bool:
        """The load or create has ended. False when the path was freed meanwhile: what was loaded does not exist."""
        self._opening.pop(path).set_result(None)
        if path in self._outdated:
            self._outdated.discard(path)
            return False
        return True
