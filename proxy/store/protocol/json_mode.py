"""JSON mode: an append is one value, or an array of values that are stored one by one (protocol section on JSON).

Owns what is refused, and the stored form: the received text, in runs of whole values with a comma after each. No object
is built for a value, however long it is or however many there are.

SQLite's `json_valid` checks the text, for three reasons. It is strict (RFC 8259). It releases the interpreter's lock,
so that one value of 16 MiB does not stop the event loop. And it accepts `"\\ud83d"`, half of a surrogate pair, which
JavaScript writes when a text is cut between two tokens; msgspec, simdjson and yyjson refuse that, and orjson builds
objects.
"""

import asyncio
import codecs
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from proxy.store.json_values import Separators

__all__ = ["InvalidJson", "JsonCutter", "TooManyValues", "as_array", "is_json"]

_SHORT = 16_384  # JSON up to this many bytes is checked in the event loop: it takes some tens of microseconds
_STEP = 65_536  # bytes of UTF-8 that a thread checks at once; it holds the interpreter's lock meanwhile
_SPACE = b" \t\n\r"
_VALID = "SELECT json_valid(CAST(? AS TEXT))"


class InvalidJson(Exception):
    """The body is not JSON, or it may not be appended. The message is for the caller."""


class TooManyValues(Exception):
    """An array has more values than one append may bring."""


class _Sqlite(threading.local):
    """A connection for each thread, to a database in memory."""

    def __init__(self) -> None:
        import apsw  # noqa: PLC0415  # a process without JSON streams, and with another engine, needs no SQLite

        self.cursor = apsw.Connection(":memory:").cursor()


@cache
def _sqlite() -> _Sqlite:
    return _Sqlite()


def is_json(text: bytes) -> bool:
    """Whether `text` is one JSON value (RFC 8259), in UTF-8, nested at most 1000 deep.

    Blocks for a time that grows with `text`: use a thread for a long one.
    """
    if b"\0" in text or not _is_utf8(text):  # SQLite ends a text at a NUL, and does not look at its encoding
        return False
    return _sqlite().cursor.execute(_VALID, (text,)).fetchall() == [(1,)]


def _is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(text)
    try:
        for start in range(0, len(text), _STEP):
            decoder.decode(view[start : start + _STEP], final=start + _STEP >= len(text))
    except UnicodeDecodeError:
        return False
    return True


class JsonCutter:
    """Cuts JSON into the pieces that are stored: at most `piece` bytes each, unless one value is longer.

    `values` is the most values of one append. `threads` check long texts.
    """

    def __init__(self, piece: int, values: int, threads: int) -> None:
        self._piece = piece
        self._values = values
        self._threads: ThreadPoolExecutor | None = ThreadPoolExecutor(threads, thread_name_prefix="store-json")

    async def cut(self, text: bytes) -> list[bytes]:
        """The pieces of a body; none for an empty array. Raises InvalidJson, TooManyValues."""
        if len(text) <= _SHORT or self._threads is None:
            valid = is_json(text)
        else:
            valid = await asyncio.get_running_loop().run_in_executor(self._threads, is_json, text)
        if not valid:
            raise InvalidJson("the body is not valid JSON")
        value = text.strip(_SPACE)
        if not value.startswith(b"["):
            return [value + b","]
        values = value[1:-1].strip(_SPACE)
        if not values:
            return []
        if len(values) < self._piece and values.count(b",") < self._values:
            return [values + b","]
        return await self._cut_between(values)

    async def _cut_between(self, values: bytes) -> list[bytes]:
        """Cut a long run of values in steps, and let the event loop run in between."""
        separators = Separators(values, 0, len(values))
        pieces: list[bytes] = []
        begin = last = 0  # the next piece begins at `begin`, and may end at `last`
        count = 1
        while not separators.ended:
            found = separators.step()
            count += len(found)
            if count > self._values:
                raise TooManyValues
            for comma in found:
                if comma + 1 - begin > self._piece and last > begin:
                    pieces.append(values[begin:last])
                    begin = last
                last = comma + 1
            await asyncio.sleep(0)
        if len(values) + 1 - begin > self._piece and last > begin:
            pieces.append(values[begin:last])
            begin = last
        pieces.append(values[begin:] + b",")
        return pieces

    async def aclose(self) -> None:
        """End the threads."""
        threads, self._threads = self._threads, None
        if threads is not None:
            await asyncio.to_thread(threads.shutdown)


def as_array(parts: list[bytes]) -> list[bytes]:
    """Stored values as a JSON array: the same buffers in brackets, without the last comma."""
    if not parts:
        return [b"[]"]
    return [b"[", *parts[:-1], parts[-1][:-1], b"]"]
