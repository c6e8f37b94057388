"""The vocabulary of codecs: limits, heads, faults, and what one read of HTTP/1.1 brought. Owns no parsing."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from proxy.wire.headers import Headers

__all__ = ["Buffer", "HeadLimits", "HeadT", "PeerError", "Received", "RequestHead", "ResponseHead", "first_bytes"]

Buffer = bytes | memoryview


def first_bytes(parts: Iterable[Buffer], count: int) -> Iterable[Buffer]:
    """The buffers that hold the first `count` bytes of `parts`, the last one sliced."""
    for part in parts:
        if count <= 0:
            return
        yield part if len(part) <= count else memoryview(part)[:count]
        count -= len(part)


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Bounds of a message head: bytes in all, number of fields, bytes of the request target."""

    head_bytes: int
    fields: int
    target_bytes: int


class PeerError(Exception):
    """The peer sent what the protocol does not allow: `fault` says what, without any of the peer's bytes.

    `status` is what a server may answer; a client drops the connection.
    """

    def __init__(self, fault: str, status: int = 400) -> None:
        super().__init__(fault)
        self.fault = fault
        self.status = status


class RequestHead(NamedTuple):
    """A request's head. `length` is the body's bytes (0: none), None when it is chunked."""

    method: bytes
    target: bytes
    headers: Headers
    length: int | None
    keep_alive: bool
    expect_continue: bool


class ResponseHead(NamedTuple):
    """A final response's head. `length` is the body's bytes (0: none), None when framing will tell."""

    status: int
    headers: Headers
    length: int | None


HeadT = TypeVar("HeadT", RequestHead, ResponseHead)


Received = tuple[HeadT | None, list[Buffer], bool]
"""What one read brought, in this order: a head or None, bytes of its body, and whether that ended as promised.

The bytes are in the buffers they arrived in (slices of them, or small ones joined), none of them empty.
"""
