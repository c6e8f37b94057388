"""The last pieces of streams in memory, so that live readers need no I/O. Owns the bounds on them."""

from collections import deque
from collections.abc import Iterable

from proxy.store.model import Piece

__all__ = ["RecentPieces", "Tail", "within"]

_OVERHEAD = 120  # bytes of memory that a small piece needs in addition to its data


class Tail:
    """The last pieces of one stream, without a gap. An engine keeps one for each stream that is in memory."""

    __slots__ = ("pieces", "size")

    def __init__(self) -> None:
        self.pieces: deque[Piece] = deque()
        self.size = 0  # bytes of memory

    def find(self, position: int, size: int) -> list[Piece] | None:
        """Pieces from `position` on until `size` bytes are reached; None when `position` is before them.

        The first piece may begin before `position`.
        """
        pieces = self.pieces
        if not pieces or position < pieces[0][0]:
            return None
        found: list[Piece] = []
        for piece in reversed(pieces):  # readers are near the end
            start, data = piece
            if start + len(data) <= position:
                break
            found.append(piece)
        found.reverse()
        count = 0
        for _, data in found:
            if size <= 0:
                break
            size -= len(data)
            count += 1
        return found[:count]


class RecentPieces:
    """At most `per_stream` bytes of one stream and `total` bytes of all streams.

    Over `total`, the stream that was written least recently loses its pieces first.
    """

    def __init__(self, per_stream: int, total: int) -> None:
        self._per_stream = per_stream
        self._left = total
        self._tails: dict[Tail, None] = {}  # tails that hold something; the least recently written is first

    def add(self, tail: Tail, pieces: Iterable[Piece]) -> None:
        """Add `pieces`, the new end of the stream that `tail` belongs to."""
        recent = tail.pieces
        added = 0
        for piece in pieces:
            recent.append(piece)
            added += len(piece[1]) + _OVERHEAD
        kept = tail.size + added
        while kept > self._per_stream:
            kept -= len(recent.popleft()[1]) + _OVERHEAD
        self._left -= kept - tail.size
        tail.size = kept
        self._tails.pop(tail, None)
        if kept:
            self._tails[tail] = None
        while self._left < 0:
            self.drop(next(iter(self._tails)))

    def drop(self, tail: Tail) -> None:
        """Drop all pieces of the stream that `tail` belongs to."""
        self._left += tail.size
        tail.pieces.clear()
        tail.size = 0
        self._tails.pop(tail, None)


def within(pieces: list[Piece], position: int, end: int, *, is_json: bool) -> list[Piece]:
    """What of `pieces`, which is changed, lies between two positions; in JSON mode the first value stays whole."""
    while pieces and pieces[-1][0] >= end:
        pieces.pop()
    if pieces:
        start, data = pieces[-1]
        if start + len(data) > end:
            pieces[-1] = (start, data[: end - start])
        start, data = pieces[0]
        if start < position and not is_json:
            pieces[0] = (position, data[position - start :])
    return pieces
