"""Request bodies on their way to the disk: received whole, bounded each and together, cut into pieces."""

from proxy.http.message import Body, Buffer, Cut
from proxy.store.json_mode import flatten, split_values

__all__ = ["Intake", "Overloaded", "TooLong", "cut"]


class Overloaded(Exception):
    """Too many bytes are being received and stored already."""


class TooLong(Exception):
    """One body is larger than an append may be."""


class Intake:
    """At most `per_body` bytes of one body and `total` of all, from their arrival until they are given back."""

    def __init__(self, per_body: int, total: int) -> None:
        self._per_body = per_body
        self._left = total

    async def take(self, body: Body) -> bytes:
        """The whole body. Raises TooLong, Overloaded, BodyError; else its size is owed to `give`."""
        if body.length == 0:
            return b""
        parts: list[Buffer] = []
        size = 0
        try:
            if body.length is not None and body.length > self._per_body:
                raise TooLong
            while not body.ended and (taken := await body.take()):
                for part in taken:
                    size += len(part)
                    self._left -= len(part)
                parts += taken
                if size > self._per_body:
                    raise TooLong
                if self._left < 0:
                    raise Overloaded
        except BaseException:
            self.give(size)
            body.abort(Cut.GONE)
            raise
        if len(parts) == 1 and isinstance(parts[0], bytes):
            return parts[0]
        return b"".join(parts)

    def give(self, size: int) -> None:
        """What was taken is stored, or given up."""
        self._left += size


def cut(data: bytes, size: int, *, is_json: bool) -> list[bytes]:
    """`data` as the pieces that are kept, of at most `size` bytes; JSON only between values. Raises InvalidJson."""
    if is_json:
        return split_values(flatten(data), size)
    if len(data) <= size:
        return [data] if data else []
    return [data[start : start + size] for start in range(0, len(data), size)]
