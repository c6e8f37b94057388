"""The last pieces of streams in memory, so that live readers need no database. Owns the two bounds on them."""

from collections.abc import Iterable

from proxy.store.state import Stream

__all__ = ["RecentPieces"]

_OVERHEAD = 120  # bytes that a small piece costs beside its data


class RecentPieces:
    """At most `per_stream` bytes of a stream and `total` of all; the streams written least recently lose theirs first.

    What is kept of a stream is always its end, without a gap.
    """

    def __init__(self, per_stream: int, total: int) -> None:
        self._per_stream = per_stream
        self._left = total
        self._streams: dict[Stream, None] = {}

    def add(self, stream: Stream, pieces: Iterable[tuple[int, bytes]]) -> None:
        """`pieces` are now the end of `stream`."""
        recent = stream.recent
        added = 0
        for piece in pieces:
            recent.append(piece)
            added += len(piece[1]) + _OVERHEAD
        kept = stream.recent_bytes + added
        while kept > self._per_stream:
            kept -= len(recent.popleft()[1]) + _OVERHEAD
        self._left -= kept - stream.recent_bytes
        stream.recent_bytes = kept
        self._streams.pop(stream, None)
        if kept:
            self._streams[stream] = None
        while self._left < 0:
            self.drop(next(iter(self._streams)))

    def drop(self, stream: Stream) -> None:
        """Keep nothing of `stream`."""
        self._left += stream.recent_bytes
        stream.recent.clear()
        stream.recent_bytes = 0
        self._streams.pop(stream, None)

    def find(self, stream: Stream, position: int, size: int) -> list[tuple[int, bytes]] | None:
        """Pieces from `position` on until `size` bytes are reached, as the database would give them; None: not here."""
        recent = stream.recent
        if not recent or position < recent[0][0]:
            return None
        found: list[tuple[int, bytes]] = []
        for piece in reversed(recent):  # readers are near the end
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
