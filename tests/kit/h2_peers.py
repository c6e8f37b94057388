"""A client of HTTP/2 in the test's own loop: whole h2 on a socket, with its checks on, and nothing done by itself.

What the peer sends is what the test asks for: requests, bodies, credit, resets, or raw frames.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events

from tests.kit.waiting import SOON

__all__ = ["H2Peer", "H2Response"]

_READ = 1 << 18
_GOAWAY = 7


@dataclass
class H2Response:
    """What has come of one response so far."""

    informational: list[int] = field(default_factory=list)
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    reset: int | None = None

    @property
    def is_over(self) -> bool:
        return self.ended or self.reset is not None


class H2Peer:
    """One connection. Every wait ends within `SOON` seconds.

    `gives_credit`: what was received is acknowledged at once, so that windows never close. `checks`: h2 sends what is
    valid only.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        gives_credit: bool = True,
        checks: bool = True,
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.gives_credit = gives_credit
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(
                header_encoding=None, validate_outbound_headers=checks, normalize_outbound_headers=checks
            )
        )
        self.h2.initiate_connection()
        self.responses: dict[int, H2Response] = {}
        self.gone: list[tuple[int, int]] = []
        """GOAWAYs: last stream and code."""
        self.seen: list[tuple[int, int]] = []
        """Every frame: its type and its stream."""
        self.is_closed = False
        self._begun = b""
        self._next = 1
        self.flush()

    def flush(self) -> None:
        """Send what h2 has to send."""
        self.writer.write(self.h2.data_to_send())

    def send(self, raw: bytes) -> None:
        """Send raw frames."""
        self.writer.write(raw)

    def ask(
        self,
        path: str = "/",
        method: str = "GET",
        headers: tuple[tuple[str, str], ...] = (),
        body: bytes | None = b"",
    ) -> int:
        """Begin a request with this body, None: it comes later. The number of its stream."""
        stream = self._next
        self._next += 2
        self.responses[stream] = H2Response()
        head = [(":method", method), (":scheme", "http"), (":authority", "h"), (":path", path), *headers]
        self.h2.send_headers(stream, head, end_stream=body == b"")
        if body:
            self.h2.send_data(stream, body, end_stream=True)
        self.flush()
        return stream

    def ask_raw(self, fields: list[tuple[bytes, bytes]], body: bytes) -> int:
        """Send a request with exactly these fields. The number of its stream."""
        stream = self._next
        self._next += 2
        self.responses[stream] = H2Response()
        self.h2.send_headers(stream, fields)
        self.h2.send_data(stream, body, end_stream=True)
        self.flush()
        return stream

    def body(self, stream: int, data: bytes, *, ended: bool = False) -> None:
        self.h2.send_data(stream, data, end_stream=ended)
        self.flush()

    def reset(self, stream: int, code: int = 8) -> None:
        self.h2.reset_stream(stream, code)
        self.flush()

    def give_credit(self, count: int, stream: int | None = None) -> None:
        self.h2.increment_flow_control_window(count, stream)
        self.flush()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Receive until `condition()` or the end of the connection."""
        async with asyncio.timeout(SOON):
            while not condition() and not self.is_closed:
                data = await self.reader.read(_READ)
                if not data:
                    self.is_closed = True
                self._receive(data)

    def _receive(self, data: bytes) -> None:
        """Whole frames go to h2, but for GOAWAY, after which h2 would end every exchange."""
        self._begun += data
        while len(self._begun) >= 9 and len(self._begun) >= (end := 9 + int.from_bytes(self._begun[:3], "big")):
            frame, self._begun = self._begun[:end], self._begun[end:]
            self.seen.append((frame[3], int.from_bytes(frame[5:9], "big")))
            if frame[3] == _GOAWAY:
                self.gone.append((int.from_bytes(frame[9:13], "big"), int.from_bytes(frame[13:17], "big")))
                continue
            for event in self.h2.receive_data(frame):
                self._note(event)
        self.flush()

    def _note(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.InformationalResponseReceived():
                self.responses[event.stream_id].informational.append(int(event.headers[0][1]))
            case h2.events.ResponseReceived():
                fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers]
                response = self.responses[event.stream_id]
                for name, value in fields[1:]:
                    before = response.headers.get(name)
                    response.headers[name] = value if before is None else f"{before}, {value}"
                response.status = int(fields[0][1])
            case h2.events.DataReceived():
                self.responses[event.stream_id].body += event.data
                if self.gives_credit:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                self.responses[event.stream_id].ended = True
            case h2.events.StreamReset():
                self.responses[event.stream_id].reset = int(event.error_code)

    async def response(self, stream: int) -> H2Response:
        """The response once it is over."""
        response = self.responses[stream]
        await self.until(lambda: response.is_over)
        return response

    async def head(self, stream: int) -> H2Response:
        """The response once its head is here."""
        response = self.responses[stream]
        await self.until(lambda: bool(response.status) or response.is_over)
        return response

    async def fetch(self, path: str = "/", method: str = "GET", body: bytes = b"") -> H2Response:
        return await self.response(self.ask(path, method, body=body))

    async def rest(self) -> None:
        """Receive until the connection is closed."""
        await self.until(lambda: False)

    def close(self) -> None:
        self.writer.close()
