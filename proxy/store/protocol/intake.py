"""Request bodies on their way to the disk: received whole, bounded each and together, cut into pieces."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from proxy.http.body import Body
from proxy.store.protocol.json_mode import flatten, split_values
from proxy.wire.events import Buffer

__all__ = ["Intake", "Overloaded", "TooLong"]

_LONG_JSON = 16_384  # bytes of JSON that take longer to read than the event loop may stand still


class Overloaded(Exception):
    """Too many bytes are being received and stored already."""


class TooLong(Exception):
    """One body is larger than an append may be."""


class Intake:
    """At most `per_body` bytes of one body and `total` of all, from their arrival until they are given back.

    `piece` is the most bytes of one piece.
    """

    def __init__(self, per_body: int, total: int, piece: int) -> None:
        self._per_body = per_body
        self._left = total
        self._piece = piece
        self._reading: ThreadPoolExecutor | None = ThreadPoolExecutor(1, thread_name_prefix="store-json")

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
            body.close()
            raise
        if len(parts) == 1 and isinstance(parts[0], bytes):
            return parts[0]
        return b"".join(parts)

    def give(self, size: int) -> None:
        """What was taken is stored, or given up."""
        self._left += size

    async def cut(self, data: bytes, *, is_json: bool) -> list[bytes]:
        """`data` as the pieces that are kept; JSON is cut only between values. Raises InvalidJson."""
        size = self._piece
        if is_json and len(data) > _LONG_JSON and self._reading is not None:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._reading, lambda: split_values(flatten(data), size))
        if is_json:
            return split_values(flatten(data), size) if data else []
        if len(data) <= size:
            return [data] if data else []
        return [data[start : start + size] for start in range(0, len(data), size)]

    async def aclose(self) -> None:
        """End the thread."""
        reading, self._reading = self._reading, None
        if reading is not None:
            await asyncio.to_thread(reading.shutdown)
