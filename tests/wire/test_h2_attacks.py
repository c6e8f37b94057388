"""HTTP/2 as raw frames: what breaks a connection, what breaks one stream, what breaks nothing, and what floods cost."""

from collections.abc import Callable
from struct import pack

import pytest
from hpack import Encoder

from proxy.wire.frames import (
    FRAME_BYTES,
    MAX_WINDOW,
    PREFACE,
    ErrorCode,
    FrameType,
    goaway_frame,
    headers_frame,
    ping_frame,
    raw_frame,
    reset_frame,
    settings_frame,
    window_frame,
)
from proxy.wire.h2_events import DataReceived, ExchangeReset, HeadReceived, Refused
from proxy.wire.h2_exchange import CodecSettings
from proxy.wire.headers import Headers
from tests.wire.h2_kit import GET, LIMITS, OPENING, POST, Fields, client, data, feed, h2_side, heads, sent_by, server

HOST = Headers([(b"host", b"h")])
BEGUN = heads(1, POST, ended=False)
ENDED = heads(1, GET)
BLOCK = heads(1, GET)[9:]

CONNECTION_FAULTS = {
    "not the preface": (b"GET / HTTP/1.1\r\n\r\n", 1),
    "a first frame that is not SETTINGS": (PREFACE + ping_frame(b"12345678"), 1),
    "a first frame that acknowledges settings": (PREFACE + raw_frame(FrameType.SETTINGS, 1, 0, b""), 1),
    "DATA of no stream": (OPENING + data(0, b"x"), 1),
    "DATA before its head": (OPENING + data(1, b"x"), 1),
    "HEADERS of no stream": (OPENING + heads(0, GET), 1),
    "HEADERS of an even stream": (OPENING + heads(2, GET), 1),
    "RST_STREAM of no stream": (OPENING + reset_frame(0, 8), 1),
    "RST_STREAM before its head": (OPENING + reset_frame(1, 8), 1),
    "WINDOW_UPDATE before its head": (OPENING + window_frame(1, 8), 1),
    "WINDOW_UPDATE of nothing": (OPENING + window_frame(0, 0), 1),
    "a connection window that overflows": (OPENING + window_frame(0, MAX_WINDOW), 3),
    "PRIORITY of no stream": (OPENING + raw_frame(FrameType.PRIORITY, 0, 0, bytes(5)), 1),
    "SETTINGS of a stream": (OPENING + raw_frame(FrameType.SETTINGS, 0, 1, b""), 1),
    "PING of a stream": (OPENING + raw_frame(FrameType.PING, 0, 1, bytes(8)), 1),
    "GOAWAY of a stream": (OPENING + raw_frame(FrameType.GOAWAY, 0, 1, bytes(8)), 1),
    "a push by a client": (OPENING + raw_frame(FrameType.PUSH_PROMISE, 4, 1, bytes(4) + BLOCK), 1),
    "a large frame": (OPENING + BEGUN + raw_frame(FrameType.DATA, 0, 1, bytes(FRAME_BYTES + 1)), 6),
    "a large unknown frame": (OPENING + pack(">HBBBL", 255, 0, 77, 0, 0), 6),
    "a short PING": (OPENING + raw_frame(FrameType.PING, 0, 0, bytes(7)), 6),
    "a short RST_STREAM": (OPENING + BEGUN + raw_frame(FrameType.RST_STREAM, 0, 1, bytes(3)), 6),
    "a long WINDOW_UPDATE": (OPENING + raw_frame(FrameType.WINDOW_UPDATE, 0, 0, bytes(5)), 6),
    "a short PRIORITY": (OPENING + raw_frame(FrameType.PRIORITY, 0, 1, bytes(4)), 6),
    "half a setting": (OPENING + raw_frame(FrameType.SETTINGS, 0, 0, bytes(7)), 6),
    "an acknowledgement with settings": (OPENING + raw_frame(FrameType.SETTINGS, 1, 0, bytes(6)), 6),
    "a short GOAWAY": (OPENING + raw_frame(FrameType.GOAWAY, 0, 0, bytes(7)), 6),
    "HEADERS shorter than their priority": (OPENING + raw_frame(FrameType.HEADERS, 0x24, 1, bytes(4)), 6),
    "padding longer than DATA": (OPENING + BEGUN + raw_frame(FrameType.DATA, 8, 1, b"\x05abcd"), 1),
    "padding longer than HEADERS": (OPENING + raw_frame(FrameType.HEADERS, 0xC, 1, b"\x05abcd"), 1),
    "padding without a length": (OPENING + BEGUN + raw_frame(FrameType.DATA, 8, 1, b""), 1),
    "DATA within a head": (OPENING + heads(1, GET, flags=0) + data(1, b""), 1),
    "an unknown frame within a head": (OPENING + heads(1, GET, flags=0) + raw_frame_unknown(), 1)
    if False
    else (OPENING + heads(1, GET, flags=0) + pack(">HBBBL", 0, 0, 77, 0, 0), 1),
    "another stream's continuation": (OPENING + heads(1, GET, flags=0) + raw_frame(FrameType.CONTINUATION, 4, 3, b""), 1),
    "a continuation of nothing": (OPENING + raw_frame(FrameType.CONTINUATION, 4, 1, b""), 1),
    "nine continuations": (
        OPENING + heads(1, GET, flags=0) + 9 * raw_frame(FrameType.CONTINUATION, 0, 1, b"") , 11,
    ),
    "a block that is too large": (OPENING + raw_frame(FrameType.HEADERS, 4, 1, bytes(LIMITS.head_bytes + 1)), 11),
    "a head that unpacks to far more": (OPENING + headers_frame(1, bomb(), ended=True), 11)
    if False
    else (OPENING, 0),
    "an index that does not exist": (OPENING + headers_frame(1, b"\xff\xff\x07", ended=True), 9),
    "a table larger than announced": (OPENING + headers_frame(1, b"\x3f\xe2\x1f" + BLOCK, ended=True), 9),
    "a number without an end": (OPENING + headers_frame(1, b"\xff" + 20 * b"\xff", ended=True), 9),
    "a window of more than 2^31-1": (PREFACE + settings_frame([(4, 2**31)]), 3),
    "a frame size below 2^14": (PREFACE + settings_frame([(5, 16_383)]), 1),
    "ENABLE_PUSH of 2": (PREFACE + settings_frame([(2, 2)]), 1),
    "33 settings": (PREFACE + settings_frame([(1000 + number, 0) for number in range(33)]), 11),
    "a stream window that settings overflow": (
        OPENING + BEGUN + window_frame(1, MAX_WINDOW - 65_535) + settings_frame([(4, 65_536)]), 3,
    ),
    "HEADERS on a stream that both have ended": (OPENING + ENDED, 0),
}  # fmt: skip
