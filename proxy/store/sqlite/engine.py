"""The engine: streams, writes judged and queued, wake-ups. Lives in one event loop's thread.

An append is judged here, against what is in memory, before it is queued: the writer only stores. It is answered, and
readers see it, after its commit. What is not stored after all (no space, a broken disk) takes along what was judged
by it, and the state is read again from the database before the next append is judged.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import apsw

from proxy.base.tasks import Tasks
from proxy.store.outcomes import Outcome, Verdict
from proxy.store.rules import is_same, judge
from proxy.store.settings import StoreSettings
from proxy.store.sqlite import forks
from proxy.store.sqlite.reading import Piece, Readers, Unreadable
from proxy.store.sqlite.recent import RecentPieces
from proxy.store.sqlite.table import StreamTable
from proxy.store.sqlite.writer import Batch, Writer, WriterSettings
from proxy.store.sqlite.writing import Value, Write
from proxy.store.state import DEFAULT_TYPE, JSON_TYPE, Append, Segment, Spec, Stream, Watch, media_type

__all__ = ["Engine"]

logger = logging.getLogger(__name__)

_REFUSED = (Verdict.FULL, Verdict.FAILED)
_LAST_WORDS = 4096  # bytes that an append may bring with which its stream is closed, however full the store is
_APPENDS_LEAVE = 4  # appends go on until a quarter of the room is left that creates need


class Engine:
    """The streams of one database file. `wall` gives Unix time in seconds.

    Opening blocks for a few milliseconds and raises what `open_for_writing` does. A cancelled create, append or
    delete may or may not happen.
    """

    def __init__(self, path: Path, settings: StoreSettings, wall: Callable[[], float]) -> None:
        self._settings = settings
        self._wall = wall
        self._latest = 0
        self._loop = asyncio.get_running_loop()
        self._recent = RecentPieces(settings.tail_bytes, settings.tails_bytes)
        self._table = StreamTable(settings.streams, self._recent.drop)
        self._unsettled: dict[Stream, None] = {}  # those with writes on their way
        self._queue: list[Write] = []
        self._queued_bytes = 0  # of writes on their way
        self._refusal = Verdict.FAILED  # what writes get that fail along with the first
        limits = WriterSettings(
            settings.checkpoint_bytes, settings.vacuum_bytes, settings.sweep_rows, settings.sweep_bytes
        )
        self._writer = Writer(path, limits, self._settle)
        self._readers = Readers(path, settings.reader_threads)
        self._last_id = self._writer.last_id
        self.is_closing = False
        self._tasks = Tasks("store")
        self._tasks.start("sweep", self._sweep())

    async def aclose(self) -> None:
        """Finish what was queued; parked readers get their end. Nothing is left running."""
        self.is_closing = True
        await self._tasks.aclose()
        for stream in self._table:
            stream.wake()
        self._hand_over()
        await self._readers.aclose()
        await self._writer.aclose()

    def now(self) -> int:
        """Unix time in milliseconds. Never goes back: what has expired stays expired when the clock is set."""
        self._latest = max(self._latest, int(self._wall() * 1000))
        return self._latest

    # Finding

    async def find(self, path: str) -> Stream | None:
        """The stream at `path`, which may be one deleted that its forks hold; None when there is none."""
        while True:
            stream = self._table.get(path)
            if stream is None:
                await self._table.opened(path)
                if self._table.get(path) is None and not await self._load(path):
                    return None
            elif stream.deleted or not stream.is_expired(self.now()):
                return stream
            elif stream.removing:
                await self._decided(stream)
            elif (await self.delete(stream)).verdict in _REFUSED:
                return None

    async def _load(self, path: str) -> bool:
        """Bring the stream at `path` into memory; False when there is none."""
        self._table.begin(path)
        stream = None
        try:
            stream = await self._readers.run(lambda reader: reader.load(path, self._settings.producers))
        finally:
            is_current = self._table.end(path)
            if stream is not None and is_current:
                self._table.put(stream)
        return stream is not None

    async def open_streams(self, after: str, count: int) -> list[str]:
        """Paths of at most `count` open streams, those after `after`, in order; what expired is not looked at."""
        return await self._readers.run(lambda reader: reader.open_streams(after, count))

    # Creating

    async def create(
        self, path: str, spec: Spec, cut: Callable[[bool], Awaitable[list[bytes]]]
    ) -> tuple[Outcome, Stream | None]:
        """Create a stream with the pieces that `cut(is_json)` gives; the stream when it was created or exists.

        Raises what `cut` does. The content type may be left out for a fork only.
        """
        while True:
            await self._table.opened(path)
            stream = self._table.get(path)
            if stream is not None or spec.fork is not None:
                stream = await self.find(path)
                if stream is None and self._table.get(path) is not None:
                    return Outcome(self._refusal), None  # it has expired, and cannot be removed
            if stream is not None and stream.deleted:
                return Outcome(Verdict.HELD_BY_FORKS), None
            if stream is not None:
                if (stream.removing or stream.next_closed != stream.closed) and not await self._decided(stream):
                    continue
                if stream.gone:
                    continue
                verdict = Verdict.EXISTS if is_same(stream, spec) else Verdict.DIFFERS
                return Outcome(verdict, stream.tail, stream.closed), stream
            outcome, stream = await self._create_new(path, spec, cut)
            if outcome.verdict is not Verdict.EXISTS:
                return outcome, stream
            await self.find(path)

    async def _create_new(
        self, path: str, spec: Spec, cut: Callable[[bool], Awaitable[list[bytes]]]
    ) -> tuple[Outcome, Stream | None]:
        """Create a stream that is not in memory. EXISTS when the database has it after all."""
        source: Stream | None = None
        start = 0
        if spec.fork is not None:
            source = await self.find(spec.fork.path)
            if source is None:
                return Outcome(Verdict.SOURCE_MISSING), None
            refused = forks.refusal(source, spec, spec.fork)
            if refused is not None:
                return Outcome(refused), None
            offset = source.tail if spec.fork.offset is None else spec.fork.offset
            branch = forks.Branch(source.segments(source.tail), offset, spec.fork.sub, source.is_json)
            place = await self._readers.run(branch.resolve)
            if place is None:
                return Outcome(Verdict.BAD_FORK), None
            start = place
            spec = replace(forks.inherited_spec(source, spec), fork=replace(spec.fork, offset=offset))
        pieces = await cut(media_type(spec.content_type or DEFAULT_TYPE) == JSON_TYPE)
        await self._table.opened(path)
        if self._table.get(path) is not None:
            return Outcome(Verdict.EXISTS), None
        stream = Stream(self._last_id + 1, path, spec, self.now())
        size = sum(map(len, pieces))
        if self._is_full(size, self._settings.min_free_bytes):
            return Outcome(Verdict.EXISTS if await self._load(path) else Verdict.FULL), None
        self._last_id += 1
        stream.start = stream.tail = stream.next_tail = start
        if source is not None:
            stream.inherited = forks.inherited(source, start)
        stream.expires = stream.expires_kept = spec.expires
        stream.touch(stream.created)
        write = self._append_to(stream, Append(pieces, size, None))
        write.outcome = Outcome(Verdict.CREATED, stream.next_tail, spec.closed)
        write.creation = _row(stream, spec, source)
        stream.next_closed = spec.closed
        self._table.begin(path)
        return await self._enqueue(write), stream

    # Appending

    async def append(self, stream: Stream, append: Append) -> Outcome:
        """Store `append`, closing the stream with it if it says so; or say why not."""
        while True:
            if stream.suspect is not None:
                await self._reload(stream)
            elif stream.gone or stream.deleted:
                return Outcome(Verdict.GONE if stream.deleted else Verdict.MISSING)
            elif stream.removing:
                await self._decided(stream)
            else:
                outcome = judge(stream, append)
                if outcome is None:
                    break
                if await self._decided(stream):
                    return outcome
        # Closing is always possible; and what frees room, which needs some itself, while appends leave it some.
        allowed = _LAST_WORDS if append.close else 0
        if append.size > allowed and self._is_full(append.size, self._settings.min_free_bytes // _APPENDS_LEAVE):
            return Outcome(Verdict.FULL)
        return await self._enqueue(self._append_to(stream, append))

    def _append_to(self, stream: Stream, append: Append) -> Write:
        """The write of an append that was judged good; what comes next is judged by the state after it."""
        position = stream.next_tail
        values: list[Value] = []
        cached: list[Piece] = []
        for piece in append.pieces:
            values += (stream.id, position, 1 if cached else 0, piece)
            cached.append((position, piece))
            position += len(piece)
        stream.next_tail = position
        write = Write(stream, tuple(values), cached=tuple(cached), size=append.size)
        now = self.now()
        if append.producer is not None:
            producer = append.producer
            if stream.producers.pop(producer.id, None) is None and len(stream.producers) >= self._settings.producers:
                oldest = next(iter(stream.producers))
                del stream.producers[oldest]
                write.forgets = (stream.id, oldest)
            stream.producers[producer.id] = (producer.epoch, producer.seq)
            write.producer = (stream.id, producer.id, producer.epoch, producer.seq, now)
            write.outcome = Outcome(Verdict.STORED, position, append.close, producer.epoch, producer.seq)
        else:
            write.outcome = Outcome(Verdict.STORED, position, append.close)
        expires = stream.touch(now)
        if append.close or append.seq is not None or expires is not None:
            write.state = (int(append.close), append.seq, expires, stream.id)
        if append.seq is not None:
            stream.last_seq = append.seq
        if append.close:
            stream.next_closed = True
        return write

    def has_room(self) -> bool:
        """Whether a stream could be created now."""
        return not self._is_full(0, self._settings.min_free_bytes)

    def _is_full(self, size: int, reserve: int) -> bool:
        """Whether `size` bytes more would be too many, for the database or for a disk that keeps `reserve` free."""
        coming = self._queued_bytes + size
        limit = self._settings.max_bytes
        is_full = 0 < limit < self._writer.used + coming or (reserve > 0 and self._writer.free - coming < reserve)
        if is_full:
            self._writer.look()  # there may be room again: nothing else would find out while all are refused
        return is_full

    async def _reload(self, stream: Stream) -> None:
        """Read the state of a stream whose writes failed from the database."""
        mark = stream.suspect
        apply = await self._readers.run(lambda reader: reader.reload(stream, self._settings.producers))
        if stream.suspect is mark:
            apply()
            stream.suspect = None

    async def _decided(self, stream: Stream) -> bool:
        """Wait until what was queued for `stream` is settled; whether all of it was stored."""
        queued, failures = stream.queued, stream.failures
        watch = Watch(stream)
        while stream.settled < queued:
            await watch.wait(None)
        return stream.failures == failures

    async def delete(self, stream: Stream) -> Outcome:
        """Free the stream's path; while forks need its data the path stays taken."""
        stream.removing = True
        return await self._enqueue(Write(stream, removes=stream.id, outcome=Outcome(Verdict.DELETED)))

    def touch(self, stream: Stream) -> None:
        """Somebody reads: a TTL starts again."""
        expires = stream.touch(self.now())
        if expires is not None:
            self._enqueue(Write(stream, state=(0, None, expires, stream.id)))

    # Reading

    async def read(self, stream: Stream, position: int, end: int, size: int) -> list[Piece]:
        """Pieces from `position` up to `end` until `size` bytes are reached; none when the stream was removed.

        In JSON mode the first piece is whole, even where `position` is inside it. Raises Unreadable.
        """
        if stream.gone:
            return []
        found = self._recent.find(stream, position, size)
        if found is None:
            segments = stream.segments(end)
            found = await self._readers.run(lambda reader: reader.pieces(segments, position, size))
        while found and found[-1][0] >= end:
            found.pop()
        if found:
            start, data = found[-1]
            if start + len(data) > end:
                found[-1] = (start, data[: end - start])
            start, data = found[0]
            if start < position and not stream.is_json:
                found[0] = (position, data[position - start :])
        return found

    async def boundary(self, stream: Stream, position: int) -> int:
        """The first place from `position` on where a piece ends."""
        segments: tuple[Segment, ...] = stream.segments(stream.tail)
        return await self._readers.run(lambda reader: reader.boundary(segments, position))

    # Writing

    def _enqueue(self, write: Write) -> "asyncio.Future[Outcome]":
        """Queue `write` for the next commit: all that comes in one turn of the loop is handed over at once."""
        stream = write.stream
        write.done = self._loop.create_future()
        if self.is_closing:
            write.done.set_result(Outcome(Verdict.FAILED))
            return write.done
        if stream is not None:
            stream.queued += 1
            self._unsettled[stream] = None
        if not self._queue:
            self._loop.call_soon(self._hand_over)
        self._queue.append(write)
        self._queued_bytes += write.size
        return write.done

    def _hand_over(self) -> None:
        if self._queue:
            queue, self._queue = self._queue, []
            self._writer.put(queue)

    def _settle(self, batch: Batch) -> None:
        """A batch was committed, or failed: tell who waits."""
        if batch.is_first:
            self._refuse_all(batch.error)
        changed: dict[Stream, None] = {}
        for write in batch.writes:
            self._queued_bytes -= write.size
            outcome = write.outcome
            if batch.error is not None:
                outcome = Outcome(self._refusal)
            stream = write.stream
            if stream is not None:
                stream.settled += 1
                if stream.settled == stream.queued:
                    del self._unsettled[stream]
                changed[stream] = None
            if batch.error is None:
                self._stored(write, changed)
            elif write.removes is not None and stream is not None:
                stream.removing = False
            if stream is not None and write.creation:
                self._created(stream, outcome)
            if write.done is not None and not write.done.done() and outcome is not None:
                write.done.set_result(outcome)
        for stream in changed:
            stream.wake()

    def _stored(self, write: Write, changed: dict[Stream, None]) -> None:
        """What was committed becomes visible."""
        stream, outcome = write.stream, write.outcome
        if stream is not None and outcome is not None and outcome.verdict in (Verdict.STORED, Verdict.CREATED):
            stream.tail = outcome.position
            if outcome.closed:
                stream.closed = True
            if write.cached:
                self._recent.add(stream, write.cached)
        for path, is_free in write.removed:
            removed = self._table.removed(path) if is_free else self._table.get(path)
            if removed is not None:
                removed.gone, removed.deleted, removed.removing = is_free, not is_free, False
                self._recent.drop(removed)
                changed[removed] = None

    def _created(self, stream: Stream, outcome: Outcome | None) -> None:
        self._table.end(stream.path)
        if outcome is not None and outcome.verdict is Verdict.CREATED:
            self._table.put(stream)

    def _refuse_all(self, error: Exception | None) -> None:
        """A commit failed: so does all that is on its way, for it was judged by a state that never came to be."""
        self._refusal = Verdict.FULL if isinstance(error, apsw.FullError) else Verdict.FAILED
        self._hand_over()
        self._writer.resume()
        for stream in self._unsettled:
            stream.suspect = object()
            stream.failures += 1
            if stream.expires_kept is not None:
                stream.expires_kept = 0

    async def _sweep(self) -> None:
        """Remove what has expired, some at a time."""
        while True:
            await asyncio.sleep(self._settings.sweep_seconds)
            now = self.now()
            try:
                while await self._readers.run(lambda reader: reader.has_expired(now)):  # noqa: B023  # awaited at once
                    if await self._expire(now) in _REFUSED:
                        break
            except Unreadable as error:
                logger.warning("expired streams could not be looked up: %s", error)

    async def _expire(self, now: int) -> Verdict:
        return (await self._enqueue(Write(expires=now, outcome=Outcome(Verdict.DELETED)))).verdict


def _row(stream: Stream, spec: Spec, source: Stream | None) -> tuple[Value, ...]:
    """A creation as a row of the database."""
    fork = spec.fork
    return (
        stream.id, stream.path, stream.content_type, stream.created, stream.ttl, stream.expires_at,
        stream.expires_kept, int(spec.closed),
        fork.path if fork else None, fork.offset if fork else None, fork.sub if fork else None,
        source.id if source else None, stream.start,
    )  # fmt: skip
