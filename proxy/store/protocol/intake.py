"""Request bodies on their way to the engine: received whole, cut into pieces. Owns the bounds on them.

A body counts as held from the arrival of its first bytes until it is stored or refused. Bytes are counted when they
arrive, not when they are announced: a request that announces much and sends nothing takes no memory from others.
"""

from proxy.http.body import Body
from proxy.store.protocol.json_mode import InvalidJson, JsonCutter
from proxy.store.settings import StoreSettings
from proxy.wire.events import Buffer

__all__ = ["Intake", "Overloaded", "Payload", "TooLong"]


class Overloaded(Exception):
    """Too many bytes of request bodies are held already."""


class TooLong(Exception):
    """One body is larger than an append may be."""


class Payload:
    """The bytes of one request: the port's `Content`. They count as held until `release`."""

    __slots__ = ("_data", "_intake", "_may_be_empty", "size")

    def __init__(self, intake: "Intake", data: bytes, may_be_empty: bool) -> None:
        self._intake = intake
        self._data = data
        self._may_be_empty = may_be_empty
        self.size = len(data)

    async def cut(self, *, is_json: bool) -> list[bytes]:
        """The pieces to keep; JSON is cut only between values. Raises InvalidJson, TooManyValues."""
        if is_json:
            pieces = await self._intake.json.cut(self._data)
            if not pieces and not self._may_be_empty:
                raise InvalidJson("an empty array appends nothing")
            return pieces
        data, most = self._data, self._intake.piece
        if len(data) <= most:
            return [data]
        return [data[start : start + most] for start in range(0, len(data), most)]

    def release(self) -> None:
        """The bytes are stored, or were refused: they are no longer held. Call it once."""
        self._intake.give(self.size)


class Intake:
    """Receives bodies of at most `append_bytes` each, and `held_bytes` together until they are released."""

    def __init__(self, settings: StoreSettings) -> None:
        self._per_body = settings.append_bytes
        self._left = settings.held_bytes
        self.piece = settings.piece_bytes
        self.json = JsonCutter(settings.event_bytes, settings.append_values, settings.json_threads)

    async def take(self, body: Body, *, may_be_empty: bool) -> Payload:
        """Receive the whole body. Call `release` on it when it is stored. `may_be_empty`: an empty JSON array is valid.

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
        return Payload(self, first if isinstance(first, bytes) else b"".join(parts), may_be_empty)

    def give(self, size: int) -> None:
        """`size` bytes are no longer held."""
        self._left += size

    async def aclose(self) -> None:
        """End the threads that check JSON."""
        await self.json.aclose()
