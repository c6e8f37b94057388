"""Listening sockets and the accept loop, which stops before file descriptors run out."""

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from proxy.base.tasks import Tasks
from proxy.net.connection import Connection

__all__ = ["Listener", "bind_tcp", "bind_unix", "close_listening", "descriptor_limit"]

logger = logging.getLogger(__name__)

_BACKLOG = 1024
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_RETRY_SECONDS = 0.1  # after an accept that failed for want of descriptors or memory


def descriptor_limit() -> int:
    """How many file descriptors this process may open; a generous guess where the system does not say."""
    try:
        import resource  # noqa: PLC0415  # absent on Windows
    except ImportError:
        return 8192
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 1 << 20 if soft == resource.RLIM_INFINITY else soft


def bind_tcp(host: str, port: int) -> list[socket.socket]:
    """Listening sockets for `host`; `localhost` gives both loopback addresses on one port.

    Port 0 picks a free one. Raises OSError with the address in its text.
    """
    addresses = ["127.0.0.1", "::1"] if host == "localhost" else _resolve(host, port)
    sockets: list[socket.socket] = []
    try:
        for address in addresses:
            try:
                sockets.append(_bind(address, sockets[0].getsockname()[1] if sockets else port))
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


def _bind(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listening.setblocking(False)
        listening.bind((address, port))
        listening.listen(_BACKLOG)
    except BaseException:
        listening.close()
        raise
    return listening


def bind_unix(path: Path) -> socket.socket:
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
        listening.listen(_BACKLOG)
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


class Listener:
    """Accepts connections on some sockets while `has_room` says so; `made_room` wakes it after it did not."""

    def __init__(
        self, sockets: list[socket.socket], factory: Callable[[], Connection], has_room: Callable[[], bool]
    ) -> None:
        self.sockets = sockets
        self._factory = factory
        self._has_room = has_room
        self._room = asyncio.Event()
        self._tasks = Tasks("listener")
        for listening in sockets:
            self._tasks.start("accept", self._accept(listening))

    def made_room(self) -> None:
        """A connection ended: go on accepting."""
        self._room.set()

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        is_failing = False  # which is said once, until an accept succeeds
        while True:
            await self._wait_for_room()
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError as error:
                if error.errno in _SHORTAGES:
                    if not is_failing:
                        logger.warning("cannot accept: %s", error.strerror)
                    is_failing = True
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            is_failing = False
            try:
                await self._wait_for_room()  # another of the sockets may have taken it
                if accepted.family != socket.AF_UNIX:
                    accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                await self._connect(accepted)
            except OSError:  # the peer is gone already
                accepted.close()
            except BaseException:
                accepted.close()
                raise

    async def _connect(self, accepted: socket.socket) -> None:
        connection = self._factory()
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, accepted)
        except asyncio.CancelledError:
            connection.abandoned()
            raise

    async def _wait_for_room(self) -> None:
        while not self._has_room():
            self._room.clear()
            await self._room.wait()

    async def aclose(self) -> None:
        """Stop accepting and close the sockets; accepted connections are not touched."""
        await self._tasks.aclose()
        for listening in self.sockets:
            close_listening(listening)
