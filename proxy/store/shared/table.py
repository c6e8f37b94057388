"""The streams that are in memory, by path. The least recently used leave, unless something holds them."""

import weakref

from proxy.store.model import Verdict
from proxy.store.recent import RecentPieces
from proxy.store.shared.backend import StoredState
from proxy.store.shared.entry import SharedEntry

__all__ = ["SharedTable"]


class SharedTable:
    """At most `size` entries that nothing holds. A path has at most one: its readers and appends share it."""

    def __init__(self, size: int, recent: RecentPieces) -> None:
        self._size = size
        self._recent = recent
        self._used: dict[str, SharedEntry] = {}  # the least recently used first
        self._held: weakref.WeakValueDictionary[str, SharedEntry] = weakref.WeakValueDictionary()

    def entries(self) -> list[SharedEntry]:
        """Every entry that is in memory."""
        return list(self._held.values())

    def get(self, path: str) -> SharedEntry | None:
        """The entry of the stream at `path`, if it is in memory."""
        entry = self._used.pop(path, None)
        if entry is None:
            entry = self._held.get(path)
            if entry is not None:
                self._put(path, entry)
            return entry
        self._used[path] = entry
        return entry

    def _put(self, path: str, entry: SharedEntry) -> None:
        self._held[path] = self._used[path] = entry
        while len(self._used) > self._size:
            self._recent.drop(self._used.pop(next(iter(self._used))).recent)

    def lose(self, path: str) -> None:
        """There is no stream at `path`."""
        self._used.pop(path, None)
        entry = self._held.pop(path, None)
        if entry is not None:
            self._recent.drop(entry.recent)
            entry.lose(Verdict.MISSING)

    def make(self, state: StoredState) -> SharedEntry:
        """The entry of a stream that is not in memory; another one that had its path is lost."""
        path = state.stream.path
        self.lose(path)
        entry = SharedEntry(state)
        self._put(path, entry)
        return entry
