"""What is read from the database, and the threads that read it: the event loop never waits for a disk.

Readers see only committed data. Readers and the writer never wait for each other (SQLite's write-ahead log).
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import apsw

from proxy.store.model import Fork, Piece, Spec, Stream, Verdict
from proxy.store.port import Unreadable
from proxy.store.rules import AppendState
from proxy.store.sqlite.schema import DUE, checksum, is_cut, open_for_reading
from proxy.store.sqlite.state import Entry, Segment

__all__ = ["ReadConnection", "ReadThreads"]

T = TypeVar("T")

_STREAM = """
    SELECT id, path, content_type, created, ttl, expires_at, expires, closed, last_seq,
           fork_path, fork_offset, fork_sub, source, start, deleted, length
    FROM streams WHERE """
# From position ?2 to position ?3. The first piece may begin before ?2, because it may contain it.
_PIECES = """
    SELECT position, continues, data, crc FROM pieces
    WHERE stream = ?1 AND position < ?3 AND position >=
        ifnull((SELECT max(position) FROM pieces WHERE stream = ?1 AND position <= ?2), ?2)
    ORDER BY position"""


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of `streams`."""

    id: int
    path: str | None  # None: removed
    content_type: str
    created: int
    ttl: int | None
    expires_at: str | None
    expires: int | None
    closed: int
    last_seq: str | None
    fork_path: str | None
    fork_offset: int | None
    fork_sub: int | None
    source: int | None
    start: int
    deleted: int
    length: int | None


class ReadConnection:
    """A connection that reads, used by one thread at a time. Each method may raise apsw.Error."""

    def __init__(self, path: Path) -> None:
        self._connection = open_for_reading(path)
        self._cursor = self._connection.cursor()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def rest(self) -> None:
        """Drop rows that were not fetched. They would keep a snapshot open, so that the log could not restart."""
        self._cursor.close()
        self._cursor = self._connection.cursor()

    def load(self, path: str, producers: int) -> Entry | None:
        """The stream at `path` with its latest `producers` producers; None when there is no such stream."""
        with self._snapshot():
            row = self._row("path = ?", path)
            if row is None:
                return None
            if row.path != path:
                raise Unreadable(f"stream {row.id} is damaged: its path is not the one it is found by")
            fork: Fork | None = None
            if row.fork_path is not None:
                fork = Fork(row.fork_path, row.fork_offset, row.fork_sub or 0)
            spec = Spec(row.content_type, row.ttl, row.expires_at, fork=fork)
            stream = Stream.of(row.id, path, spec, row.created)
            entry = Entry(stream, row.start, self._inherited(row.source, row.start))
            entry.expires = entry.expires_kept = row.expires
            state = entry.next = self._state(stream.media, row, producers)
            entry.show(state.tail, closed=state.closed)
            if row.deleted:
                entry.lose(Verdict.GONE)
            return entry

    def reload(self, entry: Entry, producers: int) -> AppendState | None:
        """The state on disk by which appends to the stream of `entry` are judged.

        None when the stream was removed; the commit that removed it changes the entry.
        """
        with self._snapshot():
            row = self._row("id = ?", entry.stream.id)
            return None if row is None else self._state(entry.stream.media, row, producers)

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        """Several statements see the same state."""
        self._cursor.execute("BEGIN")
        try:
            yield
        finally:
            self.rest()
            self._cursor.execute("COMMIT")

    def _row(self, condition: str, value: str | int) -> _Row | None:
        row = self._cursor.execute(_STREAM + condition, (value,)).fetchone()
        return None if row is None else _Row(*row)

    def _state(self, media: str, row: _Row, producers: int) -> AppendState:
        last = self._cursor.execute(
            "SELECT position + length(data) FROM pieces WHERE stream = ? ORDER BY position DESC LIMIT 1", (row.id,)
        ).fetchone()
        tail = row.start if last is None else last[0]
        if is_cut(row.closed, row.length, tail) and row.path is not None:
            raise Unreadable(f"stream {row.id} is damaged: it was closed at {row.length}, and ends at {tail}")
        known = self._cursor.execute(
            "SELECT producer, epoch, seq FROM producers WHERE stream = ? ORDER BY touched DESC LIMIT ?",
            (row.id, producers),
        ).fetchall()
        latest_last = {str(each): (epoch, seq) for each, epoch, seq in reversed(known)}
        return AppendState(media, tail, bool(row.closed), row.last_seq, latest_last)

    def _inherited(self, source: int | None, end: int) -> tuple[Segment, ...]:
        """The segments below `end` that a fork of `source` shares, in order."""
        segments: list[Segment] = []
        while source is not None and end > 0:
            found = self._cursor.execute("SELECT source, start FROM streams WHERE id = ?", (source,)).fetchone()
            if found is None:
                break
            parent, start = found
            if start < end:
                segments.append(Segment(source, start, end))
                end = start
            source = parent
        return tuple(reversed(segments))

    def pieces(self, segments: tuple[Segment, ...], position: int, size: int) -> list[Piece]:
        """What is stored from `position` on, until `size` bytes are reached. The first piece may begin before it.

        Returns no piece when one is missing: the sweep deletes the data of a removed stream in steps, from the front.
        Raises Unreadable for a stream that is damaged.
        """
        found: list[Piece] = []
        following = position
        with self._snapshot():
            for segment in segments:
                if segment.end <= following or size <= 0:
                    continue
                for start, _, data in self._rows(segment, following):
                    if start > following or (found and start < following) or start + len(data) <= following:
                        return self._missing(segment, following)
                    found.append((start, data))
                    following = start + len(data)
                    size -= len(data)
                    if size <= 0:
                        break
                if size > 0 and following < segment.end:
                    return self._missing(segment, following)
        return found

    def _missing(self, segment: Segment, position: int) -> list[Piece]:
        """There is nothing at `position`: nothing to read when the stream was removed, damage otherwise."""
        self._cursor.execute("SELECT 1 FROM streams WHERE id = ? AND path IS NOT NULL", (segment.stream,))
        if self._cursor.fetchone() is not None:
            raise Unreadable(f"stream {segment.stream} is damaged: the piece at {position} is missing")
        return []

    def _rows(self, segment: Segment, position: int) -> Iterator[tuple[int, int, bytes]]:
        """(position, continues, data) of a segment's pieces, the last one cut where the segment ends."""
        for start, continues, data, crc in self._cursor.execute(_PIECES, (segment.stream, position, segment.end)):
            if crc is not None and crc != checksum(segment.stream, start, continues, data):
                raise Unreadable(f"stream {segment.stream} is damaged: the piece at {start} is not what was stored")
            left = segment.end - start
            yield start, continues, data if len(data) <= left else data[:left]

    def boundary(self, segments: tuple[Segment, ...], position: int) -> int:
        """The first position from `position` on at which a piece ends."""
        for segment in segments:
            if segment.start < position <= segment.end:
                ((following,),) = self._cursor.execute(
                    "SELECT min(position) FROM pieces WHERE stream = ? AND position >= ?", (segment.stream, position)
                ).fetchall()
                return segment.end if following is None else min(cast(int, following), segment.end)
        return position

    def append_at(self, segments: tuple[Segment, ...], position: int) -> bytes:
        """The rest, from `position` on, of the append that contains `position`; b"" at the stream's end."""
        for segment in segments:
            if segment.start <= position < segment.end:
                parts: list[bytes] = []
                for start, continues, data in self._rows(segment, position):
                    if parts and not continues:
                        break
                    parts.append(data[max(0, position - start) :])
                return b"".join(parts)
        return b""

    def has_expired(self, due: tuple[int, int]) -> bool:
        """Whether a stream was due; `due` as in `Write.expires`."""
        return self._cursor.execute(DUE, (*due, 1)).fetchone() is not None

    def open_streams(self, after: str, count: int) -> list[str]:
        """Paths of at most `count` streams that are neither closed nor deleted, those after `after`, in order."""
        rows = self._cursor.execute(
            "SELECT path FROM streams WHERE path > ? AND NOT closed AND NOT deleted ORDER BY path LIMIT ?",
            (after, count),
        )
        return [str(path) for (path,) in rows.fetchall()]


class ReadThreads:
    """A few threads, each with a connection of its own."""

    def __init__(self, path: Path, threads: int) -> None:
        self._path = path
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="store-reader")
        self._idle: list[ReadConnection] = []

    async def run(self, work: Callable[[ReadConnection], T]) -> T:
        """Do `work` in a thread and return its result. Raises Unreadable.

        When the call is cancelled, the thread still finishes `work`, and its result is dropped.
        """
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._run, work)

    def _run(self, work: Callable[[ReadConnection], T]) -> T:
        try:
            try:
                reader = self._idle.pop()
            except IndexError:
                reader = ReadConnection(self._path)
            try:
                return work(reader)
            finally:
                reader.rest()
                self._idle.append(reader)
        except apsw.Error as error:
            raise Unreadable(str(error)) from error

    async def aclose(self) -> None:
        """Finish the work in progress, then close the connections."""
        await asyncio.to_thread(self._pool.shutdown)
        while self._idle:
            self._idle.pop().close()
