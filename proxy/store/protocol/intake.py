"""Request bodies on their way to the disk: received whole, bounded each and together, cut into pieces."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from proxy.http.body import Body
from proxy.store.json_mode import InvalidJson, flatten, split_values
from proxy.wire.events import Buffer

__all__ = ["Intake", "Overloaded", "Payload", "TooLong"]

_LONG_JSON = 16_384  # bytes of JSON that take longer to read than the event loop may stand still


class Overloaded(Exception):
    """Too many bytes are being received and stored already."""


class TooLong(Exception):
    """One body is larger than an append may be."""


class Payload:
    """The bytes of one request: the port's `Content`. Counted by the intake until `release`."""

    __slots__ = ("_data", "_intake", "_may_be_empty", "size")

    def __init__(self, intake: "Intake", data: bytes, may_be_empty: bool) -> None:
        self._intake = intake
        self._data = data
        self._may_be_empty = may_be_empty
        self.size = len(data)

    async def cut(self, *, is_json: bool) -> list[bytes]:
        """The pieces that are kept; JSON is cut only between values. Raises InvalidJson."""
        if is_json:
            pieces = await self._intake.cut_json(self._data)
            if not pieces and not self._may_be_empty:
                raise InvalidJson("an empty array appends nothing")
            return pieces
        data, most = self._data, self._intake.piece
        if len(data) <= most:
            return [data] if data else []
        return [data[start : start + most] for start in range(0, len(data), most)]

    def release(self) -> None:
        """What was received is stored, or given up. Call it once."""
        self._intake.give(self.size)


class Intake:
    """At most `per_body` bytes of one body and `total` of all, from their arrival until they are given back.

    `piece` is the most bytes of one piece.
    """

    def __init__(self, per_body: int, total: int, piece: int) -> None:
        self._per_body = per_body
        self._left = total
        self.piece = piece
        self._reading: ThreadPoolExecutor | None = ThreadPoolExecutor(1, thread_name_prefix="store-json")

    async def take(self, body: Body, *, may_be_empty: bool) -> Payload:
        """The whole body, to be released when it is stored. `may_be_empty`: an empty JSON array is good.

        Raises TooLong, Overloaded, BodyError; then nothing is held.
        """
        if body.length == 0:
            return Payload(self, b"", may_be_empty)
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
            raise
        finally:
            body.close()
        first = parts[0] if len(parts) == 1 else None
        data = first if isinstance(first, bytes) else b"".join(parts)
        return Payload(self, data, may_be_empty)

    def give(self, size: int) -> None:
        """So many bytes are no longer held."""
        self._left += size

    async def cut_json(self, data: bytes) -> list[bytes]:
        """JSON as the pieces that are kept. Raises InvalidJson."""
        size = self.piece
        if len(data) > _LONG_JSON and self._reading is not None:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._reading, lambda: split_values(flatten(data), size))
        return split_values(flatten(data), size) if data else []

    async def aclose(self) -> None:
        """End the thread."""
        reading, self._reading = self._reading, None
        if reading is not None:
            await asyncio.to_thread(reading.shutdown)
