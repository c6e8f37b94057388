"""One exchange of an HTTP/2 connection (RFC 9113), as far as frames are concerned, and the bounds of a connection."""

from dataclasses import dataclass

from proxy.wire.credit import Credit
from proxy.wire.events import HeadLimits, PeerError
from proxy.wire.frames import ErrorCode
from proxy.wire.outbox import Outflow

__all__ = ["CodecSettings", "H2Exchange"]


@dataclass(frozen=True, slots=True)
class CodecSettings:
    """Bounds of one connection."""

    head: HeadLimits  # bounds of each head; a field block is refused unread when it is larger than `head_bytes` encoded
    window_bytes: int  # bytes of one exchange that the peer may send before credit is returned
    exchanges: int  # most exchanges that the peer may have in progress


class H2Exchange:
    """One exchange, as far as frames are concerned: what is still due to come, and what is on its way out."""

    __slots__ = (
        "code", "credit", "has_head", "informational", "is_closed", "is_dropping", "is_received", "left", "method",
        "out", "room", "stream",
    )  # fmt: skip

    def __init__(self, stream: int, window: int, room: int) -> None:
        self.stream = stream
        self.credit = Credit(window)
        self.out = Outflow(stream, room)
        self.left: int | None = None  # bytes that must still come, None: as many as do
        self.room: int | None = None  # bytes that may still come when `left` is not known, None: any number
        self.is_received = False  # END_STREAM came
        self.is_dropping = False  # what still comes is not wanted
        self.is_closed = False  # ended on both sides, or reset
        self.code = ErrorCode.NO_ERROR  # why the rest of what comes is reset at the end
        self.has_head = False  # a client's: the final response's head came
        self.informational = 0  # a client's: heads before that
        self.method = b""  # the request's

    def count_body(self, count: int, *, ended: bool) -> PeerError | None:
        """The body goes on for `count` bytes: what is wrong with that, or with its end (section 8.1.1)."""
        if self.left is not None:
            self.left -= count
            if self.left < 0 or (ended and self.left):
                return PeerError("the body is not as long as its content-length")
        elif self.room is not None:
            self.room -= count
            if self.room < 0:
                return PeerError("the body is too large", 413)
        return None
