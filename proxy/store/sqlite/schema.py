"""The database file: its schema with versions, and how a connection is opened. Refuses an SQLite that may lose writes.

One connection writes and checkpoints (`writing`), others only read (`reading`).
"""

import os
import zlib
from pathlib import Path

import apsw

from proxy.store.port import StoreUnusable

__all__ = ["DUE", "MIGRATIONS", "check_version", "checksum", "is_cut", "open_for_reading", "open_for_writing"]

_SAFE = (3, 51, 3)  # older versions may lose committed writes when the write-ahead log is reset
_APPLICATION_ID = 0x64737472  # "dstr": `file` and sqlite3 recognise the database by it
_PAGE_BYTES = 4096
_LOG_BYTES = 64 << 20  # a longer log is cut to this size when it restarts
_LOCK_MILLISECONDS = 5000  # how long a reader waits while the log is recovered

MIGRATIONS = (
    # 1: streams, their data in pieces in order of arrival, and the last append of each producer.
    """
    CREATE TABLE streams (
        id INTEGER PRIMARY KEY,
        path TEXT UNIQUE,           -- NULL: removed; the sweep will delete its data
        content_type TEXT NOT NULL,
        created INTEGER NOT NULL,   -- Unix milliseconds
        ttl INTEGER,                -- seconds
        expires_at TEXT,            -- as the creator wrote it
        expires INTEGER,            -- Unix milliseconds; never too early
        closed INTEGER NOT NULL DEFAULT 0,
        last_seq TEXT,
        fork_path TEXT,
        fork_offset INTEGER,
        fork_sub INTEGER,
        source INTEGER,             -- the stream forked from
        start INTEGER NOT NULL,     -- the first position that is not the source's
        forks INTEGER NOT NULL DEFAULT 0,
        deleted INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE INDEX expiring ON streams (expires) WHERE expires IS NOT NULL;
    CREATE TABLE pieces (
        id INTEGER PRIMARY KEY,
        stream INTEGER NOT NULL,
        position INTEGER NOT NULL,
        continues INTEGER NOT NULL, -- 1: belongs to the same append as the previous piece
        data BLOB NOT NULL
    ) STRICT;
    CREATE UNIQUE INDEX places ON pieces (stream, position);
    CREATE TABLE producers (
        stream INTEGER NOT NULL,
        producer TEXT NOT NULL,
        epoch INTEGER NOT NULL,
        seq INTEGER NOT NULL,
        touched INTEGER NOT NULL,   -- Unix milliseconds
        PRIMARY KEY (stream, producer)
    ) STRICT, WITHOUT ROWID;
    """,
    # 2: what tells a damaged stream from a whole one. What was stored before has no checksums.
    """
    ALTER TABLE pieces ADD COLUMN crc INTEGER;      -- see `checksum`; NULL: not known
    ALTER TABLE streams ADD COLUMN length INTEGER;  -- the end of a closed stream; -1: not known
    UPDATE streams SET length = -1 WHERE closed;
    """,
)


def checksum(stream: int, position: int, continues: int, data: bytes) -> int:
    """CRC-32 of a piece and of its place: a flipped bit in any of them is seen, and so is a piece in a wrong place."""
    return zlib.crc32(data, (stream * 0x9E3779B1 + 2 * position + continues) & 0xFFFFFFFF)


def is_cut(closed: int, length: int | None, end: int) -> bool:
    """Whether a stream that ends at `end` is closed, and not where it was closed."""
    return bool(closed) and length not in (-1, end)


DUE = "SELECT id FROM streams WHERE expires <= max(?1, ?2) AND expires <= iif(ttl IS NULL, ?2, ?1) LIMIT ?3"
"""Streams that are due at the Unix times ?1 (for lifetimes) and ?2 (for dates), in milliseconds; at most ?3."""


def open_for_writing(path: Path) -> apsw.Connection:
    """The connection that writes, after the schema was brought up to date. A new file is readable by its owner only.

    Raises StoreUnusable when this SQLite may lose writes or the file is not ours; OSError, apsw.Error.
    """
    version = tuple(int(part) for part in apsw.sqlite_lib_version().split("."))
    if version < _SAFE:
        wanted = ".".join(map(str, _SAFE))
        raise StoreUnusable(
            f"SQLite {apsw.sqlite_lib_version()} may lose committed writes; {wanted} or newer is needed"
        )
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    _sync_directory(path.parent)
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    try:
        _prepare(connection)
    except apsw.NotADBError:
        connection.close()
        raise StoreUnusable(f"{path} is not a database") from None
    except BaseException:
        connection.close()
        raise
    return connection


def _sync_directory(directory: Path) -> None:
    """A new file survives a power cut only when its directory is on disk."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _prepare(connection: apsw.Connection) -> None:
    connection.set_busy_timeout(_LOCK_MILLISECONDS)
    # These two take effect only while the file is empty.
    connection.execute(f"PRAGMA page_size = {_PAGE_BYTES}")
    connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # a commit returns when it is on disk
    connection.execute("PRAGMA wal_autocheckpoint = 0")  # the writer says when
    connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
    known = _version(connection)
    for version in range(known, len(MIGRATIONS)):
        connection.execute(
            f"BEGIN IMMEDIATE; {MIGRATIONS[version]};"
            f" PRAGMA user_version = {version + 1}; PRAGMA application_id = {_APPLICATION_ID}; COMMIT"
        )


def _version(connection: apsw.Connection) -> int:
    """The version of the schema. Raises StoreUnusable when the database is not ours, or is a later version's."""
    if connection.pragma("application_id") not in (0, _APPLICATION_ID):
        raise StoreUnusable("the database belongs to another application")
    known = connection.pragma("user_version")
    if not isinstance(known, int) or known > len(MIGRATIONS):
        raise StoreUnusable("the database was written by a later version")
    return known


def check_version(connection: apsw.Connection) -> None:
    """Raise StoreUnusable unless the schema is this version's."""
    if _version(connection) != len(MIGRATIONS):
        raise StoreUnusable("the database was written by an earlier version; start the store once to take it over")


def open_for_reading(path: Path) -> apsw.Connection:
    """A connection that cannot write."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE)
    connection.set_busy_timeout(_LOCK_MILLISECONDS)
    connection.execute("PRAGMA query_only = 1")
    return connection
