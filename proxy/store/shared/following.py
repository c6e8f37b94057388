"""Live reads of streams that other processes write. Owns which streams are followed, and when a push is believed.

The first reader that waits for a stream subscribes to its pushes, and only then loads the stream: what was stored
before the subscription is in the load, what comes later is pushed. A push is applied when it is the very next write
after what readers see here, and when its bytes begin where they end. In every other case the stream is loaded: a push
was missed, or storage went back to an older state.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from proxy.base.tasks import Tasks
from proxy.store.model import Piece
from proxy.store.recent import RecentPieces
from proxy.store.shared.backend import Backend, News, Unavailable
from proxy.store.shared.entry import SharedEntry

__all__ = ["Following"]

logger = logging.getLogger(__name__)


class Following:
    """The streams that are followed here: storage's `NewsListener`. `refresh` loads the stream at a path."""

    def __init__(
        self,
        backend: Backend,
        recent: RecentPieces,
        refresh: Callable[[str], Awaitable[SharedEntry | None]],
        retry_seconds: float,
    ) -> None:
        self._backend = backend
        self._recent = recent
        self._refresh = refresh
        self._retry_seconds = retry_seconds
        self._followed: dict[str, SharedEntry] = {}
        self._loading: dict[SharedEntry, bool] = {}  # those being loaded; True: to be loaded once more afterwards
        self._tasks = Tasks("follow")

    def __len__(self) -> int:
        return len(self._followed)

    def join(self, entry: SharedEntry) -> None:
        """A reader of `entry` waits from now on. It is woken when the stream was loaded, and after each change."""
        entry.followers += 1
        if entry.followers == 1:
            self._followed[entry.ref.path] = entry
            self._load(entry)

    def leave(self, entry: SharedEntry) -> None:
        """That reader waits no more."""
        entry.followers -= 1
        path = entry.ref.path
        if entry.followers == 0 and self._followed.get(path) is entry:
            del self._followed[path]
            self._backend.unfollow(path)

    def _load(self, entry: SharedEntry) -> None:
        """Load the stream in the background, in any case after this call."""
        if entry in self._loading:
            self._loading[entry] = True
        else:
            self._loading[entry] = False
            self._tasks.start(entry.ref.path, self._catch_up(entry))

    async def _catch_up(self, entry: SharedEntry) -> None:
        path = entry.ref.path
        try:
            while self._followed.get(path) is entry:
                self._loading[entry] = False
                try:
                    await self._backend.follow(path)
                    await self._refresh(path)
                except Unavailable:
                    await asyncio.sleep(self._retry_seconds)
                    continue
                entry.wake()
                if not self._loading[entry]:
                    break
        finally:
            del self._loading[entry]

    def heard(self, path: str, news: News) -> None:
        """A push: what readers see moves with it, or the stream is loaded."""
        entry = self._followed.get(path)
        if entry is None or (news.id == entry.ref.id and news.revision <= entry.seen and not news.is_removed):
            return
        is_next = news.id == entry.ref.id and news.revision == entry.seen + 1 and not news.is_removed
        position = news.tail - sum(map(len, news.data))
        if not is_next or position != entry.tail:
            self._load(entry)
            return
        if news.data:
            pieces: list[Piece] = []
            for data in news.data:
                pieces.append((position, data))
                position += len(data)
            self._recent.add(entry.recent, pieces)
        entry.show(news.revision, news.tail, closed=news.closed)
        entry.wake()

    def missed(self, paths: Sequence[str]) -> None:
        """Pushes may be missing: load what is followed."""
        for path in paths:
            if (entry := self._followed.get(path)) is not None:
                self._load(entry)

    async def aclose(self) -> None:
        """Stop loading."""
        await self._tasks.aclose()
