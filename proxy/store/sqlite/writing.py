"""Writes: what they consist of, and the SQL that stores many of them in one transaction. Runs in the writer's thread.

Everything here was judged before it came; the database decides only whether a path is free and who has forks.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import apsw

from proxy.store.model import Piece, Result, Verdict
from proxy.store.sqlite.schema import open_for_writing
from proxy.store.sqlite.state import Entry

__all__ = ["Database", "Value", "Write"]

Value = int | str | bytes | None

_LARGEST_RUN = 32  # rows stored by one statement
_EXPIRED_AT_ONCE = 256


@dataclass(slots=True)
class Write:
    """What one operation changes. `result` is what it answers once it is on disk, `done` who waits for that.

    `pieces` holds (stream, position, continues, data) and `producer` (stream, producer, epoch, seq, touched), both
    flat, as the statements take them; `forgets` is the (stream, producer) that makes room for it. `state` is (closed,
    last_seq, expires, id). A `creation` is the row of `streams`; with a path that is taken nothing of its write
    happens. `removes` is the number of a stream to remove, `expires` removes those due at that Unix time
    (milliseconds); `removed` then lists their paths, each with whether it is free again, or the stream only marked
    as deleted because forks remain.
    """

    entry: Entry | None = None
    pieces: tuple[Value, ...] = ()
    producer: tuple[Value, ...] = ()
    forgets: tuple[Value, ...] = ()
    state: tuple[Value, ...] = ()
    creation: tuple[Value, ...] = ()
    removes: int | None = None
    expires: int | None = None
    removed: tuple[tuple[str, bool], ...] = ()
    cached: tuple[Piece, ...] = ()
    size: int = 0
    result: Result | None = None
    done: asyncio.Future[Result] | None = None


class _Bulk:
    """An INSERT of any number of rows, a statement for each number up to the largest run: they stay prepared.

    A statement gives up and takes back the interpreter's lock, so that one for many rows beats many for one. They are
    to be INSERT OR ROLLBACK: one that may fail alone first saves every page that it changes, at twice the cost.
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


_ADD_PIECES = _Bulk("INSERT OR ROLLBACK INTO pieces (stream, position, continues, data)", 4)
_SET_PRODUCERS = _Bulk(
    "INSERT OR ROLLBACK INTO producers (stream, producer, epoch, seq, touched)",
    5,
    "ON CONFLICT DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq, touched = excluded.touched",
)
_SET_STATE = """
    UPDATE streams SET closed = max(closed, ?), last_seq = ifnull(?, last_seq), expires = ifnull(?, expires)
    WHERE id = ? AND path IS NOT NULL"""
_CREATE = """
    INSERT INTO streams (id, path, content_type, created, ttl, expires_at, expires, closed,
                         fork_path, fork_offset, fork_sub, source, start)
    VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (path) DO NOTHING"""
_SOURCE = 11  # its place in a creation's row
_PIECES_OF = "SELECT id, length(data) FROM pieces WHERE stream = ? LIMIT ?"
_SWEEP_PRODUCERS = """
    DELETE FROM producers
    WHERE stream = ? AND producer IN (SELECT producer FROM producers WHERE stream = ? LIMIT ?)"""


class Database:
    """The connection that writes. Every method may raise apsw.Error and then has changed nothing."""

    def __init__(self, path: Path) -> None:
        self._connection = open_for_writing(path)
        self._cursor = self._connection.cursor()
        self.page_bytes = self._number("page_size")
        self.log_pages = 0
        self._connection.set_wal_hook(self._committed)
        self.has_garbage = self._first("SELECT 1 FROM streams WHERE path IS NULL LIMIT 1") is not None

    def close(self) -> None:
        """Move the log into the database and close it."""
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
        """What is in use of the database file: free pages will be used again."""
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
                pieces += write.pieces
                if write.forgets:  # in order: who makes room in this batch may come back in it
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

    def _expire(self, now: int, write: Write) -> None:
        """Remove what is due, but only so much at once."""
        rows = self._cursor.execute("SELECT id FROM streams WHERE expires <= ? LIMIT ?", (now, _EXPIRED_AT_ONCE))
        for (number,) in rows.fetchall():
            self._remove(cast(int, number), write)

    def _remove(self, number: int, write: Write) -> None:
        """Free a stream's path and leave its data to the sweep; one with forks is only marked as deleted.

        The last fork takes with it a source that was deleted before, and so on up the chain.
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
        """Delete about `rows` rows or `size` bytes of removed streams; `has_garbage` says whether more is left."""
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
        """Delete what a removed stream left, at last the stream; how many rows and bytes may still be deleted."""
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
        """Move the log into the database, as far as no reader needs it."""
        self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        self.log_pages = 0

    def free_bytes(self) -> int:
        """Bytes of the file that hold nothing."""
        return self._number("freelist_count") * self.page_bytes

    def vacuum(self, pages: int) -> None:
        """Give `pages` free pages back to the file system, at the next checkpoint."""
        self._cursor.execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
