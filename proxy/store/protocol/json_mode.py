"""JSON mode: an append is one value, or an array of values that are stored one by one (protocol section on JSON).

Owns what is refused, and how what was received becomes what is kept: the same text, in runs of whole values with a
comma after each. No object is built for a value, however long it is or however many there are.

SQLite's `json_valid` checks the text. Among C libraries that check JSON it has what is needed here. It is strict (RFC
8259). It releases the interpreter's lock, so that one value of 16 MiB does not stop the event loop. And it accepts
`"\\ud83d"`, half of a surrogate pair, which JavaScript writes when a text is cut between two tokens; msgspec, simdjson
and yyjson refuse that. orjson builds objects.
"""

import asyncio
import codecs
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from proxy.store.json_values import Separators

__all__ = ["InvalidJson", "JsonCutter", "TooManyValues", "as_array", "is_json"]

_SHORT = 16_384  # bytes of JSON that are checked at once, in the event loop: some tens of microseconds
_STEP = 65_536  # bytes of UTF-8 checked at once in a thread, which keeps the interpreter's lock meanwhile
_SPACE = b" \t\n\r"
_VALID = "SELECT json_valid(CAST(? AS TEXT))"


class InvalidJson(Exception):
    """The body is not JSON, or not what may be appended; the message is for the caller."""


class TooManyValues(Exception):
    """An array has more values than one append may bring."""


class _Sqlite(threading.local):
    """A connection for each thread, to no file."""

    def __init__(self) -> None:
        import apsw  # noqa: PLC0415  # a process without JSON streams, and with another engine, needs no SQLite

        self.cursor = apsw.Connection(":memory:").cursor()


@cache
def _sqlite() -> _Sqlite:
    return _Sqlite()


def is_json(text: bytes) -> bool:
    """Whether `text` is one JSON value (RFC 8259), in UTF-8, nested at most 1000 deep. Takes long for a long one."""
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
    """Cuts JSON into the pieces that are kept: at most `piece` bytes each, but a value is never cut.

    `values` is how many values one append may bring.
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
        """Cut a long run of values, with other work of the event loop in between."""
        separators = Separators(values, 0, len(values))
        pieces: list[bytes] = []
        begin = last = 0  # the piece so far, which may end at `last`
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
    """Kept values as a JSON array: the same buffers in brackets, the last comma dropped."""
    if not parts:
        return [b"[]"]
    return [b"[", *parts[:-1], parts[-1][:-1], b"]"]
