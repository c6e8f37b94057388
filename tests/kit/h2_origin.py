"""An origin of HTTP/2 in the test's own loop: whole h2 on a socket, and what it sends is what the script says.

A script is a coroutine that is run for every connection, as with `kit.loop_peers.origin`.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.events
import h2.settings
from hpack import Encoder

from proxy.net.dial import Address
from tests.kit.loop_peers import Origin, Peer, origin
from tests.kit.waiting import SOON

__all__ = ["H2Asked", "H2Origin", "Script2", "origin2"]

_READ = 1 << 18


@dataclass
class H2Asked:
    """What has come of one request so far."""

    stream: int
    fields: dict[bytes, bytes]
    body: bytes = b""
    ended: bool = False
    reset: int | None = None


@dataclass
class H2Origin:
    """The origin's end of one connection. Every wait ends within `SOON` seconds.

    `settings`: values of the first SETTINGS, by id, beside those of h2. `gives_credit`: what was received is
    acknowledged at once.
    """

    peer: Peer
    settings: dict[int, int] = field(default_factory=dict)
    gives_credit: bool = True

    def __post_init__(self) -> None:
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        initial = {h2.settings.SettingCodes(code): value for code, value in self.h2.local_settings.items()}
        initial |= {h2.settings.SettingCodes(code): value for code, value in self.settings.items()}
        self.h2.local_settings = h2.settings.Settings(client=False, initial_values=initial)
        self.h2.initiate_connection()
        self.asked: dict[int, H2Asked] = {}
        self.pings = 0
        self.gone = False
        self.flush()

    def flush(self) -> None:
        """Send what h2 has to send."""
        self.peer.send(self.h2.data_to_send())

    async def until(self, condition: Callable[[], bool]) -> None:
        """Receive until `condition()`. Raises ConnectionError at the end of the connection."""
        async with asyncio.timeout(SOON):
            while not condition():
                await self.receive()

    async def receive(self) -> None:
        """What one read brings."""
        if not (data := await self.peer.reader.read(_READ)):
            raise ConnectionError("the end")
        for event in self.h2.receive_data(data):
            self._note(event)
        self.flush()

    def _note(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived():
                fields = {bytes(name): bytes(value) for name, value in event.headers}
                self.asked[event.stream_id] = H2Asked(event.stream_id, fields)
            case h2.events.DataReceived():
                self.asked[event.stream_id].body += event.data
                if self.gives_credit and event.flow_controlled_length:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                self.asked[event.stream_id].ended = True
            case h2.events.StreamReset():
                self.asked[event.stream_id].reset = int(event.error_code)
            case h2.events.PingReceived():
                self.pings += 1
            case h2.events.ConnectionTerminated():
                self.gone = True

    async def request(self, number: int = 1) -> H2Asked:
        """The request of this number, from 1, once it is whole."""
        stream = 2 * number - 1
        await self.until(lambda: stream in self.asked and self.asked[stream].ended)
        return self.asked[stream]

    def head(self, stream: int, status: int = 200, *fields: tuple[str, str], ended: bool = False) -> None:
        self.h2.send_headers(stream, [(":status", str(status)), *fields], end_stream=ended)
        self.flush()

    def body(self, stream: int, data: bytes, *, ended: bool = False) -> None:
        self.h2.send_data(stream, data, end_stream=ended)
        self.flush()

    def answer(self, stream: int, body: bytes = b"ok") -> None:
        self.head(stream)
        self.body(stream, body, ended=True)

    def reset(self, stream: int, code: int) -> None:
        """RST_STREAM."""
        self.peer.send(b"\0\0\4\3\0" + stream.to_bytes(4, "big") + code.to_bytes(4, "big"))

    def goaway(self, last: int, code: int = 0) -> None:
        """GOAWAY that h2 does not know of: it would send nothing more."""
        self.peer.send(b"\0\0\x08\7\0\0\0\0\0" + last.to_bytes(4, "big") + code.to_bytes(4, "big"))

    def raw_head(self, stream: int, fields: list[tuple[bytes, bytes]], *, ended: bool = False) -> None:
        """HEADERS with exactly these fields, in which no table is used."""
        block = Encoder().encode([(name, value, True) for name, value in fields], huffman=False)
        self.peer.send(len(block).to_bytes(3, "big") + bytes([1, 4 | ended]) + stream.to_bytes(4, "big") + block)


Script2 = Callable[[H2Origin], Awaitable[None]]


@asynccontextmanager
async def origin2(
    script: Script2, tls: ssl.SSLContext, settings: dict[int, int] | None = None
) -> AsyncIterator[tuple[Origin, Address]]:
    """An origin over TLS that agrees on HTTP/2, on a free port, and the address to dial."""
    tls.set_alpn_protocols(["h2"])

    async def play(peer: Peer) -> None:
        await script(H2Origin(peer, settings or {}))

    async with origin(play, ssl=tls) as (played, address):
        yield played, address
