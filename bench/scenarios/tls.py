"""TLS at our own port: what a handshake, a gigabyte and an idle connection cost, beside nginx and without TLS."""

import asyncio
import ssl
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.figures import Metric
from bench.goals import Goal
from bench.peers.nginx import start_nginx_tls
from bench.process import PROXY_CORE, Child, free_port
from bench.rig.http import BrokenRun, number
from bench.scenarios.plan import Figures, Scenario, Trial, key

__all__ = ["TLS"]

_MIB = 1_048_576
_KIB = 1024
_DEADLINE_SECONDS = 90.0
_BODY = bytes(range(256)) * 4 * _KIB  # 1 MiB, one append
_APPENDS = 8
_SMALL = b"small"


@dataclass(frozen=True, slots=True)
class _Server:
    """A server that has `/bulk` and `/small`. `tls` is the client's context, None for plain."""

    child: Child
    port: int
    tls: ssl.SSLContext | None
    query: str

    async def connect(self) -> "_Client":
        name = None if self.tls is None else "localhost"
        return _Client(*await asyncio.open_connection("127.0.0.1", self.port, ssl=self.tls, server_hostname=name))


class _Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def ask(self, method: str, target: str, body: bytes = b"") -> bytes:
        """The body of a response with a length. Raises BrokenRun for an error."""
        head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        self._writer.write(f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + body)
        answer = await self._reader.readuntil(b"\r\n\r\n")
        if answer[9:10] != b"2":
            raise BrokenRun(f"{method} {target} was answered {answer[:40]!r}")
        return await self._reader.readexactly(number(answer, b"content-length") or 0)

    def close(self) -> None:
        self._writer.transport.abort()


def _start(name: str) -> _Server:
    """`proxy` is our store alone, with TLS; `proxy, plain` the same without; `nginx` has files."""
    import trustme  # noqa: PLC0415  # for this scenario only

    directory = Path(tempfile.mkdtemp(prefix="bench-tls-"))
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    certificate, private = directory / "cert.pem", directory / "key.pem"
    certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    private.touch(0o600)
    private.write_bytes(issued.private_key_pem.bytes())
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if name == "nginx":
        directory.chmod(0o755)  # its worker is another user
        (directory / "bulk").write_bytes(_BODY * _APPENDS)
        (directory / "small").write_bytes(_SMALL)
        child, port = start_nginx_tls(directory, certificate, private)
        return _Server(child, port, context, "")
    port = free_port()
    command = ["-m", "proxy", "store", "--host", "127.0.0.1", "--port", str(port), "--data-dir", f"{directory}/data"]
    if name == "proxy":
        command += ["--tls-cert", str(certificate), "--tls-key", str(private)]
    child = Child([sys.executable, *command], directory, {}, PROXY_CORE)
    child.wait_for_port(port)
    return _Server(child, port, context if name == "proxy" else None, "?offset=-1")


@asynccontextmanager
async def _server(name: str) -> AsyncIterator[_Server]:
    server = _start(name)
    try:
        if name != "nginx":
            client = await server.connect()
            for target, appends in (("/bulk", [_BODY] * _APPENDS), ("/small", [_SMALL])):
                await client.ask("PUT", target)
                for body in appends:
                    await client.ask("POST", target, body)
            client.close()
        yield server
    finally:
        server.child.stop()


async def _handshakes(name: str, count: int) -> Figures:
    async with _server(name) as server, asyncio.timeout(_DEADLINE_SECONDS):
        for number_of in (count // 10, count):  # the first ones warm up
            before = server.child.cpu()
            for _ in range(number_of):
                (await server.connect()).close()
            await asyncio.sleep(0.1)
        return {"handshake": (server.child.cpu() - before) / count * 1000}


async def _bulk(name: str, count: int) -> Figures:
    async with _server(name) as server, asyncio.timeout(_DEADLINE_SECONDS):
        client = await server.connect()
        expected = _BODY * _APPENDS
        for number_of in (2, count):
            before = server.child.cpu()
            for _ in range(number_of):
                if await client.ask("GET", f"/bulk{server.query}") != expected:
                    raise BrokenRun("the body is another one")
        client.close()
        return {"per_cpu": count * len(expected) / 1e6 / (server.child.cpu() - before)}


async def _idle(name: str, count: int) -> Figures:
    async with _server(name) as server, asyncio.timeout(_DEADLINE_SECONDS):
        clients = []
        for number_of in (count // 10, count):
            before = server.child.memory()
            for _ in range(number_of):
                clients.append(await server.connect())
                await clients[-1].ask("GET", f"/small{server.query}")
            await asyncio.sleep(0.2)
        grown = server.child.memory() - before
        for client in clients:
            client.close()
        return {"idle": grown / count / _KIB}


def _plan(quick: bool) -> list[Trial]:
    few = 4 if quick else 1
    trials = []
    for peer in ("proxy", "proxy, plain", "nginx"):
        if peer != "proxy, plain":
            trials.append(Trial("handshake", peer, partial(_handshakes, peer, 600 // few)))
        trials.append(Trial("bulk", peer, partial(_bulk, peer, 24 // few)))
        trials.append(Trial("idle", peer, partial(_idle, peer, 1000 // few)))
    return trials


TLS = Scenario(
    "tls",
    "TLS at the server's own port: handshakes, 8 MiB bodies, idle connections",
    [
        Metric("handshake", "CPU a handshake", "ms"),
        Metric("per_cpu", "body a CPU-second", "MB", "higher"),
        Metric("idle", "memory of an idle connection", "KiB"),
    ],
    [
        Goal(
            "CPU a handshake, to nginx's",
            key("handshake", "handshake"),
            at_most=1.25,
            against=key("handshake", "handshake", "nginx"),
        ),
        Goal(
            "MB a CPU-second over TLS, to plain",
            key("bulk", "per_cpu"),
            at_least=0.5,
            against=key("bulk", "per_cpu", "proxy, plain"),
        ),
    ],
    _plan,
    [
        "`proxy` is our store alone, which reads bodies from its database; `nginx` sends a file. Handshakes are whole"
        " ones of TLS 1.3 with ECDSA, nothing is resumed, and no request follows. An idle connection has carried one"
        " request.",
    ],
    repeats=3,
)
