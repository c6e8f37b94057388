"""What the h2 library sees of an HTTP/2 connection: the only module that knows h2 and hpack.

h2 keeps the state of the connection and of its streams, answers SETTINGS and PING, and codes field sections. It is
given whole field blocks, SETTINGS, PING and RST_STREAM, one frame at a time, so that a fault never takes what came
before it. It never sees DATA, WINDOW_UPDATE and GOAWAY: an end that came with DATA is shown to it as an empty block
of trailers, and one that is sent with DATA by `end_sent`. So its states stay right without its slow way for bodies.

Its checks of heads are off and it is shown only the status of them: a bad head is a fault of one stream
(`proxy.wire.fields`), but h2 would end the connection.
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.exceptions import DenialOfServiceError, NoSuchStreamError, ProtocolError
from h2.settings import SettingCodes, Settings
from hpack import Decoder, Encoder, HeaderTuple, NeverIndexedHeaderTuple
from hpack.exceptions import HPACKError

from proxy.wire.frames import (
    MAX_WINDOW,
    PREFACE,
    ConnectionFault,
    ErrorCode,
    FrameType,
    headers_frame,
    raw_frame,
    reset_frame,
    settings_frame,
)
from proxy.wire.h2_exchange import CodecSettings
from proxy.wire.headers import Field

__all__ = ["Shadow"]

_TABLE_BYTES = 4_096
"""The most of the peer's table that is used: each field is looked up in it one by one."""

_CLOSED_STREAMS = 1_000
"""Closed streams that are remembered, for frames that were on their way when their stream ended."""

_HPACK_OVERHEAD = 32  # bytes that the list size counts for each field (RFC 9113 section 6.5.2)

_REPEATED = frozenset((
    b":status", b":method", b":scheme", b":authority", b"accept", b"accept-encoding", b"accept-language",
    b"cache-control", b"content-encoding", b"content-type", b"cross-origin-resource-policy", b"referrer-policy",
    b"server", b"user-agent", b"vary", b"x-accel-buffering", b"x-content-type-options",
))  # fmt: skip
"""Fields that have the same value in most heads of a connection. Others, secrets among them, are never indexed."""

_FieldTuple = tuple[bytes | str, bytes | str] | tuple[bytes | str, bytes | str, bool | None]


_INDEXED = 0x80  # first byte of a field that the table holds (RFC 7541 section 6.1)

_KNOWN_FIELDS = 64
_KNOWN_BYTES = 128
"""Encoded fields that are remembered, and the size of the largest."""


class _Encoder(Encoder):
    """hpack's, without Huffman coding, whose cost grows with the square of a value's length, and with a small table.

    How a field was encoded stays right until the table changes. The same fields come again in most heads.
    """

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[tuple[Field, bool], bytes] = {}

    @property
    def header_table_size(self) -> int:
        """Bytes of the table in use."""
        return self.header_table.maxsize

    @header_table_size.setter
    def header_table_size(self, value: int) -> None:
        size = min(value, _TABLE_BYTES)
        if size != self.header_table.maxsize:  # hpack would forget a change that is followed by none
            self.header_table.maxsize = size
            self._known.clear()
            smallest = min([size, *self.table_size_changes])  # this and the last are to be said (RFC 7541 section 4.2)
            self.table_size_changes = [size] if size == smallest else [smallest, size]

    def encode(
        self,
        headers: Iterable[HeaderTuple | _FieldTuple] | dict[bytes | str, bytes | str],
        huffman: bool = False,  # hpack's own signature
    ) -> bytes:
        """See hpack."""
        return super().encode(headers, huffman=False)

    def add(self, to_add: Field, sensitive: bool, huffman: bool = False) -> bytes:  # hpack's own signature
        """See hpack."""
        known = self._known.get((to_add, sensitive))
        if known is not None:
            return known
        encoded = super().add(to_add, sensitive, huffman)
        is_added = not sensitive and encoded[0] < _INDEXED
        if is_added or len(self._known) == _KNOWN_FIELDS:
            self._known.clear()
        if not is_added and len(encoded) <= _KNOWN_BYTES:
            self._known[to_add, sensitive] = encoded
        return encoded


class _Decoder(Decoder):
    """hpack's, which keeps the fields for us and shows h2 a status at most."""

    def __init__(self, max_list_bytes: int) -> None:
        super().__init__(max_list_bytes)
        self.fields: list[Field] = []
        self.is_last = False

    def decode(self, data: bytes, raw: bool = False) -> Iterable[HeaderTuple]:  # hpack's own
        """See hpack."""
        self.fields = cast(list[Field], super().decode(data, raw=True))
        first = self.fields[:1]
        is_informational = bool(first) and first[0][0] == b":status" and first[0][1].startswith(b"1")
        return [HeaderTuple(*first[0])] if is_informational and not self.is_last else []


class _Connection(H2Connection):
    MAX_CLOSED_STREAMS = _CLOSED_STREAMS


class Shadow:
    """The h2 connection behind a codec.

    `output` takes the frames that h2 made since. A method that is given what the peer sent raises ConnectionFault.
    """

    def __init__(self, bounds: CodecSettings, *, is_client: bool) -> None:
        settings = {
            SettingCodes.HEADER_TABLE_SIZE: _TABLE_BYTES,
            SettingCodes.ENABLE_PUSH: 0,
            SettingCodes.MAX_CONCURRENT_STREAMS: bounds.exchanges,
            SettingCodes.INITIAL_WINDOW_SIZE: bounds.window_bytes,
            SettingCodes.MAX_HEADER_LIST_SIZE: bounds.head.head_bytes + _HPACK_OVERHEAD * bounds.head.fields,
        }
        self._h2 = _Connection(
            H2Configuration(
                client_side=is_client,
                header_encoding=None,
                validate_inbound_headers=False,
                normalize_inbound_headers=False,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._decoder = _Decoder(settings[SettingCodes.MAX_HEADER_LIST_SIZE])
        self._h2.decoder = self._decoder
        self._h2.encoder = _Encoder()
        self._h2.local_settings = Settings(
            client=is_client, initial_values=settings | {SettingCodes.MAX_CONCURRENT_STREAMS: MAX_WINDOW}
        )  # the codec holds the bound on streams: for h2, one too many would end the connection
        self._h2.max_inbound_frame_size = 1 << 24  # frames were measured; a joined block may be larger than one
        self._h2.initiate_connection()
        self._h2.clear_outbound_data_buffer()
        self._h2.receive_data(b"" if is_client else PREFACE)
        self.greeting = (PREFACE if is_client else b"") + settings_frame(settings.items())
        """What is sent first (RFC 9113 section 3.4)."""

    @property
    def peer_window(self) -> int:
        """SETTINGS_INITIAL_WINDOW_SIZE of the peer."""
        return self._h2.remote_settings.initial_window_size

    @property
    def peer_frame_bytes(self) -> int:
        """SETTINGS_MAX_FRAME_SIZE of the peer."""
        return self._h2.max_outbound_frame_size

    @property
    def peer_streams(self) -> int:
        """SETTINGS_MAX_CONCURRENT_STREAMS of the peer: a large number when it gave none."""
        return self._h2.remote_settings.max_concurrent_streams

    def output(self) -> bytes:
        """Frames to send, b"" when there are none."""
        return self._h2.data_to_send()

    def receive_control(self, kind: FrameType, flags: int, stream: int, payload: bytes) -> None:
        """SETTINGS, PING or RST_STREAM came. Their answers are in `output`."""
        self._receive(raw_frame(kind, flags, stream, payload))

    def receive_block(self, stream: int, block: bytes, *, ended: bool) -> list[Field]:
        """A whole field block came: its fields, whatever they are worth."""
        self._decoder.is_last = ended
        self._receive(headers_frame(stream, block, ended=ended))
        fields, self._decoder.fields = self._decoder.fields, []
        return fields

    def receive_end(self, stream: int) -> None:
        """DATA with END_STREAM came."""
        self._receive(headers_frame(stream, b"", ended=True))

    def _receive(self, frame: bytes) -> None:
        try:
            self._h2.receive_data(frame)
        except DenialOfServiceError as error:
            raise ConnectionFault("a head is far too large", ErrorCode.ENHANCE_YOUR_CALM) from error
        except ProtocolError as error:
            if isinstance(error.__cause__, HPACKError):
                raise ConnectionFault("a head could not be decoded", ErrorCode.COMPRESSION_ERROR) from error
            raise ConnectionFault("a frame breaks the protocol", ErrorCode(error.error_code)) from error

    def send_block(self, stream: int, fields: list[Field], *, ended: bool) -> None:
        """Send a head: a request's opens `stream`."""
        self._h2.send_headers(stream, [_coded(field) for field in fields], end_stream=ended)

    def end_sent(self, stream: int) -> None:
        """DATA with END_STREAM is sent."""
        before = self._h2.data_to_send()
        self._h2.end_stream(stream)
        self._h2.clear_outbound_data_buffer()
        assert not before  # noqa: S101  # output is taken after each call

    def reset(self, stream: int, code: ErrorCode) -> bytes:
        """RST_STREAM to send."""
        with suppress(NoSuchStreamError):  # closed on both sides: the frame is sent all the same
            self._h2.reset_stream(stream, code)
        self._h2.clear_outbound_data_buffer()
        return reset_frame(stream, code)

    def next_stream(self) -> int:
        """The number of the next request's stream."""
        return self._h2.get_next_available_stream_id()


def _coded(field: Field) -> HeaderTuple:
    name, value = field
    is_repeated = name in _REPEATED or name.startswith(b"access-control-")
    return HeaderTuple(name, value) if is_repeated else NeverIndexedHeaderTuple(name, value)
