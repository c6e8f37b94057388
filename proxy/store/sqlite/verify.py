"""Whether a database holds what was stored: its structure, each piece by its checksum, each stream by its length."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import apsw

from proxy.store.port import StoreUnusable
from proxy.store.sqlite.schema import check_version, checksum, is_cut, open_for_reading

__all__ = ["verify"]

_PROGRESS_SECONDS = 5.0
_PIECES = """
    SELECT s.id, s.path, s.start, s.closed, s.length, p.position, p.continues, p.data, p.crc
    FROM streams s LEFT JOIN pieces p ON p.stream = s.id
    WHERE s.path IS NOT NULL ORDER BY s.id, p.position"""


@dataclass(slots=True)
class _Stream:
    """How far the check of one stream has come."""

    id: int
    path: str
    end: int
    closed: int
    length: int | None
    is_damaged: bool = False


def verify(path: Path, say: Callable[[str], None]) -> int:
    """Read everything in the database at `path` and say what is wrong; the number of faults.

    The store may run meanwhile: what is checked is what was committed at the start. Changes nothing. Raises
    StoreUnusable when there is no database that this version can check.
    """
    if not path.is_file():
        raise StoreUnusable(f"{path} does not exist")
    try:
        connection = open_for_reading(path)
        check_version(connection)
        return _Check(connection, say).run()
    except apsw.NotADBError:
        raise StoreUnusable(f"{path} is not a database") from None


class _Check:
    """One run."""

    def __init__(self, connection: apsw.Connection, say: Callable[[str], None]) -> None:
        self._connection = connection
        self._say = say
        self._faults = 0
        self._streams = self._bytes = 0
        self._due = time.monotonic() + _PROGRESS_SECONDS

    def run(self) -> int:
        """Check everything; the number of faults."""
        try:
            for (line,) in self._connection.execute("PRAGMA integrity_check"):
                if line != "ok":
                    self._fault(f"structure: {line}")
            self._check_streams()
        except (apsw.CorruptError, apsw.IOError) as error:
            self._fault(f"structure: {error} (the rest was not checked)")
        finally:
            self._connection.close()
        self._say(f"{self._streams} streams, {self._bytes} bytes, faults: {self._faults}")
        return self._faults

    def _fault(self, text: str) -> None:
        self._faults += 1
        self._say(text)

    def _check_streams(self) -> None:
        stream: _Stream | None = None
        for number, path, start, closed, length, position, continues, data, crc in self._connection.execute(_PIECES):
            if stream is None or stream.id != number:
                self._end(stream)
                stream = _Stream(number, path, start, closed, length)
            if position is not None and not stream.is_damaged:
                self._check_piece(stream, position, continues, data, crc)
        self._end(stream)

    def _check_piece(self, stream: _Stream, position: int, continues: int, data: bytes, crc: int | None) -> None:
        if position != stream.end:
            self._damaged(stream, f"bytes {stream.end} to {position} are missing")
        elif crc is not None and crc != checksum(stream.id, position, continues, data):
            self._damaged(stream, f"the piece at byte {position} is not what was stored")
        stream.end = position + len(data)
        self._bytes += len(data)
        if time.monotonic() >= self._due:
            self._due += _PROGRESS_SECONDS
            self._say(f"{self._streams} streams, {self._bytes} bytes so far")

    def _end(self, stream: _Stream | None) -> None:
        if stream is None:
            return
        self._streams += 1
        if not stream.is_damaged and is_cut(stream.closed, stream.length, stream.end):
            self._damaged(stream, f"it was closed at byte {stream.length}, and ends at {stream.end}")

    def _damaged(self, stream: _Stream, text: str) -> None:
        stream.is_damaged = True
        self._fault(f"stream {stream.path}: {text}")
