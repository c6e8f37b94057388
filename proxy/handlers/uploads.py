"""Request bodies, collected whole before the upstream is asked. Owns their memory, each and in sum, and their pace.

Memory is reserved for what has arrived, not for what is announced: a body that is announced and does not come holds
nothing. A body that comes too slowly is refused, so that it cannot hold for long what it has reserved.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from proxy.base.errors import Code, Refusal
from proxy.http.body import Body, BytesBody, ReleasingBody, TooLarge
from proxy.wire.events import Buffer

__all__ = ["Upload", "UploadLimits", "Uploads"]


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """Bounds of request bodies: sizes in bytes."""

    max_request_bytes: int  # of one
    max_request_bytes_total: int  # of all that are held at once
    body_timeout_seconds: float  # that every body may take
    min_body_rate: int  # bytes a second with which a body must come, on average, when it takes longer


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

    async def collect(self, body: Body, limits: UploadLimits) -> None:
        """Take all of `body`. Raises TooLarge, BodyError, Refusal: no room, or too slow."""
        if (body.length or 0) > limits.max_request_bytes:
            raise TooLarge
        deadline = asyncio.get_running_loop().time() + limits.body_timeout_seconds
        try:
            async with asyncio.timeout_at(deadline) as timeout:
                while parts := await body.take():
                    self._reserve(len(self._content) + sum(map(len, parts)), limits.max_request_bytes)
                    for part in parts:
                        self._content += part
                    timeout.reschedule(deadline + len(self._content) / limits.min_body_rate)
        except TimeoutError:
            raise Refusal(Code.REQUEST_TIMEOUT, "the request body comes too slowly") from None

    def _reserve(self, size: int, most: int) -> None:
        if size > most:
            raise TooLarge
        self._uploads.reserve(size - self._reserved)
        self._reserved = size

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
        """The bytes are not needed any more, and their room is free. Harmless when repeated."""
        self._content = bytearray()
        self._uploads.give_back(self._reserved)
        self._reserved = 0


class Uploads:
    """All request bodies in memory."""

    def __init__(self, limits: UploadLimits) -> None:
        self._limits = limits
        self._free = limits.max_request_bytes_total

    @asynccontextmanager
    async def collected(self, body: Body) -> AsyncIterator[Upload]:
        """`body`, whole, until it is dropped: at the end of the block, unless it `is_answered` and does that itself.

        Raises as `Upload.collect`.
        """
        upload = Upload(self)
        try:
            await upload.collect(body, self._limits)
            yield upload
        finally:
            if not upload.is_answered:
                upload.drop()

    def reserve(self, size: int) -> None:
        """Take room for `size` more bytes. Raises Refusal."""
        if size > self._free:
            raise Refusal(Code.OVERLOADED, "too many request bodies are being received")
        self._free -= size

    def give_back(self, size: int) -> None:
        """Room for `size` bytes is free again."""
        self._free += size
