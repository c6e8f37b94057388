"""A field block of HTTP/2 on its way in: HEADERS and the CONTINUATION frames behind it (RFC 9113 section 4.3).

What a block costs to decode grows with it, and a block that never ends would be kept for ever. So its bytes and its
frames are bounded before anything is decoded.
"""

from proxy.wire.events import Buffer
from proxy.wire.frames import END_HEADERS, END_STREAM, PRIORITY, ConnectionFault, ErrorCode, Frame, FrameType, unpadded

__all__ = ["FieldBlock"]

_CONTINUATIONS = 8
_PRIORITY_BYTES = 5


class FieldBlock:
    """The block that is arriving, if one is: `is_open` until its last frame. Of `stream`, which it may `ended`.

    Every method that takes a frame raises ConnectionFault.
    """

    __slots__ = ("_max_bytes", "_pieces", "_size", "ended", "is_open", "stream")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._pieces: list[Buffer] = []
        self._size = 0
        self.is_open = False
        self.stream = 0
        self.ended = False

    def receive(self, frame: Frame) -> bytes | None:
        """HEADERS or CONTINUATION came: the block without padding and priority if it is whole now, else None."""
        if frame.kind == FrameType.HEADERS:
            self._begin(frame)
        elif not self.is_open:
            raise ConnectionFault("a continuation of no head")
        else:
            self._append(frame.payload)
        if not frame.flags & END_HEADERS:
            return None
        block = b"".join(self._pieces)
        self._pieces = []
        self.is_open = False
        return block

    def _begin(self, frame: Frame) -> None:
        payload = unpadded(frame)
        if frame.flags & PRIORITY:
            if len(payload) < _PRIORITY_BYTES:
                raise ConnectionFault("a frame is too short for its priority", ErrorCode.FRAME_SIZE_ERROR)
            payload = payload[_PRIORITY_BYTES:]
        self.is_open = True
        self.stream = frame.stream
        self.ended = bool(frame.flags & END_STREAM)
        self._size = 0
        self._append(payload)

    def _append(self, payload: Buffer) -> None:
        self._pieces.append(payload)
        self._size += len(payload)
        if self._size > self._max_bytes or len(self._pieces) > _CONTINUATIONS + 1:
            raise ConnectionFault("a head is far too large", ErrorCode.ENHANCE_YOUR_CALM)
