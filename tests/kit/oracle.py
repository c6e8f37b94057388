"""Upstream bytes as a function of (seed, stream, index), so that a lost, repeated or swapped piece is identified.

A stream is pieces of `SIZE` bytes; each begins with a readable label and goes on with bytes that depend on the label.
"""

import hashlib
import re
from collections.abc import Iterator

__all__ = ["SIZE", "check", "piece", "pieces"]

SIZE = 64

_LABEL = re.compile(rb"<(\d+)/(\d+)/(\d+)>")


def piece(seed: int, stream: int, index: int) -> bytes:
    """Piece `index` of `stream`: always `SIZE` bytes, printable ASCII."""
    label = b"<%d/%d/%d>" % (seed, stream, index)
    return (label + hashlib.blake2b(label, digest_size=32).hexdigest().encode())[: SIZE - 1].ljust(
        SIZE - 1, b"."
    ) + b"\n"


def pieces(seed: int, stream: int, count: int | None = None, first: int = 0) -> Iterator[bytes]:
    """Pieces from `first`; `count` of them, or without end."""
    index = first
    while count is None or index < first + count:
        yield piece(seed, stream, index)
        index += 1


def check(data: bytes, seed: int, stream: int, *, length: int | None = None) -> None:
    """`data` is a prefix of the stream, and `length` bytes long if that is given.

    AssertionError names the first byte that differs and which piece stands there instead.
    """
    for at in range(0, len(data), SIZE):
        got = data[at : at + SIZE]
        want = piece(seed, stream, at // SIZE)
        if got != want[: len(got)]:
            label = _LABEL.match(got) or _LABEL.search(data, at)
            found = f"next label there is {label[0].decode()}" if label else "no label follows"
            raise AssertionError(f"at byte {at}: piece {at // SIZE} of stream {stream} expected, {found}: {got!r}")
    assert length is None or len(data) == length, f"{len(data)} bytes of stream {stream}, expected {length}"
