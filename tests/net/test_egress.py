"""Through an egress proxy: what it is asked, what it may answer, and which hosts go without it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy.net.client_tls import ClientContexts
from proxy.net.connection import Connection
from proxy.net.dial import Address, DialError, DialFailure
from proxy.net.egress import Bypass, Egress
from tests.kit.certificates import Certificates
from tests.kit.dialling import make_dialler
from tests.kit.loop_peers import Peer, origin
from tests.kit.waiting import SOON, until


@asynccontextmanager
async def egress_proxy(
    answer: bytes, *, target: tuple[str, int] | None = None, authorization: bytes | None = None, bypass: str = ""
) -> AsyncIterator[tuple[Egress, list[bytes]]]:
    """A proxy that answers every CONNECT with `answer`, then joins the tunnel to `target`; and the heads it got."""
    heads: list[bytes] = []

    async def script(peer: Peer) -> None:
        heads.append(await peer.until(b"\r\n\r\n"))
        peer.send(answer)
        if target is None:
            return
        reader, writer = await asyncio.open_connection(*target)
        async with asyncio.TaskGroup() as group:
            group.create_task(_copy(peer.reader, writer))
            group.create_task(_copy(reader, peer.writer))

    async with origin(script) as (_, address):
        entries = tuple(bypass.split(",")) if bypass else ()
        yield Egress(address.host, address.port, authorization, Bypass(entries), 4096), heads


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


class Talker(Connection):
    def __init__(self) -> None:
        super().__init__()
        self.heard = b""

    def data_received(self, data: bytes) -> None:
        self.heard += data


async def greet(peer: Peer) -> None:
    assert await peer.exactly(5) == b"hello"
    peer.send(b"welcome")
    await asyncio.sleep(SOON)


@pytest.mark.parametrize("is_tls", [False, True])
async def test_a_host_is_reached_through_the_tunnel_and_its_name_is_not_resolved_here(
    tmp_path: pytest.TempPathFactory, is_tls: bool
) -> None:
    certificates = Certificates.make(tmp_path, "upstream.example")  # type: ignore[arg-type]  # a path
    options = {"ssl": certificates.server} if is_tls else {}
    async with origin(greet, **options) as (_, address):
        established = b"HTTP/1.1 200 Connection established\r\nVia: 1.1 egress\r\n\r\n"
        async with egress_proxy(
            established, target=(address.host, address.port), authorization=b"Basic dXNlcjpwYXNz"
        ) as (egress, heads):
            dial = make_dialler(tls=certificates.client, egress=egress)
            connection = await dial.dial(Talker, Address("upstream.example", 8443, tls=is_tls, guard=lambda *_: True))
            connection.write([b"hello"])
            await until(lambda: connection.heard == b"welcome")
            connection.cut()
            await until(lambda: connection.is_lost)
    assert heads == [
        b"CONNECT upstream.example:8443 HTTP/1.1\r\nHost: upstream.example:8443\r\n"
        b"Proxy-Authorization: Basic dXNlcjpwYXNz\r\n\r\n"
    ]


async def test_http2_is_agreed_on_within_the_tunnel(tmp_path: Path) -> None:
    certificates = Certificates.make(tmp_path, "upstream.example")
    certificates.server.set_alpn_protocols(["h2", "http/1.1"])
    async with (
        origin(greet, ssl=certificates.server) as (_, address),
        egress_proxy(b"HTTP/1.1 200 OK\r\n\r\n", target=(address.host, address.port)) as (egress, _),
    ):
        dial = make_dialler(contexts=ClientContexts(str(certificates.ca_file), ()), egress=egress)
        connection = await dial.dial(Connection, Address("upstream.example", 8443, tls=True, http2=True))
        assert connection.agreed_protocol == "h2"
        connection.cut()
        await until(lambda: connection.is_lost)


async def test_an_address_that_is_forbidden_is_not_asked_for_through_the_tunnel() -> None:
    async with egress_proxy(b"HTTP/1.1 200 OK\r\n\r\n") as (egress, heads):
        for host in ("10.0.0.1", "fd00:ec2::254"):
            with pytest.raises(DialError) as caught:
                await make_dialler(egress=egress).dial(Connection, Address(host, 80, guard=lambda *_: True))
            assert caught.value.failure is DialFailure.FORBIDDEN
    assert heads == []


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nsurplus",
        b"HTTP/1.1 200 OK\r\nX: " + bytes(5000),
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n",
    ],
)
async def test_what_is_no_tunnel_is_an_egress_failure(answer: bytes) -> None:
    async with egress_proxy(answer) as (egress, _):
        with pytest.raises(DialError) as caught:
            await make_dialler(egress=egress).dial(Connection, Address("upstream.example", 80))
        assert caught.value.failure is DialFailure.EGRESS


async def test_a_proxy_that_is_away_is_an_egress_failure_and_a_silent_one_a_time_out() -> None:
    away = Egress("127.0.0.1", 1, None, Bypass(()), 4096)
    with pytest.raises(DialError) as caught:
        await make_dialler(egress=away).dial(Connection, Address("upstream.example", 80))
    assert caught.value.failure is DialFailure.EGRESS
    with socket.create_server(("127.0.0.1", 0)) as listening:
        silent = Egress("127.0.0.1", listening.getsockname()[1], None, Bypass(()), 4096)
        with pytest.raises(DialError) as caught:
            await make_dialler(egress=silent, timeout=0.1).dial(Connection, Address("upstream.example", 80))
        assert caught.value.failure is DialFailure.TIMEOUT


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "::1"])
async def test_loopback_goes_without_it(host: str) -> None:
    async with egress_proxy(b"") as (egress, heads):
        with pytest.raises(DialError):
            await make_dialler(egress=egress).dial(Connection, Address(host, 1))
        assert not heads


@pytest.mark.parametrize(
    ("entries", "host", "is_covered"),
    [
        ("*", "anything.example", True),
        ("example.com", "example.com", True),
        (".example.com", "example.com", True),
        ("example.com", "api.EXAMPLE.com", True),
        ("*.example.com", "api.example.com", True),
        ("example.com", "notexample.com", False),
        ("example.com", "example.com.evil", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.0/8", "10.example", False),
        ("192.0.2.7", "192.0.2.7", True),
        ("[2001:db8::1]", "2001:db8::1", True),
        ("2001:db8::/32", "2001:db8:1::", True),
        ("cafe", "cafe", True),
        ("a.example,b.example", "b.example", True),
        ("", "a.example", False),
    ],
)
def test_hosts_that_go_without_it(entries: str, host: str, is_covered: bool) -> None:
    assert Bypass(tuple(entries.split(",")) if entries else ()).covers(host) is is_covered


@pytest.mark.parametrize("entry", ["", "http://example.com", "a b", "a.*.example.com", "10.0.0.0/99"])
def test_an_entry_that_is_no_host_is_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="neither"):
        Bypass((entry,))


def test_the_repr_shows_no_credentials() -> None:
    assert "s3cret" not in repr(Egress("proxy", 1, b"Basic s3cret", Bypass(()), 1))
