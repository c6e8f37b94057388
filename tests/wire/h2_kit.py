"""HTTP/2 in tests: raw frames, conversations with whole h2, and what came of them in a form that no split changes."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
from hpack import Encoder
from hyperframe.frame import Frame as HyperFrame

from proxy.wire.events import HeadLimits, RequestHead, ResponseHead
from proxy.wire.frames import PREFACE, FrameType, raw_frame, settings_frame
from proxy.wire.h2 import H2Codec
from proxy.wire.h2_client import H2ClientCodec
from proxy.wire.h2_events import (
    DataReceived,
    Event,
    ExchangeReset,
    GoneAway,
    PingAnswered,
    RequestReceived,
    RequestRefused,
    ResponseReceived,
    SendingDone,
)
from proxy.wire.h2_exchange import CodecSettings
from proxy.wire.h2_server import H2ServerCodec

LIMITS = HeadLimits(head_bytes=4096, fields=30, target_bytes=1024)
SETTINGS = CodecSettings(LIMITS, window_bytes=65_535, exchanges=100)
MAX_BODY = 1 << 20
OPENING = PREFACE + settings_frame([])

GET = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", b"h"), (b":path", b"/")]
POST = [(b":method", b"POST"), *GET[1:]]

Fields = list[tuple[bytes, bytes]]


def server(settings: CodecSettings = SETTINGS, max_body: int = MAX_BODY) -> H2ServerCodec:
    return H2ServerCodec(settings, max_body)


def client(settings: CodecSettings = SETTINGS) -> H2ClientCodec:
    return H2ClientCodec(settings)


def h2_side(*, is_client: bool, checks: bool = True) -> h2.connection.H2Connection:
    """Whole h2, which has greeted."""
    connection = h2.connection.H2Connection(
        h2.config.H2Configuration(
            client_side=is_client,
            header_encoding=None,
            validate_inbound_headers=checks,
            validate_outbound_headers=checks,
        )
    )
    connection.initiate_connection()
    return connection


def heads(stream: int, fields: Fields, *, ended: bool = True, flags: int = 4) -> bytes:
    """HEADERS whose block needs no table."""
    block = Encoder().encode([(name, value, True) for name, value in fields], huffman=False)
    return raw_frame(FrameType.HEADERS, flags | ended, stream, block)


def data(stream: int, payload: bytes, *, ended: bool = False, pad: int | None = None) -> bytes:
    if pad is not None:
        payload = bytes([pad]) + payload + bytes(pad)
    return raw_frame(FrameType.DATA, ended | (8 if pad is not None else 0), stream, payload)


def frames_in(output: bytes) -> list[HyperFrame]:
    """The frames that a side sent, as hyperframe reads them."""
    view = memoryview(output.removeprefix(PREFACE))
    found = []
    while view:
        frame, length = HyperFrame.parse_frame_header(view[:9])
        frame.parse_body(view[9 : 9 + length])
        found.append(frame)
        view = view[9 + length :]
    return found


def sent_by(codec: H2Codec) -> list[str]:
    """What a codec has sent since, one line each: `RST_STREAM 1 7`, `GOAWAY 0 11`, `WINDOW_UPDATE 0`."""
    lines = []
    for frame in frames_in(b"".join(codec.take_output())):
        line = f"{type(frame).__name__.removesuffix('Frame')} {frame.stream_id}"
        code = getattr(frame, "error_code", None)
        lines.append(line if code is None else f"{line} {int(code)}")
    return lines


@dataclass
class Seen:
    """What came of one stream: heads, payload and the end, or how it was reset."""

    heads: list[object] = field(default_factory=list)
    body: bytes = b""
    end: str = ""


Story = dict[int, Seen]


def tell(story: Story, events: Iterable[Event]) -> Story:
    """Add a codec's events to the story."""
    for event in events:
        match event:
            case RequestReceived(stream, head, ended) | ResponseReceived(stream, head, ended):
                seen = story.setdefault(stream, Seen())
                seen.heads.append(_fields(head))
                seen.end = "end" if ended else ""
            case DataReceived(stream, parts, ended):
                assert all(parts)
                story[stream].body += b"".join(parts)
                story[stream].end = "end" if ended else ""
            case ExchangeReset(stream, code):
                story.setdefault(stream, Seen()).end = f"reset {int(code)}"
            case RequestRefused(stream, error):
                story.setdefault(stream, Seen()).end = f"refused {error.status}"
            case SendingDone() | GoneAway() | PingAnswered():
                pass
    return story


def _fields(head: RequestHead | ResponseHead) -> list[tuple[bytes, bytes]]:
    if isinstance(head, RequestHead):
        return sorted([(b":method", head.method), (b":path", head.target), *head.headers])
    return sorted([(b":status", b"%d" % head.status), *head.headers])


def tell_h2(story: Story, events: Iterable[h2.events.Event]) -> Story:
    """Add whole h2's events to the story, in the same form; informational heads and trailers are passed over."""
    for event in events:
        match event:
            case h2.events.RequestReceived() | h2.events.ResponseReceived():
                fields = [
                    (b"host" if name == b":authority" else bytes(name), bytes(value))
                    for name, value in event.headers
                    if name != b":scheme"
                ]
                story.setdefault(event.stream_id, Seen()).heads.append(sorted(fields))
            case h2.events.DataReceived():
                story[event.stream_id].body += event.data
            case h2.events.StreamEnded():
                story[event.stream_id].end = "end"
            case h2.events.StreamReset():
                story.setdefault(event.stream_id, Seen()).end = f"reset {int(event.error_code)}"
    return story


def feed(codec: H2Codec, pieces: Iterable[bytes]) -> Story:
    """What a codec sees of bytes that come in these pieces."""
    story: Story = {}
    for piece in pieces:
        tell(story, codec.receive(piece))
    return story
