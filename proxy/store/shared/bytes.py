"""Where the bytes of a stream are: its own, and for a fork those of the streams that it branched off from.

A fork copies nothing. It knows the segments that it shares since it was created, so that a read asks each stream on the
way for its part and looks at no state.
"""

from proxy.store.json_values import prefix_length
from proxy.store.model import Piece
from proxy.store.shared.backend import Backend, SharedSegment

__all__ = ["SharedBytes"]


class SharedBytes:
    """Reads over segments. Every method may raise Unavailable."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def pieces(self, segments: tuple[SharedSegment, ...], position: int, size: int) -> list[Piece]:
        """What is stored from `position` on, until `size` bytes are reached. The first piece may begin before it.

        None of it when some is missing: then the stream, or a source of it, is gone.
        """
        found: list[Piece] = []
        following = position
        for segment in segments:
            if segment.end <= following or size <= 0:
                continue
            for start, data in await self._backend.pieces(segment.ref, following, segment.end, size):
                if start + len(data) > segment.end:
                    data = data[: segment.end - start]  # noqa: PLW2901  # the part that is shared
                if start > following or (found and start < following) or start + len(data) <= following:
                    return []
                found.append((start, data))
                following = start + len(data)
                size -= len(data)
                if size <= 0:
                    break
            if size > 0 and following < segment.end:
                return []
        return found

    async def boundary(self, segments: tuple[SharedSegment, ...], position: int) -> int:
        """The first place from `position` on where a piece ends."""
        for segment in segments:
            if segment.start < position <= segment.end:
                following = await self._backend.boundary(segment.ref, position)
                return segment.end if following is None else min(following, segment.end)
        return position

    async def place(self, segments: tuple[SharedSegment, ...], offset: int, sub: int, *, is_json: bool) -> int | None:
        """The position `sub` bytes, in JSON mode values, into the append at `offset`; None when there is no such."""
        if is_json and await self.boundary(segments, offset) != offset:
            return None
        if not sub:
            return offset
        rest = await self._rest_of_append(segments, offset)
        length = await prefix_length(rest, sub) if is_json else sub
        return None if length is None or length > len(rest) else offset + length

    async def _rest_of_append(self, segments: tuple[SharedSegment, ...], position: int) -> bytes:
        """What is left, from `position` on, of the append that `position` is in; b"" at the end."""
        for segment in segments:
            if segment.start <= position < segment.end:
                parts = await self._backend.rest_of_append(segment.ref, position)
                return b"".join(data[max(0, position - start) : segment.end - start] for start, data in parts)
        return b""
