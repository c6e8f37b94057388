"""Request bodies, collected whole before the upstream is asked. Owns how much memory they take, each and in sum."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from proxy.base.errors import Code, Refusal
from proxy.http.body import Body, BytesBody, ReleasingBody, TooLarge
from proxy.wire.events import Buffer

__all__ = ["Upload", "Uploads"]


class Upload:
    """One request body in memory."""

    def __init__(self, uploads: "Uploads") -> None:
        self._uploads = uploads
        self._reserved = 0
        self._content = bytearray()  # copied once: a slice would hold on to all of the read that it came in
        self.is_answered = False
        self._has_left = False

    @property
    def content(self) -> Buffer:
        """The bytes that were collected, until `drop`."""
        return memoryview(self._content)

    async def collect(self, body: Body) -> None:
        """Take all of `body`, what it announces reserved first. Raises TooLarge, BodyError, Refusal: no room."""
        self._reserve(body.length or 0)
        while parts := await body.take():
            self._reserve(len(self._content) + sum(map(len, parts)))
            for part in parts:
                self._content += part

    def _reserve(self, size: int) -> None:
        more = max(size - self._reserved, 0)
        self._uploads.reserve(size, more)
        self._reserved += more

    def outgoing(self) -> Body:
        """The bytes, for a sender that closes the body when nothing of it is waiting any more."""
        return ReleasingBody(BytesBody((self.content,)), self.left)

    def answered(self) -> None:
        """The upstream has answered, which it may do before it has read all: dropped once they have left the sender."""
        self.is_answered = True
        if self._has_left:
            self.drop()

    def left(self) -> None:
        """The sender holds nothing of it any more."""
        self._has_left = True
        if self.is_answered:
            self.drop()

    def drop(self) -> None:
        """The bytes are not needed any more, and their room is free. Harmless when done before."""
        self._content = bytearray()
        self._uploads.give_back(self._reserved)
        self._reserved = 0


class Uploads:
    """All request bodies in memory: at most `each` bytes of one and `total` of all together."""

    def __init__(self, *, each: int, total: int) -> None:
        self._each = each
        self._free = total

    @asynccontextmanager
    async def collected(self, body: Body) -> AsyncIterator[Upload]:
        """`body`, whole, until it is dropped: at the end of the block, unless it `is_answered` and does that itself.

        Raises as `Upload.collect`.
        """
        upload = Upload(self)
        try:
            await upload.collect(body)
            yield upload
        finally:
            if not upload.is_answered:
                upload.drop()

    def reserve(self, size: int, more: int) -> None:
        """Take room for `more` bytes of a body of `size` so far. Raises TooLarge, Refusal."""
        if size > self._each:
            raise TooLarge
        if more > self._free:
            raise Refusal(Code.OVERLOADED, "too many request bodies are being received")
        self._free -= more

    def give_back(self, size: int) -> None:
        """Room for `size` bytes is free again."""
        self._free += size
