"""Dialling: resolution, the guard, several addresses, TLS, Unix sockets. The pool tells the same to its callers."""

import asyncio
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest
from aiohappyeyeballs import start_connection

from proxy.net.client_tls import ClientContexts, origin_and_file
from proxy.net.connection import Connection
from proxy.net.dial import Address, AddrInfo, DialError, DialFailure, Dialler
from proxy.net.tls import TlsError
from proxy.policy.addresses import AddressRules, Reach
from tests.kit.certificates import Authority, Certificates
from tests.kit.dialling import Resolved, make_dialler
from tests.kit.waiting import SOON, until

PUBLIC = AddressRules(lambda _: False).guard(Reach.PUBLIC)


async def failure(dial: Dialler, address: Address) -> DialFailure:
    with pytest.raises(DialError) as caught:
        await dial.dial(Connection, address)
    return caught.value.failure


@asynccontextmanager
async def accepting(host: str = "127.0.0.1", tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A port where connections are accepted and closed when their peer closes. At the end none may be left open."""
    is_open = 0

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal is_open
        is_open += 1
        with suppress(ConnectionError):
            await reader.read()
        writer.close()
        is_open -= 1

    server = await asyncio.start_server(accepted, host, 0, ssl=tls)
    yield int(server.sockets[0].getsockname()[1])
    server.close()
    await asyncio.sleep(0.01)  # one that was opened last may not have been accepted yet
    await until(lambda: not is_open)


async def close(connection: Connection) -> None:
    connection.cut()
    await until(lambda: connection.is_lost, every=0)


async def test_a_name_is_resolved_and_connected_to() -> None:
    async with accepting() as port:
        connection = await make_dialler().dial(Connection, Address("localhost", port))
        assert connection.transport.get_extra_info("peername")[:2] == ("127.0.0.1", port)
        await close(connection)


async def test_the_next_address_is_tried_when_one_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    async with accepting() as port:
        Resolved(monkeypatch, ["127.0.0.2", "127.0.0.3", "127.0.0.1"])
        connection = await make_dialler().dial(Connection, Address("name", port))
        assert connection.transport.get_extra_info("peername")[0] == "127.0.0.1"
        await close(connection)


@contextmanager
def swallowing(host: str) -> Iterator[int]:
    """A port of `host` whose backlog is full: a connection attempt gets no answer."""
    with socket.create_server((host, 0), backlog=0) as full:
        port = full.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex((host, port))
        yield port
        for filler in fillers:
            filler.close()


async def test_an_address_that_swallows_everything_costs_one_pause_and_is_asked_last_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tried: list[str] = []

    async def watched(found: Sequence[AddrInfo], **options: float) -> socket.socket:
        tried.append(found[0][4][0])
        return await start_connection(found, **options)  # type: ignore[arg-type]  # the dialler's own arguments

    monkeypatch.setattr("proxy.net.dial.start_connection", watched)
    Resolved(monkeypatch, ["127.0.0.2", "127.0.0.1"])
    with swallowing("127.0.0.2") as port, socket.create_server(("127.0.0.1", port)):
        dial = make_dialler()
        for _ in range(2):
            connection = await dial.dial(Connection, Address("name", port))
            assert connection.transport.get_extra_info("peername")[0] == "127.0.0.1"
            await close(connection)
        assert tried == ["127.0.0.2", "127.0.0.1"]


async def test_a_host_whose_addresses_all_swallow_everything_is_a_time_out(monkeypatch: pytest.MonkeyPatch) -> None:
    Resolved(monkeypatch, ["127.0.0.2"])
    with swallowing("127.0.0.2") as port:
        assert await failure(make_dialler(timeout=0.1), Address("name", port)) is DialFailure.TIMEOUT


async def test_a_port_where_nobody_listens() -> None:
    assert await failure(make_dialler(), Address("127.0.0.1", 1)) is DialFailure.CONNECT


async def test_a_name_whose_servers_are_silent_is_a_dns_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = Resolved(monkeypatch, ["127.0.0.1"])
    resolved.silent = {"name"}
    assert await failure(make_dialler(timeout=SOON, dns_timeout=0.05), Address("name", 80)) is DialFailure.DNS
    resolved.speak.set()


async def test_a_name_that_does_not_resolve(monkeypatch: pytest.MonkeyPatch) -> None:
    Resolved(monkeypatch, socket.gaierror(socket.EAI_NONAME, "no"))
    assert await failure(make_dialler(), Address("nowhere.invalid", 80)) is DialFailure.DNS


@pytest.mark.parametrize("host", ["a" * 64 + ".example", "." * 10, "\udcff"])
async def test_a_name_that_cannot_be_one(host: str) -> None:
    assert await failure(make_dialler(), Address(host, 80)) is DialFailure.DNS


@pytest.mark.parametrize(
    "answers",
    [
        ["127.0.0.1"],
        ["8.8.8.8", "10.0.0.1"],
        ["10.0.0.1", "8.8.8.8"],
        ["::ffff:127.0.0.1"],
        ["169.254.169.254"],
    ],
)
async def test_one_forbidden_address_among_the_answers_forbids_a_guarded_name(
    monkeypatch: pytest.MonkeyPatch, answers: list[str]
) -> None:
    Resolved(monkeypatch, answers)
    dial = make_dialler(dns_cache=60)
    for _ in range(2):  # the answer is remembered, and judged each time
        assert await failure(dial, Address("name", 80, guard=PUBLIC)) is DialFailure.FORBIDDEN


async def test_what_was_remembered_for_a_literal_host_does_not_serve_a_guarded_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with accepting() as port:
        Resolved(monkeypatch, ["127.0.0.1"])
        dial = make_dialler(dns_cache=60)
        await close(await dial.dial(Connection, Address("name", port)))
        assert await failure(dial, Address("name", port, guard=PUBLIC)) is DialFailure.FORBIDDEN


async def test_an_answer_is_remembered_for_its_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    async with accepting() as port:
        resolved = Resolved(monkeypatch, ["127.0.0.1"])
        for dial, asked in ((make_dialler(dns_cache=60), 1), (make_dialler(dns_cache=0), 4)):
            for _ in range(3):
                await close(await dial.dial(Connection, Address("name", port)))
            assert len(resolved.asked) == asked


async def test_a_name_that_changes_its_mind_is_connected_to_where_it_was_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolved = Resolved(monkeypatch, ["8.8.8.8"])
    dial = make_dialler(dns_cache=60)
    address = Address("name", 80, guard=PUBLIC)
    assert await dial.resolve(address) == ["8.8.8.8"]
    resolved.answers = ["127.0.0.1"]
    assert await dial.resolve(address) == ["8.8.8.8"]


# TLS


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates.make(tmp_path)


async def test_a_certificate_of_an_authority_in_the_ca_file_is_trusted(certificates: Certificates) -> None:
    async with accepting(tls=certificates.server) as port:
        dial = make_dialler(contexts=ClientContexts(str(certificates.ca_file), ()))
        connection = await dial.dial(Connection, Address("localhost", port, tls=True))
        assert connection.transport.get_extra_info("ssl_object").version() in ("TLSv1.2", "TLSv1.3")
        await close(connection)


@pytest.mark.parametrize("http2", [False, True])
async def test_http2_is_offered_only_when_the_address_says_so(certificates: Certificates, http2: bool) -> None:
    certificates.server.set_alpn_protocols(["h2", "http/1.1"])
    async with accepting(tls=certificates.server) as port:
        dial = make_dialler(contexts=ClientContexts(str(certificates.ca_file), ()))
        connection = await dial.dial(Connection, Address("localhost", port, tls=True, http2=http2))
        assert connection.agreed_protocol == ("h2" if http2 else "http/1.1")
        await close(connection)


async def test_an_unknown_authority_is_a_tls_failure(certificates: Certificates) -> None:
    async with accepting(tls=certificates.server) as port:
        assert await failure(make_dialler(), Address("localhost", port, tls=True)) is DialFailure.TLS


async def test_the_next_address_is_tried_when_the_handshake_with_one_fails(
    monkeypatch: pytest.MonkeyPatch, certificates: Certificates, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    other = Certificates.make(tmp_path / "other", "other.example")
    Resolved(monkeypatch, ["127.0.0.2", "127.0.0.1"])
    async with accepting(tls=certificates.server) as port:
        wrong = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.2", port, ssl=other.server)
        dial = make_dialler(contexts=ClientContexts(str(certificates.ca_file), ()))
        connection = await dial.dial(Connection, Address("localhost", port, tls=True))
        assert connection.transport.get_extra_info("peername")[0] == "127.0.0.1"
        await close(connection)
        wrong.close()


async def test_a_certificate_for_another_name_is_a_tls_failure(tmp_path: Path) -> None:
    other = Certificates.make(tmp_path, "other.example")
    async with accepting(tls=other.server) as port:
        dial = make_dialler(contexts=ClientContexts(str(other.ca_file), ()))
        assert await failure(dial, Address("localhost", port, tls=True)) is DialFailure.TLS


async def test_the_name_is_verified_and_not_the_address_it_resolves_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = Certificates.make(tmp_path, "other.example")
    async with accepting(tls=other.server) as port:
        Resolved(monkeypatch, ["127.0.0.1"])
        dial = make_dialler(contexts=ClientContexts(str(other.ca_file), ()))
        await close(await dial.dial(Connection, Address("other.example", port, tls=True)))
        assert await failure(dial, Address("localhost", port, tls=True)) is DialFailure.TLS


async def test_a_server_that_does_not_speak_tls_is_a_failure_in_time() -> None:
    async with accepting() as port:
        assert await failure(make_dialler(timeout=0.2), Address("localhost", port, tls=True)) is DialFailure.TIMEOUT


@pytest.mark.parametrize("is_reset", [False, True])
async def test_a_handshake_that_is_broken_off_is_a_tls_failure(is_reset: bool) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        if is_reset:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.close()

    server = await asyncio.start_server(break_off, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert await failure(make_dialler(), Address("127.0.0.1", port, tls=True)) is DialFailure.TLS
    server.close()
    await server.wait_closed()


def test_a_ca_file_that_is_none_is_said_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    for name in ("empty.pem", "absent.pem"):
        with pytest.raises(TlsError, match=name):
            ClientContexts(str(tmp_path / name), ())


# Client certificates, and why a handshake failed


async def _detail(address: Address, client: ClientContexts) -> str:
    with pytest.raises(DialError) as raised:
        await make_dialler(contexts=client).dial(Connection, address)
    assert raised.value.failure is DialFailure.TLS
    return raised.value.detail


async def test_a_client_certificate_is_shown_to_its_origin_only(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    mine = authority.pair("mine", "me.example")
    both = tmp_path / "both.pem"
    both.touch(0o600)
    both.write_bytes(mine.certificate.read_bytes() + mine.key.read_bytes())
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*authority.pair("server"))
    server.verify_mode = ssl.CERT_REQUIRED
    server.maximum_version = ssl.TLSVersion.TLSv1_2  # later, a client learns of a refusal after its handshake
    server.load_verify_locations(cafile=str(authority.ca_file))
    async with accepting(tls=server) as port:
        shown = ClientContexts(str(authority.ca_file), [f"https://localhost:{port}={both}"])
        connection = await make_dialler(contexts=shown).dial(Connection, Address("localhost", port, tls=True))
        await close(connection)
        assert await _detail(Address("127.0.0.1", port, tls=True), shown)  # asyncio's server may not say why


@pytest.mark.parametrize(
    ("days", "names", "is_trusted", "told"),
    [
        (-1, ("localhost",), True, "its certificate has expired"),
        (9, ("localhost",), False, "its certificate is not of a trusted authority"),
        (9, ("other.example",), True, "its certificate is for another host"),
    ],
)
async def test_an_error_says_what_is_wrong_with_a_certificate(
    tmp_path: Path, days: int, names: tuple[str, ...], is_trusted: bool, told: str
) -> None:
    authority = Authority(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*authority.pair("server", *names, days=days))
    async with accepting(tls=server) as port:
        client = ClientContexts(str(authority.ca_file) if is_trusted else "", ())
        assert await _detail(Address("localhost", port, tls=True), client) == told


async def test_an_origin_that_speaks_no_tls_is_reported_as_that() -> None:
    def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    plain = await asyncio.start_server(answer, "127.0.0.1", 0)
    place = Address("127.0.0.1", plain.sockets[0].getsockname()[1], tls=True)
    assert await _detail(place, ClientContexts("", ())) == "it does not speak TLS at this port"
    plain.close()


@pytest.mark.parametrize(
    "text",
    ["", "https://a.example", "https://a.example=", "http://a.example=f", "https://a.example/path=f", "x=f"],
)
def test_a_client_certificate_without_an_origin_or_a_file_is_refused(text: str) -> None:
    with pytest.raises(TlsError):
        origin_and_file(text)


def test_a_client_certificate_names_its_origin_as_a_url_does() -> None:
    assert origin_and_file("https://API.example=/a=b.pem") == (("api.example", 443), "/a=b.pem")
    assert origin_and_file("https://[::1]:8443=f") == (("::1", 8443), "f")


# Unix sockets, cancelling


async def test_a_unix_socket_is_connected_to(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    assert await failure(make_dialler(), Address("", 0, uds=path)) is DialFailure.CONNECT
    gone = asyncio.Event()

    async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        gone.set()

    server = await asyncio.start_unix_server(accepted, path)
    connection = await make_dialler().dial(Connection, Address("", 0, uds=path))
    await close(connection)
    async with asyncio.timeout(SOON):
        await gone.wait()
    server.close()
    await asyncio.sleep(0)


@pytest.mark.parametrize("is_tls", [False, True])
async def test_a_dial_cancelled_anywhere_leaves_no_socket(certificates: Certificates, is_tls: bool) -> None:
    async with accepting(tls=certificates.server if is_tls else None) as port:
        dial = make_dialler(tls=certificates.client, dns_cache=60)
        address = Address("localhost", port, tls=is_tls)
        await close(await dial.dial(Connection, address))
        for steps in range(30):
            task = asyncio.ensure_future(dial.dial(Connection, address))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            if isinstance(outcome, Connection):
                await close(outcome)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux")
async def test_the_system_is_asked_to_notice_when_the_peer_is_gone() -> None:
    async with accepting() as port:
        connection = await make_dialler().dial(Connection, Address("127.0.0.1", port))
        opened = connection.transport.get_extra_info("socket")
        assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        asked = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT, socket.TCP_USER_TIMEOUT)
        assert [opened.getsockopt(socket.IPPROTO_TCP, option) for option in asked] == [10, 5, 3, 30_000]
        await close(connection)


@contextmanager
def without_descriptors() -> Iterator[None]:
    """No file descriptor is free."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", ""])
async def test_a_lack_of_descriptors_is_nobody_else_s_fault(host: str, tmp_path: Path) -> None:
    async with accepting() as port:
        address = Address(host, port, uds="" if host else str(tmp_path / "socket"))
        dial = make_dialler()
        with without_descriptors():
            assert await failure(dial, address) is DialFailure.DESCRIPTORS
        if host:
            await close(await dial.dial(Connection, address))
        else:
            assert await failure(dial, address) is DialFailure.CONNECT
