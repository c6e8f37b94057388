"""Request bodies, collected whole before the upstream is asked. Owns the bounds on their memory and on their duration.

Memory is reserved for bytes that have arrived, not for bytes that are announced. So a request that announces a large
body and sends nothing takes no room from others. A body that arrives too slowly is refused, so that it does not keep
its room for long.

A body's room is given back when two things have happened, in either order: the upstream has answered, and the sender
has written or dropped the bytes.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

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
    """One request body in memory, for the length of an `async with` block, which begins with `collect`.

    It is dropped at the end of the block; after `answered` it drops itself, which may be later.
    """

    def __init__(self, uploads: "Uploads", body: Body, limits: UploadLimits) -> None:
        self._uploads = uploads
        self._body = body
        self._limits = limits
        self._reserved = 0
        self._content = bytearray()  # a copy, because a slice would keep all bytes of its read in memory
        self._is_answered = False
        self._has_left = False

    async def __aenter__(self) -> Self:
        try:
            await self.collect()
        except BaseException:
            self.drop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self._is_answered:
            self.drop()

    @property
    def content(self) -> Buffer:
        """The bytes that were collected, until `drop`."""
        return memoryview(self._content)

    async def collect(self) -> None:
        """Take the whole body. Raises TooLarge, BodyError, or Refusal: there is no room, or it arrives too slowly."""
        body, limits = self._body, self._limits
        if (body.length or 0) > limits.max_request_bytes:
            raise TooLarge
        self._keep(body.take_nowait(), limits.max_request_bytes)
        if body.ended:  # as with most requests: it came with the head
            return
        deadline = asyncio.get_running_loop().time() + limits.body_timeout_seconds
        try:
            async with asyncio.timeout_at(deadline) as timeout:
                while parts := await body.take():
                    self._keep(parts, limits.max_request_bytes)
                    timeout.reschedule(deadline + len(self._content) / limits.min_body_rate)
        except TimeoutError:
            raise Refusal(Code.REQUEST_TIMEOUT, "the request body arrives too slowly") from None

    def _keep(self, parts: Sequence[Buffer], most: int) -> None:
        size = len(self._content) + sum(map(len, parts))
        if size > most:
            raise TooLarge
        self._uploads.reserve(size - self._reserved)
        self._reserved = size
        for part in parts:
            self._content += part

    def outgoing(self) -> Body:
        """The bytes as a body. Its sender closes it when it no longer holds any of the bytes."""
        return ReleasingBody(BytesBody((self.content,)), self.left)

    def answered(self) -> None:
        """The upstream has answered. It may do so before it has read everything, so the bytes are dropped only when the
        sender has let go of them.
        """
        self._is_answered = True
        if self._has_left:
            self.drop()

    def left(self) -> None:
        """The sender no longer holds any of the bytes."""
        self._has_left = True
        if self._is_answered:
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

    def collected(self, body: Body) -> Upload:
        """All of `body`, for the length of an `async with` block."""
        return Upload(self, body, self._limits)

    def reserve(self, size: int) -> None:
        """Take room for `size` more bytes. Raises Refusal."""
        if size > self._free:
            raise Refusal(Code.OVERLOADED, "too many request bodies are being received")
        self._free -= size

    def give_back(self, size: int) -> None:
        """Room for `size` bytes is free again."""
        self._free += size
