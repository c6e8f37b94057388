"""Frames of HTTP/2 (RFC 9113 sections 4 and 6): where each begins and ends, what its size may be, and how one is made.

Knows no stream and no connection state. DATA without padding is passed on as it arrives, so that a large frame is
never joined from the reads that brought it; every other frame is given whole.
"""

import struct
from collections.abc import Iterable
from enum import IntEnum
from functools import partial
from typing import NamedTuple

from proxy.wire.events import Buffer, PeerError

__all__ = [
    "ACK",
    "END_HEADERS",
    "END_STREAM",
    "FRAME_BYTES",
    "MAX_WINDOW",
    "PADDED",
    "PREFACE",
    "PRIORITY",
    "ConnectionFault",
    "ErrorCode",
    "Frame",
    "FrameReader",
    "FrameType",
    "data_header",
    "goaway_frame",
    "headers_frame",
    "ping_frame",
    "raw_frame",
    "reset_frame",
    "settings_frame",
    "unpadded",
    "window_frame",
]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""The first bytes of a client (section 3.4)."""

FRAME_BYTES = 16_384
"""The largest payload that is received: the protocol's initial SETTINGS_MAX_FRAME_SIZE, which is not raised."""

MAX_WINDOW = 2**31 - 1

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY = 0x20

_HEADER = struct.Struct(">HBBBL")
_HEADER_BYTES = _HEADER.size
_SMALL = 2048  # bytes; slices below are copied, which is cheaper than a view (see proxy.wire.body)


class FrameType(IntEnum):
    """Section 6."""

    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


_DATA = int(FrameType.DATA)


class ErrorCode(IntEnum):
    """Section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class ConnectionFault(PeerError):
    """A connection error (section 5.4.1): GOAWAY with `code`, then nothing more is read."""

    def __init__(self, fault: str, code: ErrorCode = ErrorCode.PROTOCOL_ERROR) -> None:
        super().__init__(fault)
        self.code = code


class Frame(NamedTuple):
    """A frame, or a piece of a DATA frame without padding.

    `size` is the whole frame's payload in bytes in its first piece, 0 in the others: what flow control counts.
    `is_whole`: this is the frame's last piece.
    """

    kind: int
    flags: int
    stream: int
    payload: Buffer
    size: int
    is_whole: bool


_new_frame = partial(tuple.__new__, Frame)  # what a NamedTuple's own constructor does, at a third of its time


class FrameReader:
    """Cuts what is received into frames, however it was split. Each frame is checked before the next one is looked at.

    Size faults are raised as soon as the frame's header is there (section 4.2).
    """

    __slots__ = ("_begun", "_flags", "_left", "_stream")

    def __init__(self) -> None:
        self._begun = b""  # of a frame that is not whole
        self._left = 0  # of the payload of a DATA frame that is being passed on
        self._flags = 0
        self._stream = 0

    @property
    def is_within(self) -> bool:
        """Whether a frame has begun that is not whole and is not DATA, as far as is known."""
        begun = self._begun
        return bool(begun) and (len(begun) < _HEADER_BYTES or begun[3] != _DATA)

    def receive(self, data: bytes) -> Iterable[Frame]:
        """The frames in what was received. Raises ConnectionFault at the first that cannot be one.

        The iterator must be used to its end, or not be followed by another call.
        """
        position = 0
        if self._left:
            position = min(self._left, len(data))
            self._left -= position
            yield _new_frame((_DATA, self._flags, self._stream, _piece(data, 0, position), 0, not self._left))
        if self._begun:
            data = self._begun + (data[position:] if position else data)
            self._begun = b""
            position = 0
        end_of_data = len(data)
        while end_of_data - position >= _HEADER_BYTES:
            high, low, kind, flags, stream = _HEADER.unpack_from(data, position)
            size = high << 8 | low
            stream &= MAX_WINDOW
            begin = position + _HEADER_BYTES
            end = begin + size
            if kind:
                _check_size(kind, flags, size)
            elif size > FRAME_BYTES:
                raise _too_large()
            if end <= end_of_data:
                position = end
                yield _new_frame((kind, flags, stream, _piece(data, begin, end), size, True))
            elif kind or flags & PADDED:
                break
            else:
                self._flags, self._stream = flags, stream
                self._left = end - end_of_data
                yield _new_frame((_DATA, flags, stream, _piece(data, begin, end_of_data), size, False))
                return
        self._begun = data[position:]


_SIZES = {
    FrameType.PRIORITY: 5,
    FrameType.RST_STREAM: 4,
    FrameType.PING: 8,
    FrameType.WINDOW_UPDATE: 4,
}


def _too_large() -> ConnectionFault:
    return ConnectionFault("a frame is larger than was announced", ErrorCode.FRAME_SIZE_ERROR)


def _check_size(kind: int, flags: int, size: int) -> None:
    """Raise for a frame of a size that its type does not have (sections 4.2 and 6)."""
    if size > FRAME_BYTES:
        raise _too_large()
    fixed = _SIZES.get(kind)  # type: ignore[call-overload]  # an IntEnum's members are equal to their numbers
    is_bad = fixed is not None and size != fixed
    if kind == FrameType.SETTINGS:
        is_bad = size != 0 if flags & ACK else size % 6 != 0
    elif kind == FrameType.GOAWAY:
        is_bad = size < 8
    if is_bad:
        raise ConnectionFault("a frame has a size that its type does not allow", ErrorCode.FRAME_SIZE_ERROR)


def _piece(data: bytes, start: int, end: int) -> Buffer:
    return data[start:end] if end - start < _SMALL else memoryview(data)[start:end]


def unpadded(frame: Frame) -> Buffer:
    """The payload of a whole DATA or HEADERS frame without its padding (section 6.1). Raises ConnectionFault."""
    payload = frame.payload
    if not frame.flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault("a frame's padding is longer than the frame")
    return payload[1 : len(payload) - payload[0]]


def raw_frame(kind: FrameType, flags: int, stream: int, payload: bytes) -> bytes:
    """Any frame (section 4.1)."""
    size = len(payload)
    return _HEADER.pack(size >> 8, size & 255, kind, flags, stream) + payload


def data_header(size: int, stream: int, *, ended: bool) -> bytes:
    """The header of a DATA frame (section 6.1); its payload of `size` bytes follows."""
    return ((size << 48) | (END_STREAM << 32 if ended else 0) | stream).to_bytes(_HEADER_BYTES, "big")


def headers_frame(stream: int, block: bytes, *, ended: bool) -> bytes:
    """A HEADERS frame with a whole field block (section 6.2), of any size."""
    return raw_frame(FrameType.HEADERS, END_HEADERS | (END_STREAM if ended else 0), stream, block)


def reset_frame(stream: int, code: int) -> bytes:
    """RST_STREAM (section 6.4)."""
    return raw_frame(FrameType.RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def settings_frame(settings: Iterable[tuple[int, int]]) -> bytes:
    """SETTINGS (section 6.5)."""
    return raw_frame(FrameType.SETTINGS, 0, 0, b"".join([struct.pack(">HL", key, value) for key, value in settings]))


def ping_frame(payload: bytes) -> bytes:
    """PING with 8 bytes (section 6.7)."""
    return raw_frame(FrameType.PING, 0, 0, payload)


def goaway_frame(last: int, code: int) -> bytes:
    """GOAWAY: streams above `last` were not and will not be processed (section 6.8)."""
    return raw_frame(FrameType.GOAWAY, 0, 0, struct.pack(">LL", last, code))


def window_frame(stream: int, increment: int) -> bytes:
    """WINDOW_UPDATE (section 6.9)."""
    return raw_frame(FrameType.WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))
