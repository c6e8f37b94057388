"""Request bodies, collected whole before the upstream is asked. Owns the bounds on their memory and on their duration.

Memory is reserved for bytes that have arrived, not for bytes that are announced. So a request that announces a large
body and sends nothing takes no room from others. A body that arrives too slowly is refused, so that it does not keep
its room for long.

A body's room is given back when two things have happened, in either order: the upstream has answered, and the sender
has written or dropped the bytes.
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
    """Bounds of request bodies."""

    max_request_bytes: int  # largest body, in bytes
    max_request_bytes_total: int  # most bytes of all bodies that are in memory at once
    body_timeout_seconds: float  # time that every body may take; a longer one needs the minimum rate
    min_body_rate: int  # bytes per second: N received bytes extend that time by N / rate seconds


class Upload:
    """One request body in memory."""

    def __init__(self, uploads: "Uploads") -> None:
        self._uploads = uploads
        self._reserved = 0
        self._content = bytearray()  # a copy, because a slice would keep all bytes of its read in memory
        self.is_answered = False
        self._has_left = False

    @property
    def content(self) -> Buffer:
        """The bytes that were collected, until `drop`."""
        return memoryview(self._content)

    async def collect(self, body: Body, limits: UploadLimits) -> None:
        """Take all of `body`. Raises TooLarge, BodyError, or Refusal when there is no room or it arrives too slowly."""
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
            raise Refusal(Code.REQUEST_TIMEOUT, "the request body arrives too slowly") from None

    def _reserve(self, size: int, most: int) -> None:
        if size > most:
            raise TooLarge
        self._uploads.reserve(size - self._reserved)
        self._reserved = size

    def outgoing(self) -> Body:
        """The bytes as a body. Its sender closes it when it no longer holds any of the bytes."""
        return ReleasingBody(BytesBody((self.content,)), self.left)

    def answered(self) -> None:
        """The upstream has answered. It may do so before it has read everything, so the bytes are dropped only when the
        sender has let go of them.
        """
        self.is_answered = True
        if self._has_left:
            self.drop()

    def left(self) -> None:
        """The sender no longer holds any of the bytes."""
        self._has_left = True
        if self.is_answered:
            self.drop()

    def drop(self) -> None:
        """Drop the bytes and give their room back. Harmless when repeated."""
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
        """All of `body`, for the length of the block.

        It is dropped at the end of the block; when the upstream `is_answered`, it drops itself, which may be later.
        Raises what `Upload.collect` raises.
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
