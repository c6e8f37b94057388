"""Listening sockets and the accept loop, which stops before file descriptors run out, and TLS for what it accepts."""

import asyncio
import errno
import logging
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from proxy.base.tasks import Tasks
from proxy.net.connection import Connection

__all__ = [
    "AcceptSettings",
    "ListenSettings",
    "Listener",
    "ServerTls",
    "bind",
    "bind_tcp",
    "bind_unix",
    "close_listening",
    "descriptor_limit",
]

logger = logging.getLogger(__name__)

_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@dataclass(frozen=True, slots=True)
class ListenSettings:
    """Where a server listens."""

    port: int  # TCP port; 0 picks a free one
    host: str  # name or address to bind to; localhost is both loopback addresses
    uds: str  # path of a Unix socket to listen on instead; empty for TCP
    accept_backlog: int  # connections that wait in the kernel until they are accepted


def bind(settings: ListenSettings) -> list[socket.socket]:
    """The listening sockets that the settings ask for. Raises OSError with the address in its text."""
    if settings.uds:
        return [bind_unix(Path(settings.uds), settings.accept_backlog)]
    return bind_tcp(settings.host, settings.port, settings.accept_backlog)


def descriptor_limit() -> int:
    """How many file descriptors this process may open; a generous guess where the system does not say."""
    try:
        import resource  # noqa: PLC0415  # absent on Windows
    except ImportError:
        return 8192
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


def bind_tcp(host: str, port: int, backlog: int) -> list[socket.socket]:
    """Listening sockets for `host`; `localhost` gives both loopback addresses on one port.

    Port 0 picks a free one. Raises OSError with the address in its text.
    """
    addresses = ["127.0.0.1", "::1"] if host == "localhost" else _resolve(host, port)
    sockets: list[socket.socket] = []
    try:
        for address in addresses:
            try:
                sockets.append(_bind(address, sockets[0].getsockname()[1] if sockets else port, backlog))
            except OSError as error:
                if address == "::1" and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    continue  # a machine without IPv6
                raise OSError(error.errno, f"cannot listen on {address} port {port}: {error.strerror}") from None
    except OSError:
        for bound in sockets:
            bound.close()
        raise
    return sockets


def _resolve(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host}: {error.strerror}") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _bind(address: str, port: int, backlog: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.setblocking(False)
        listening.bind((address, port))
        listening.listen(backlog)
    except BaseException:
        listening.close()
        raise
    return listening


def bind_unix(path: Path, backlog: int) -> socket.socket:
    """A listening Unix socket of mode 0600; a stale one that nobody listens on is replaced. Raises OSError."""
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise OSError(errno.EADDRINUSE, f"cannot listen on {path}: another process does")
        path.unlink()
    listening = socket.socket(socket.AF_UNIX)
    old_mask = os.umask(0o177)
    try:
        listening.setblocking(False)
        listening.bind(str(path))
        listening.listen(backlog)
    except OSError as error:
        listening.close()
        raise OSError(error.errno, f"cannot listen on {path}: {error.strerror or error}") from None
    finally:
        os.umask(old_mask)
    return listening


def close_listening(listening: socket.socket) -> None:
    """Close a socket of `bind_tcp` or `bind_unix`; the latter's file goes, too."""
    if listening.family == socket.AF_UNIX:
        with suppress(OSError):
            os.unlink(listening.getsockname())
    listening.close()


@dataclass(frozen=True, slots=True)
class AcceptSettings:
    """What happens when descriptors or memory run out; times in seconds."""

    accept_retry_seconds: float  # before the next accept
    accept_report_seconds: float  # between two log lines about it


@dataclass(frozen=True, slots=True)
class ServerTls:
    """TLS on accepted sockets.

    `context` is called for each of them, so that a new certificate needs no new listener. `handshake_timeout`:
    seconds until an unfinished handshake is given up. `shutdown_timeout`: seconds for the peer's half of the closing
    handshake.
    """

    context: Callable[[], ssl.SSLContext]
    handshake_timeout: float
    shutdown_timeout: float


class Listener:
    """Accepts connections on some sockets while `has_room` returns True; `made_room` wakes it after it did not.

    An accepted socket becomes a connection in a task of its own, so that a client that is silent in its TLS handshake
    delays nobody else. `len` is the number of those tasks: `has_room` has to count them beside the connections.
    """

    def __init__(
        self,
        sockets: list[socket.socket],
        factory: Callable[[], Connection],
        has_room: Callable[[], bool],
        settings: AcceptSettings,
        tls: ServerTls | None = None,
    ) -> None:
        self.sockets = sockets
        self._factory = factory
        self._has_room = has_room
        self._settings = settings
        self._tls = tls
        self._room = asyncio.Event()
        self._shortage = _Shortage(settings.accept_report_seconds)
        self._accepting = Tasks("listener")
        self._opening = Tasks("listener")
        for listening in sockets:
            self._accepting.start("accept", self._accept(listening))

    def __len__(self) -> int:
        return len(self._opening)

    def made_room(self) -> None:
        """A connection ended: go on accepting."""
        self._room.set()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wait_for_room()
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError as error:
                if error.errno in _SHORTAGES:
                    self._shortage.happened(error, loop.time())
                await asyncio.sleep(self._settings.accept_retry_seconds)
                continue
            try:
                await self._wait_for_room()  # another of the sockets may have used it up
            except BaseException:
                accepted.close()
                raise
            task = self._opening.start("open", self._open(accepted))
            task.add_done_callback(partial(self._opened, accepted))

    async def _open(self, accepted: socket.socket) -> None:
        """Make a connection of an accepted socket; it is closed when that fails."""
        loop = asyncio.get_running_loop()
        connection = self._factory()
        try:
            if accepted.family != socket.AF_UNIX:
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is None:
                await loop.connect_accepted_socket(lambda: connection, accepted)
            else:
                await loop.connect_accepted_socket(
                    lambda: connection,
                    accepted,
                    ssl=self._tls.context(),
                    ssl_handshake_timeout=self._tls.handshake_timeout,
                    ssl_shutdown_timeout=self._tls.shutdown_timeout,
                )
        except OSError:  # the peer is gone already, or its handshake failed
            accepted.close()
        except asyncio.CancelledError:
            connection.abandoned()
            raise

    def _opened(self, accepted: socket.socket, task: "asyncio.Task[None]") -> None:
        if task.cancelled() or task.exception() is not None:  # perhaps before it began
            accepted.close()
        self._room.set()  # a socket that did not become a connection has left its place

    async def _wait_for_room(self) -> None:
        while not self._has_room():
            self._room.clear()
            await self._room.wait()

    async def aclose(self) -> None:
        """Stop accepting and close the sockets, unfinished handshakes too; connections are not touched."""
        await self._accepting.aclose()
        await self._opening.aclose()
        for listening in self.sockets:
            close_listening(listening)


class _Shortage:
    """Reports failed accepts: the first one at once, later ones at intervals, with their number."""

    def __init__(self, report_seconds: float) -> None:
        self._report_seconds = report_seconds
        self._count = 0
        self._next_report = 0.0

    def happened(self, error: OSError, now: float) -> None:
        """An accept failed at the loop's time `now`."""
        self._count += 1
        if now >= self._next_report:
            logger.warning(
                "cannot accept connections: %s (failures since the last report: %d)", error.strerror, self._count
            )
            self._count = 0
            self._next_report = now + self._report_seconds
