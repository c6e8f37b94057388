"""Writes: what they consist of, and the SQL that stores many of them in one transaction. Runs in the writer's thread.

The engine has judged every write before it comes here. The database decides only whether a path is free, and whether a
stream has forks.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import apsw

from proxy.store.model import Piece, Result, Verdict
from proxy.store.sqlite.schema import DUE, checksum, open_for_writing
from proxy.store.sqlite.state import Entry

__all__ = ["Database", "Value", "Write"]

Value = int | str | bytes | None

_LARGEST_RUN = 32  # rows stored by one statement
_EXPIRED_AT_ONCE = 256


@dataclass(slots=True)
class Write:
    """What one operation changes, as the parameters of the statements that change it."""

    entry: Entry | None = None
    """The stream that is written; None for a sweep of expired streams."""
    pieces: tuple[Value, ...] = ()
    """(stream, position, continues, data) of each piece, all in one flat tuple."""
    producer: tuple[Value, ...] = ()
    """(stream, producer, epoch, seq, touched) of the producer that appended."""
    forgets: tuple[Value, ...] = ()
    """(stream, producer) of the producer that is forgotten to make room for `producer`."""
    state: tuple[Value, ...] = ()
    """(closed, last_seq, expires, length, id): the changes in the stream's row."""
    creation: tuple[Value, ...] = ()
    """The row of a new stream. When its path is taken, nothing of this write is stored."""
    removes: int | None = None
    """The number of a stream to remove."""
    expires: tuple[int, int] | None = None
    """Unix times in milliseconds, for lifetimes and for dates: streams that were due by then are removed."""
    removed: tuple[tuple[str, bool], ...] = ()
    """Filled in by the database: the path of each removed stream, and whether that path is free. It is not free when
    the stream has forks; the stream is then only marked as deleted."""
    cached: tuple[Piece, ...] = ()
    """The pieces once more, for the readers in memory."""
    size: int = 0
    """Bytes of `pieces`."""
    result: Result | None = None
    """The operation's answer when the write is on disk."""
    done: asyncio.Future[Result] | None = None
    """Gets the answer."""


class _Bulk:
    """An INSERT of any number of rows. There is one statement for each number of rows up to the largest run, so that
    all of them stay prepared.

    Each statement releases the interpreter's lock and takes it again. So one statement for many rows is faster than
    many for one row. Use INSERT OR ROLLBACK: a statement that can fail without ending the transaction first saves every
    page that it changes, which doubles its cost.
    """

    def __init__(self, head: str, width: int, tail: str = "") -> None:
        row = f"({','.join('?' * width)})"
        self._size = width * _LARGEST_RUN
        self._statements = {
            width * count: f"{head} VALUES {','.join([row] * count)} {tail}" for count in range(1, _LARGEST_RUN + 1)
        }

    def run(self, cursor: apsw.Cursor, values: list[Value]) -> None:
        for start in range(0, len(values), self._size):
            run = values[start : start + self._size]
            cursor.execute(self._statements[len(run)], run)


_ADD_PIECES = _Bulk("INSERT OR ROLLBACK INTO pieces (stream, position, continues, data, crc)", 5)
_SET_PRODUCERS = _Bulk(
    "INSERT OR ROLLBACK INTO producers (stream, producer, epoch, seq, touched)",
    5,
    "ON CONFLICT DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq, touched = excluded.touched",
)
_SET_STATE = """
    UPDATE streams SET closed = max(closed, ?), last_seq = ifnull(?, last_seq), expires = ifnull(?, expires),
        length = ifnull(?, length)
    WHERE id = ? AND path IS NOT NULL"""
_CREATE = """
    INSERT INTO streams (id, path, content_type, created, ttl, expires_at, expires, closed,
                         fork_path, fork_offset, fork_sub, source, start, length)
    VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (path) DO NOTHING"""
_SOURCE = 11  # its place in a creation's row
_PIECES_OF = "SELECT id, length(data) FROM pieces WHERE stream = ? LIMIT ?"
_SWEEP_PRODUCERS = """
    DELETE FROM producers
    WHERE stream = ? AND producer IN (SELECT producer FROM producers WHERE stream = ? LIMIT ?)"""


def _add_sums(given: tuple[Value, ...], rows: list[Value]) -> None:
    """Add the pieces of a write to `rows`, each with its checksum: here, because the event loop has no time for it."""
    values = cast(tuple[int, int, int, bytes], given)
    if len(given) == 4:
        rows += (*given, checksum(*values))
        return
    for at in range(0, len(given), 4):
        values = cast(tuple[int, int, int, bytes], given[at : at + 4])
        rows += (*values, checksum(*values))


class Database:
    """The connection that writes. Every method may raise apsw.Error; then nothing has changed."""

    def __init__(self, path: Path) -> None:
        self._connection = open_for_writing(path)
        self._cursor = self._connection.cursor()
        self.page_bytes = self._number("page_size")
        self.log_pages = 0
        self._connection.set_wal_hook(self._committed)
        self.has_garbage = self._first("SELECT 1 FROM streams WHERE path IS NULL LIMIT 1") is not None

    def close(self) -> None:
        """Move the log into the database, and close the connection."""
        self._connection.close()

    def _committed(self, connection: apsw.Connection, name: str, pages: int) -> int:
        self.log_pages = pages
        return apsw.SQLITE_OK

    def _number(self, pragma: str) -> int:
        return cast(int, self._connection.pragma(pragma))

    def _first(self, statement: str, *values: Value) -> tuple[Value, ...] | None:
        rows = self._cursor.execute(statement, values).fetchall()
        return cast(tuple[Value, ...], rows[0]) if rows else None

    def last_id(self) -> int:
        """The highest stream number in use."""
        return cast(int, self._cursor.execute("SELECT ifnull(max(id), 0) FROM streams").fetchall()[0][0])

    def used_bytes(self) -> int:
        """Bytes of the database file that are in use. Free pages do not count, because they are reused."""
        return (self._number("page_count") - self._number("freelist_count")) * self.page_bytes

    def store(self, writes: list[Write]) -> None:
        """Commit all of `writes` or, when this raises, none."""
        cursor = self._cursor
        cursor.execute("BEGIN IMMEDIATE")
        try:
            pieces: list[Value] = []
            producers: list[Value] = []
            for write in writes:
                if write.creation and not self._create(write):
                    continue
                _add_sums(write.pieces, pieces)
                if write.forgets:  # in order, because a producer that is forgotten in this batch may append again in it
                    _SET_PRODUCERS.run(cursor, producers)
                    producers.clear()
                    cursor.execute("DELETE FROM producers WHERE stream = ? AND producer = ?", write.forgets)
                producers += write.producer
            _ADD_PIECES.run(cursor, pieces)
            _SET_PRODUCERS.run(cursor, producers)
            for write in writes:
                if write.state:
                    cursor.execute(_SET_STATE, write.state)
                if write.removes is not None:
                    self._remove(write.removes, write)
                if write.expires is not None:
                    self._expire(write.expires, write)
            cursor.execute("COMMIT")
        except BaseException:
            self.roll_back()
            raise

    def roll_back(self) -> None:
        """End the transaction, if SQLite has not done so itself."""
        if self._connection.in_transaction:
            self._cursor.execute("ROLLBACK")

    def _create(self, write: Write) -> bool:
        source = write.creation[_SOURCE]
        if source is not None:
            row = self._first("SELECT deleted OR path IS NULL FROM streams WHERE id = ?", source)
            if row is None or row[0]:
                write.result = Result(Verdict.SOURCE_MISSING)
                return False
        self._cursor.execute(_CREATE, write.creation)
        if not self._connection.changes():
            write.result = Result(Verdict.EXISTS)
            return False
        if source is not None:
            self._cursor.execute("UPDATE streams SET forks = forks + 1 WHERE id = ?", (source,))
        return True

    def _expire(self, due: tuple[int, int], write: Write) -> None:
        """Remove streams that are due, a bounded number at once."""
        rows = self._cursor.execute(DUE, (*due, _EXPIRED_AT_ONCE))
        for (number,) in rows.fetchall():
            self._remove(cast(int, number), write)

    def _remove(self, number: int, write: Write) -> None:
        """Free a stream's path, and leave its data to the sweep. A stream with forks is only marked as deleted.

        A deleted source is removed with its last fork. The source may be a fork itself, so this goes up the chain.
        """
        doomed: Value = number
        while isinstance(doomed, int):
            row = self._first("SELECT path, source, forks FROM streams WHERE id = ? AND path IS NOT NULL", doomed)
            if row is None:
                return
            path, source, forks = row
            write.removed += ((str(path), not forks),)
            if forks:
                self._cursor.execute("UPDATE streams SET deleted = 1, expires = NULL WHERE id = ?", (doomed,))
                return
            self._cursor.execute("UPDATE streams SET path = NULL, expires = NULL WHERE id = ?", (doomed,))
            self.has_garbage = True
            doomed = None
            if isinstance(source, int):
                self._cursor.execute("UPDATE streams SET forks = forks - 1 WHERE id = ?", (source,))
                if self._first("SELECT 1 FROM streams WHERE id = ? AND forks = 0 AND deleted", source):
                    doomed = source

    def sweep(self, rows: int, size: int) -> None:
        """Delete about `rows` rows or `size` bytes of removed streams. `has_garbage` then says whether more is left."""
        cursor = self._cursor
        is_left = True
        cursor.execute("BEGIN IMMEDIATE")
        try:
            while rows > 0 and size > 0:
                garbage = self._first("SELECT id FROM streams WHERE path IS NULL LIMIT 1")
                if garbage is None:
                    is_left = False
                    break
                rows, size = self._sweep_stream(garbage[0], rows, size)
            cursor.execute("COMMIT")
        except BaseException:
            self.roll_back()
            raise
        self.has_garbage = is_left

    def _sweep_stream(self, number: Value, rows: int, size: int) -> tuple[int, int]:
        """Delete the data of a removed stream, and its own row last; how many rows and bytes may still be deleted."""
        doomed: list[tuple[Value]] = []
        for piece, length in self._cursor.execute(_PIECES_OF, (number, rows)).fetchall():
            doomed.append((cast(int, piece),))
            size -= cast(int, length)
            if size <= 0:
                break
        self._cursor.executemany("DELETE FROM pieces WHERE id = ?", doomed)
        rows -= len(doomed)
        if rows > 0 and size > 0:
            self._cursor.execute(_SWEEP_PRODUCERS, (number, number, rows))
            rows -= self._connection.changes()
        if rows > 0 and size > 0:
            self._cursor.execute("DELETE FROM streams WHERE id = ?", (number,))
            rows -= 1
        return rows, size

    def checkpoint(self) -> None:
        """Move the log into the database, except what a reader still needs from the log."""
        self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        self.log_pages = 0

    def free_bytes(self) -> int:
        """Bytes of the file in free pages."""
        return self._number("freelist_count") * self.page_bytes

    def vacuum(self, pages: int) -> None:
        """Give `pages` free pages back to the file system, at the next checkpoint."""
        self._cursor.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
