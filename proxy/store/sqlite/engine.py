"""The engine on SQLite: the port's `Engine`. Owns how an operation is judged and which write it becomes.

`table` holds what is in memory, `commits` what is on its way to the disk; `writing` and `reading` are the disk.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import apsw

from proxy.base.tasks import Tasks
from proxy.store.model import JSON_TYPE, Append, Content, Piece, Result, Spec, Stream, Verdict, media_type
from proxy.store.port import StoreUnusable, Unreadable
from proxy.store.recent import RecentPieces
from proxy.store.rules import accept, fork_offset, inherited_spec, is_same, judge
from proxy.store.settings import StoreSettings
from proxy.store.sqlite.clock import StoreClock
from proxy.store.sqlite.commits import Commits
from proxy.store.sqlite.forks import Branch, inherited
from proxy.store.sqlite.lock import DirectoryLock
from proxy.store.sqlite.reader import SqliteReader
from proxy.store.sqlite.reading import ReadThreads
from proxy.store.sqlite.state import Entry
from proxy.store.sqlite.table import StreamTable
from proxy.store.sqlite.writing import Value, Write

__all__ = ["DATABASE", "SqliteEngine", "open_engine"]

logger = logging.getLogger(__name__)

DATABASE = "streams.db"
_REFUSED = (Verdict.FULL, Verdict.FAILED)
_CLOSING_BYTES = 4096  # an append that closes its stream may bring so much even when the store is full
_APPENDS_LEAVE = 4  # appends are refused when a quarter is left of the free space that creates need


class SqliteEngine:
    """The streams of one directory, which `lock` holds."""

    def __init__(self, directory: Path, lock: DirectoryLock, settings: StoreSettings, clock: StoreClock) -> None:
        """Open the database; blocks for some milliseconds and raises what `open_for_writing` does.

        The engine then owns `lock`, and releases it in `aclose`.
        """
        path = directory / DATABASE
        self._settings = settings
        self._clock = clock
        self._recent = RecentPieces(settings.tail_bytes, settings.tails_bytes)
        self._table = StreamTable(settings.streams, lambda entry: self._recent.drop(entry.recent))
        self._commits = Commits(path, settings, self._table, self._recent)
        self.threads = ReadThreads(path, settings.reader_threads)
        self._last_id = self._commits.last_id
        self._lock = lock
        self.is_closing = False
        self._tasks = Tasks("store")
        self._tasks.start("sweep", self._sweep())

    async def aclose(self) -> None:
        """Store what was queued, end every wait, release the directory. Nothing is left running."""
        self.is_closing = True
        await self._tasks.aclose()
        for entry in self._table:
            entry.wake()
        await self.threads.aclose()
        await self._commits.aclose()
        self._lock.release()

    def now(self) -> int:
        """Unix time in milliseconds, by which lifetimes are measured."""
        return self._clock.now()

    # Finding

    async def find(self, path: str) -> SqliteReader | None:
        """A reader of the stream at `path`; None when there is none."""
        entry = self._table.get(path)
        if entry is None or not self._is_current(entry):
            entry = await self._find(path)
            if entry is None:
                return None
        return SqliteReader(entry, self)

    def _is_current(self, entry: Entry) -> bool:
        """Whether `entry` can be used as it is. An expired stream cannot: it must be removed first."""
        clock, expires = self._clock, entry.expires
        if expires is None or entry.absence is not None:
            return True
        return expires > (clock.now() if entry.stream.ttl is not None else clock.date())

    async def _find(self, path: str) -> Entry | None:
        """The entry of the stream at `path`, which may be a deleted stream with forks; None when there is none.

        An expired stream is removed here, because the sweep may come too late.
        """
        while True:
            entry = self._table.get(path)
            if entry is None:
                await self._table.opened(path)
                if self._table.get(path) is None and not await self._load(path):
                    return None
            elif self._is_current(entry):
                return entry
            elif entry.removing:
                if not await self._commits.decided(entry) and self._commits.is_stalled:
                    raise Unreadable("the disk does not answer")
            elif (await self._remove(entry)).verdict in _REFUSED:
                return None

    async def _load(self, path: str) -> bool:
        """Bring the stream at `path` into memory; False when there is none."""
        self._table.begin(path)
        entry = None
        try:
            entry = await self.threads.run(lambda connection: connection.load(path, self._settings.producers))
        finally:
            is_current = self._table.end(path)
            if entry is not None and is_current:
                entry.bound_expiry(self.now())
                self._table.put(entry)
        return entry is not None

    async def open_streams(self, after: str, count: int) -> list[str]:
        """Paths of at most `count` open streams, those after `after`, in order; some may have expired."""
        return await self.threads.run(lambda connection: connection.open_streams(after, count))

    # Creating

    async def create(self, path: str, spec: Spec, content: Content) -> tuple[Result, Stream | None]:
        """Create a stream that starts with `content`."""
        while True:
            if self._commits.is_stalled:
                return Result(Verdict.FAILED), None
            await self._table.opened(path)
            entry = self._table.get(path)
            if entry is not None or spec.fork is not None:
                entry = await self._find(path)
                if entry is None and self._table.get(path) is not None:
                    return Result(self._commits.refusal), None  # it has expired, but could not be removed
            if entry is not None and entry.absence is Verdict.GONE:
                return Result(Verdict.HELD_BY_FORKS), None
            if entry is not None:
                is_undecided = entry.removing or entry.next.closed != entry.closed
                if is_undecided and not await self._commits.decided(entry):
                    continue
                view = entry.look()
                if view.absence is not None:
                    continue
                verdict = Verdict.EXISTS if is_same(view, spec) else Verdict.DIFFERS
                return Result(verdict, view.tail, view.closed), view.stream
            result, stream = await self._create_new(path, spec, content)
            if result.verdict is not Verdict.EXISTS:
                return result, stream
            await self._find(path)

    async def _create_new(self, path: str, spec: Spec, content: Content) -> tuple[Result, Stream | None]:
        """Create a stream that is not in memory. EXISTS when it is in the database."""
        source: Entry | None = None
        start = 0
        if spec.fork is not None:
            source = await self._find(spec.fork.path)
            place = await self._branch(source, spec)
            if isinstance(place, Verdict) or source is None:
                return Result(place if isinstance(place, Verdict) else Verdict.SOURCE_MISSING), None
            start, offset = place
            spec = replace(inherited_spec(source.stream, source.expires, spec), fork=replace(spec.fork, offset=offset))
        is_json = media_type(spec.content_type or "") == JSON_TYPE
        pieces = await content.cut(is_json=is_json) if content.size else []
        await self._table.opened(path)
        if self._table.get(path) is not None:
            return Result(Verdict.EXISTS), None
        size = sum(map(len, pieces))
        if self._commits.is_full(size, self._settings.min_free_bytes):
            return Result(Verdict.EXISTS if await self._load(path) else Verdict.FULL), None
        self._last_id += 1
        stream = Stream.of(self._last_id, path, spec, self.now())
        entry = Entry(stream, start, () if source is None else inherited(source, start))
        entry.expires = entry.expires_kept = spec.expires
        entry.touch(stream.created)
        write = _write(entry, pieces, size)
        entry.next.tail += size
        entry.next.closed = spec.closed
        write.result = Result(Verdict.CREATED, entry.next.tail, spec.closed)
        write.creation = _row(entry, spec.closed, source)
        self._table.begin(path)
        return await self._commits.put(write), stream

    async def _branch(self, source: Entry | None, spec: Spec) -> tuple[int, int] | Verdict:
        """The position at which a fork of `source` begins, and its offset; or why it cannot be made."""
        if source is None or spec.fork is None:
            return Verdict.SOURCE_MISSING
        view = source.look()
        offset = fork_offset(view, spec, spec.fork)
        if isinstance(offset, Verdict):
            return offset
        branch = Branch(source.segments(view.tail), offset, spec.fork.sub, source.stream.is_json)
        place = await branch.resolve(self.threads)
        return Verdict.BAD_FORK if place is None else (place, offset)

    # Appending

    async def append(self, path: str, append: Append) -> Result:
        """Store `append`, and close the stream if it says so; or say why not."""
        entry = self._table.get(path)
        if entry is None or not self._is_current(entry):
            entry = await self._find(path)
            if entry is None:
                return Result(Verdict.MISSING)
        pieces: list[bytes] = []
        content, stream = append.content, entry.stream
        if content.size:
            pieces = await content.cut(is_json=stream.is_json and append.media == stream.media)
        while True:
            if self._commits.is_stalled:
                return Result(Verdict.FAILED)
            if entry.suspect is not None:
                await self._reload(entry)
            elif (absence := entry.absence) is not None:
                return Result(absence)
            elif entry.removing:
                await self._commits.decided(entry)
            else:
                result = judge(entry.next, append)
                if result is None:
                    break
                if await self._commits.decided(entry):
                    return result
        size = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))
        # Closing works even on a full disk. So does deleting, which frees room but needs some itself: that is the part
        # of the reserve that appends leave.
        allowed = _CLOSING_BYTES if append.close else 0
        if size > allowed and self._commits.is_full(size, self._settings.min_free_bytes // _APPENDS_LEAVE):
            return Result(Verdict.FULL)
        return await self._commits.put(self._accepted(entry, append, pieces, size))

    def _accepted(self, entry: Entry, append: Append, pieces: list[bytes], size: int) -> Write:
        """The write of an append that `judge` accepted. The next append is judged by the state after it."""
        write = _write(entry, pieces, size)
        state, number, now = entry.next, entry.stream.id, self.now()
        forgotten = accept(state, append, size, self._settings.producers)
        producer = append.producer
        if producer is not None:
            write.producer = (number, producer.id, producer.epoch, producer.seq, now)
            write.result = Result(Verdict.STORED, state.tail, append.close, producer.epoch, producer.seq)
        else:
            write.result = Result(Verdict.STORED, state.tail, append.close)
        if forgotten is not None:
            write.forgets = (number, forgotten)
        expires = entry.touch(now)
        if append.close or append.seq is not None or expires is not None:
            write.state = (int(append.close), append.seq, expires, state.tail if append.close else None, number)
        return write

    def has_room(self) -> bool:
        """Whether a stream could be created now."""
        return not self._commits.is_stalled and not self._commits.is_full(0, self._settings.min_free_bytes)

    async def _reload(self, entry: Entry) -> None:
        """After a failed commit: read from the database the state by which appends are judged."""
        mark = entry.suspect
        state = await self.threads.run(lambda connection: connection.reload(entry, self._settings.producers))
        if entry.suspect is mark:  # no other commit has failed meanwhile
            if state is not None:
                entry.next = state
            entry.suspect = None

    # Deleting, touching, expiring

    async def delete(self, path: str) -> Result:
        """Delete the stream at `path`. While forks need its data, the path stays taken."""
        entry = await self._find(path)
        if entry is None or entry.absence is not None:
            return Result(Verdict.MISSING if entry is None else Verdict.GONE)
        return await self._remove(entry)

    def _remove(self, entry: Entry) -> "asyncio.Future[Result]":
        entry.removing = True
        return self._commits.put(Write(entry, removes=entry.stream.id, result=Result(Verdict.DELETED)))

    def keep(self, entry: Entry, expires: int) -> None:
        """Store `expires` (Unix milliseconds) as the time when the stream of `entry` expires."""
        self._commits.put(Write(entry, state=(0, None, expires, None, entry.stream.id)))

    async def _sweep(self) -> None:
        """Remove expired streams from time to time, a bounded number in each transaction."""
        while True:
            await asyncio.sleep(self._settings.sweep_seconds)
            due = self._clock.now(), self._clock.date()
            try:
                while await self.threads.run(lambda connection: connection.has_expired(due)):  # noqa: B023  # awaited at once
                    if await self._expire(due) in _REFUSED:
                        break
            except Unreadable as error:
                logger.warning("sweep of expired streams failed: %s (the next one follows)", error)

    async def _expire(self, due: tuple[int, int]) -> Verdict:
        return (await self._commits.put(Write(expires=due, result=Result(Verdict.DELETED)))).verdict


def _write(entry: Entry, pieces: list[bytes], size: int) -> Write:
    """The write of `pieces` at the end of a stream."""
    number, position = entry.stream.id, entry.next.tail
    if len(pieces) == 1:
        return Write(entry, (number, position, 0, pieces[0]), cached=((position, pieces[0]),), size=size)
    values: list[Value] = []
    cached: list[Piece] = []
    for piece in pieces:
        values += (number, position, 1 if cached else 0, piece)
        cached.append((position, piece))
        position += len(piece)
    return Write(entry, tuple(values), cached=tuple(cached), size=size)


def _row(entry: Entry, closed: bool, source: Entry | None) -> tuple[Value, ...]:
    """The row of `streams` for a new stream."""
    stream, fork = entry.stream, entry.stream.fork
    return (
        stream.id, stream.path, stream.content_type, stream.created, stream.ttl, stream.expires_at,
        entry.expires_kept, int(closed),
        fork.path if fork else None, fork.offset if fork else None, fork.sub if fork else None,
        source.stream.id if source else None, entry.start, entry.next.tail if closed else None,
    )  # fmt: skip


def open_engine(
    directory: Path, settings: StoreSettings, wall: Callable[[], float], ticks: Callable[[], float]
) -> SqliteEngine:
    """The engine over the database in `directory`, which is made when absent and belongs to this process until the end.

    `wall` and `ticks` as for `StoreClock`. Raises StoreUnusable.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = DirectoryLock(directory)
        try:
            return SqliteEngine(directory, lock, settings, StoreClock(wall, ticks))
        except BaseException:
            lock.release()
            raise
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        raise StoreUnusable(f"{place}{error.strerror or error}") from error
    except apsw.Error as error:
        raise StoreUnusable(str(error)) from error
