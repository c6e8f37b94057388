"""JSON mode: an append is one value, or an array of values that are stored one by one (protocol section on JSON).

Values are kept as the very text that came, each followed by a comma, so that any run of them reads back as an array.
Owns validation: what Python's parser takes but JSON does not have is refused.
"""

import json
import re
from collections.abc import Generator, Iterable, Iterator

__all__ = ["InvalidJson", "as_array", "flatten", "prefix_length", "split_values"]

_SPACE = re.compile(r"[ \t\n\r]*")


class InvalidJson(Exception):
    """The body is not JSON, or not what may be appended; the message is for the caller."""


def _refuse(constant: str) -> None:
    raise InvalidJson(f"{constant} is not JSON")


# Only where a value ends matters: numbers are not converted, however many digits they have.
_DECODER = json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=_refuse)


def flatten(body: bytes) -> Iterator[bytes]:
    """The values to store, each with its comma; none for an empty array. Raises InvalidJson, perhaps after some."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidJson("JSON must be UTF-8") from None
    start = _skip(text, 0)
    if text.startswith("[", start):
        end = yield from _elements(text, start)
    else:
        end = _scan(text, start)
        yield _stored(text[start:end])
    if _skip(text, end) != len(text):
        raise InvalidJson("there is more after the JSON value")


def _stored(value: str) -> bytes:
    return value.encode("utf-8") + b","


def _elements(text: str, start: int) -> Generator[bytes, None, int]:
    """Each element of the array that starts at `start`, as it is stored; returns where the array ends."""
    here = _skip(text, start + 1)
    if text.startswith("]", here):
        return here + 1
    while True:
        end = _scan(text, here)
        yield _stored(text[here:end])
        here = _skip(text, end)
        if text.startswith("]", here):
            return here + 1
        if not text.startswith(",", here):
            raise InvalidJson("the body is not valid JSON")
        here = _skip(text, here + 1)


def _scan(text: str, start: int) -> int:
    """Where the value that starts at `start` ends."""
    try:
        _, end = _DECODER.raw_decode(text, start)
    except ValueError:
        raise InvalidJson("the body is not valid JSON") from None
    except RecursionError:
        raise InvalidJson("the JSON is nested too deeply") from None
    return end


def _skip(text: str, start: int) -> int:
    match = _SPACE.match(text, start)
    return start if match is None else match.end()


def split_values(values: Iterable[bytes], size: int) -> list[bytes]:
    """The values joined into pieces of about `size` bytes; only a single value makes a larger one."""
    pieces: list[bytes] = []
    run: list[bytes] = []
    length = 0
    for value in values:
        if run and length + len(value) > size:
            pieces.append(b"".join(run))
            run, length = [], 0
        run.append(value)
        length += len(value)
    if run:
        pieces.append(b"".join(run))
    return pieces


def as_array(parts: list[bytes]) -> list[bytes]:
    """Stored values as a JSON array: the same buffers in brackets, the last comma dropped."""
    if not parts:
        return [b"[]"]
    return [b"[", *parts[:-1], parts[-1][:-1], b"]"]


def prefix_length(stored: bytes, count: int) -> int | None:
    """How many bytes the first `count` stored values take, None when there are fewer."""
    text = stored.decode("utf-8")
    here = 0
    for _ in range(count):
        if here >= len(text):
            return None
        here = _scan(text, here) + 1
    return len(text[:here].encode("utf-8"))
