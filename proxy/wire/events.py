"""What a codec tells and is told, the same for every HTTP version. Owns the vocabulary, no parsing."""

from dataclasses import dataclass

from proxy.base.errors import Code
from proxy.wire.headers import Headers

__all__ = ["Buffer", "Data", "End", "Event", "HeadLimits", "PeerError", "RequestHead", "ResponseHead"]

Buffer = bytes | memoryview


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Bounds of a message head: bytes in all, number of fields, bytes of the request target."""

    head_bytes: int
    fields: int
    target_bytes: int


class PeerError(Exception):
    """The peer sent what the protocol does not allow. A server answers `code`; a client drops the connection."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class RequestHead:
    """A request's head. `length` is the body's bytes (0: none), None when it is chunked."""

    method: bytes
    target: bytes
    headers: Headers
    length: int | None
    keep_alive: bool
    expect_continue: bool


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """A final response's head. `length` is the body's bytes (0: none), None when framing will tell."""

    status: int
    headers: Headers
    length: int | None


@dataclass(frozen=True, slots=True)
class Data:
    """Body bytes in order, in the buffers they arrived in (slices of them, or small ones joined). Never empty."""

    parts: list[Buffer]


@dataclass(frozen=True, slots=True)
class End:
    """The body ended as its framing promised."""


Event = RequestHead | ResponseHead | Data | End
