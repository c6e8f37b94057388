"""The engine over a storage that several processes share: the port's `Engine`. Owns how an operation is judged, which
change it becomes, and when it is judged again.

An append is judged by the state that is in memory, and stored on the condition that storage is still in that state.
When it is not, storage answers with its state, and the append is judged by that one. A refusal (DUPLICATE, CLOSED, …)
is answered only when the state that it rests on was loaded for this append, so that no caller hears of a state that
another process has changed, or that storage has lost.
"""

import logging
import secrets
from dataclasses import replace
from itertools import count

from proxy.base.tasks import Tasks
from proxy.store.model import JSON_TYPE, Append, Content, Result, Spec, Stream, Verdict, media_type
from proxy.store.port import Unreadable
from proxy.store.recent import RecentPieces
from proxy.store.rules import accept, fork_offset, inherited_spec, is_same, judge
from proxy.store.settings import StoreSettings
from proxy.store.shared.backend import Backend, Change, Creation, Stored, StoredState, Unavailable
from proxy.store.shared.bytes import SharedBytes
from proxy.store.shared.entry import SharedEntry
from proxy.store.shared.following import Following
from proxy.store.shared.holds import Holds
from proxy.store.shared.reader import SharedReader
from proxy.store.shared.table import SharedTable

__all__ = ["SharedEngine"]

logger = logging.getLogger(__name__)

_ATTEMPTS = 64  # to win the race for one append; each that is lost means that another process has stored one
_RETRY_SECONDS = 0.25  # before a stream that is followed, and could not be loaded, is loaded again


class SharedEngine:
    """The streams of one storage. Made inside the event loop; `aclose` leaves nothing."""

    def __init__(self, backend: Backend, settings: StoreSettings) -> None:
        self._backend = backend
        self._settings = settings
        self._recent = RecentPieces(settings.tail_bytes, settings.tails_bytes)
        self._table = SharedTable(settings.streams, self._recent)
        self._following = Following(backend, self._recent, self._refreshed, _RETRY_SECONDS)
        self._holds = Holds(backend)
        self._tasks = Tasks("store")
        self._name = secrets.token_hex(6)
        self._numbers = count(1)
        self.bytes = SharedBytes(backend)
        self.is_closing = False
        backend.listen(self._following)

    def now(self) -> int:
        """Storage's time in Unix milliseconds."""
        return self._backend.now()

    def has_room(self) -> bool:
        """Whether storage took the last write."""
        return not self._backend.is_full

    async def aclose(self) -> None:
        """End every wait and close the connections."""
        self.is_closing = True
        for entry in self._table.entries():
            entry.wake()
        await self._following.aclose()
        await self._tasks.aclose()
        await self._backend.aclose()

    def _token(self) -> str:
        """A name for the state after a write; no two writes of any process have the same."""
        return f"{self._name}{next(self._numbers):x}"

    # Finding

    async def find(self, path: str) -> SharedReader | None:
        """A reader of the stream at `path`, which is loaded; None when there is none."""
        try:
            entry = await self._refreshed(path)
        except Unavailable as error:
            raise Unreadable(str(error)) from error
        return None if entry is None else SharedReader(entry, self)

    async def _refreshed(self, path: str, *, is_final: bool = False) -> SharedEntry | None:
        """The entry of the stream at `path`, as storage has it now; None when there is none.

        `is_final` as for the backend's `load`. Raises Unavailable.
        """
        entry = self._table.get(path)
        seen = -1 if entry is None else entry.seen
        return self._adopt(path, await self._backend.load(path, is_final=is_final), seen)

    def _adopt(self, path: str, state: StoredState | None, seen: int) -> SharedEntry | None:
        """What storage says of the stream at `path`. `seen` is what readers saw when it was asked."""
        if state is None:
            self._table.lose(path)
            return None
        entry = self._table.get(path)
        if entry is None or entry.ref.id != state.stream.id:
            return self._table.make(state)
        if state.revision < seen:
            logger.error("stream %s: storage lost what it had acknowledged (its readers are broken off)", path)
            return self._table.make(state)
        entry.judge_by(state)
        if state.absence is not entry.absence and state.absence is not None:
            entry.lose(state.absence)
        if state.revision > entry.seen:
            pieces = entry.recent.pieces
            if pieces and pieces[-1][0] + len(pieces[-1][1]) != state.judged.tail:
                self._recent.drop(entry.recent)
            entry.show(state.revision, state.judged.tail, closed=state.judged.closed)
            entry.wake()
        return entry

    # Creating

    async def create(self, path: str, spec: Spec, content: Content) -> tuple[Result, Stream | None]:
        """Create a stream that starts with `content`."""
        try:
            if spec.fork is not None or content.size:
                entry = await self._refreshed(path, is_final=True)
                if entry is not None:
                    return _existing(entry, spec)
            return await self._create_new(path, spec, content)
        except Unavailable as error:
            if not error.is_full:
                return Result(Verdict.FAILED), None
        try:
            entry = await self._refreshed(path)
        except Unavailable:
            return Result(Verdict.FAILED), None
        return (Result(Verdict.FULL), None) if entry is None else _existing(entry, spec)

    async def _create_new(self, path: str, spec: Spec, content: Content) -> tuple[Result, Stream | None]:
        creation = Creation(path, spec, self._token())
        if spec.fork is not None:
            source = await self._refreshed(spec.fork.path)
            place = await self._branch(source, spec)
            if isinstance(place, Verdict) or source is None:
                return Result(place if isinstance(place, Verdict) else Verdict.SOURCE_MISSING), None
            creation.start, offset = place
            expires = source.expires if source.stream.ttl is None else None
            spec = replace(inherited_spec(source.stream, expires, spec), fork=replace(spec.fork, offset=offset))
            creation.source = source.ref
            creation.inherited = tuple(
                replace(each, end=min(each.end, creation.start))
                for each in source.segments(creation.start)
                if each.start < creation.start
            )
        is_json = media_type(spec.content_type or "") == JSON_TYPE
        creation.spec = spec
        creation.pieces = await content.cut(is_json=is_json) if content.size else []
        creation.tail = creation.start + sum(map(len, creation.pieces))
        if creation.source is not None and not await self._holds.begin(creation.source, path, spec):
            return Result(Verdict.SOURCE_MISSING), None
        stored = await self._backend.create(creation)
        if isinstance(stored, StoredState):
            entry = self._adopt(path, stored, -1)
            return _existing(entry, spec) if entry is not None else (Result(Verdict.FAILED), None)
        return Result(Verdict.CREATED, creation.tail, spec.closed), self._created(creation, stored).stream

    def _created(self, creation: Creation, stored: Stored) -> SharedEntry:
        spec = creation.spec
        stream = Stream.of(stored.id, creation.path, spec, stored.id // 1000)
        state = StoredState.of_creation(creation, stream, stored.expires)
        return self._table.make(state)

    async def _branch(self, source: SharedEntry | None, spec: Spec) -> tuple[int, int] | Verdict:
        """Where a fork of `source` begins, and its offset; or why it cannot be made."""
        if source is None or spec.fork is None:
            return Verdict.SOURCE_MISSING
        view = source.look()
        offset = fork_offset(view, spec, spec.fork)
        if isinstance(offset, Verdict):
            return offset
        segments = source.segments(view.tail)
        place = await self.bytes.place(segments, offset, spec.fork.sub, is_json=source.stream.is_json)
        return Verdict.BAD_FORK if place is None else (place, offset)

    # Appending

    async def append(self, path: str, append: Append) -> Result:
        """Store `append`, closing the stream with it if it says so; or say why not."""
        try:
            result = None
            while result is None:  # until the path has the same stream from the first look to the last
                entry = self._table.get(path) or await self._refreshed(path)
                if entry is None:
                    return Result(Verdict.MISSING)
                pieces: list[bytes] = []
                content, stream = append.content, entry.stream
                if content.size:
                    pieces = await content.cut(is_json=stream.is_json and append.media == stream.media)
                async with entry.lock:
                    result = await self._append(entry, append, pieces)
            return result
        except Unavailable as error:
            return Result(Verdict.FULL if error.is_full else Verdict.FAILED)

    async def _append(self, entry: SharedEntry, append: Append, pieces: list[bytes]) -> Result | None:
        """Judge and store; None when another stream has the path now. The entry's lock is held."""
        path = entry.ref.path
        is_fresh = False
        for _ in range(_ATTEMPTS):
            if entry.judged is not None and entry.absence is None:
                refused = judge(entry.judged, append)
                if refused is None:
                    seen = entry.seen
                    stored = await self._store(entry, append, pieces)
                    if isinstance(stored, Result):
                        return stored
                    current = self._adopt(path, stored, seen)
                elif is_fresh:
                    return refused
                else:
                    current = await self._refreshed(path, is_final=True)
            elif is_fresh and entry.absence is not None:
                return Result(entry.absence)
            else:
                current = await self._refreshed(path, is_final=True)
            is_fresh = True
            if current is None:
                return Result(Verdict.MISSING)
            if current is not entry:
                return None
        raise Unavailable("another process was always faster")

    async def _store(self, entry: SharedEntry, append: Append, pieces: list[bytes]) -> Result | StoredState | None:
        """Ask storage for the write of an append that was judged good; the state when it is another one."""
        state = entry.judged
        if state is None:
            raise Unavailable("the state is not known")
        size = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))
        position, revision = state.tail, entry.revision + 1
        forgotten = accept(state, append, size, self._settings.producers)
        # From here on the state is ahead of storage. Unless the write is known to be stored, it is not used again.
        entry.judged = None
        if entry.inherited and (until := self._due(entry)) is not None:
            await self._holds.extend(entry, until)
        token, producer = self._token(), append.producer
        change = Change(
            entry.ref, entry.token, token, revision, state.tail, pieces, append.close, append.seq, producer, forgotten,
            is_first=position == entry.start,
        )  # fmt: skip
        stored = await self._backend.commit(change)
        if not isinstance(stored, Stored):
            return stored
        entry.judged, entry.token, entry.revision = state, token, revision
        entry.expires = stored.expires
        if revision > entry.seen:
            if pieces:
                self._recent.add(entry.recent, _placed(pieces, position))
            entry.show(revision, state.tail, closed=state.closed)
            entry.wake()
        if producer is not None:
            return Result(Verdict.STORED, state.tail, append.close, producer.epoch, producer.seq)
        return Result(Verdict.STORED, state.tail, append.close)

    # Deleting and touching

    async def delete(self, path: str) -> Result:
        """Free the stream's path; while forks need its data the path stays taken."""
        try:
            while True:
                entry = await self._refreshed(path)
                if entry is None or entry.absence is not None:
                    return Result(Verdict.MISSING if entry is None else Verdict.GONE)
                removed = await self._backend.remove(entry.ref)
                if removed.done:
                    break
            await self._holds.end(removed, path)
            await self._refreshed(path)
        except Unavailable:
            return Result(Verdict.FAILED)
        return Result(Verdict.DELETED)

    def touch(self, entry: SharedEntry) -> None:
        """Restart the TTL, because of a read. Storage gets a request only when its stored expiry is too early."""
        until = self._due(entry)
        if until is not None and entry.absence is None and not self.is_closing:
            entry.expires = until
            self._tasks.start("touch", self._touch(entry, until))

    def _due(self, entry: SharedEntry) -> int | None:
        """The time up to which a stream that is used now has to live, when storage may forget it earlier."""
        ttl = entry.stream.ttl
        if ttl is None:
            return None
        until = self._backend.now() + ttl * 1000
        return until if entry.expires is None or entry.expires < until else None

    async def _touch(self, entry: SharedEntry, until: int) -> None:
        try:
            if entry.inherited:
                await self._holds.extend(entry, until)
            expires = await self._backend.touch(entry.ref)
            if expires is not None:
                entry.expires = expires
        except Unavailable as error:
            entry.expires = None  # the next read tries again
            logger.warning("stream %s: its lifetime could not be renewed: %s", entry.ref.path, error)

    # Following

    def join(self, entry: SharedEntry) -> None:
        """A reader of `entry` waits."""
        self._following.join(entry)

    def leave(self, entry: SharedEntry) -> None:
        """It waits no more."""
        self._following.leave(entry)


def _existing(entry: SharedEntry, spec: Spec) -> tuple[Result, Stream | None]:
    """The answer to a create on a path that is taken."""
    view = entry.look()
    if view.absence is not None:
        return Result(Verdict.HELD_BY_FORKS), None
    verdict = Verdict.EXISTS if is_same(view, spec) else Verdict.DIFFERS
    return Result(verdict, view.tail, view.closed), view.stream


def _placed(pieces: list[bytes], position: int) -> list[tuple[int, bytes]]:
    """Pieces that follow each other from `position` on, each with its own."""
    placed: list[tuple[int, bytes]] = []
    for piece in pieces:
        placed.append((position, piece))
        position += len(piece)
    return placed
