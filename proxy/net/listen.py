"""The accept loop, which stops before file descriptors run out, and TLS for what it accepts."""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from proxy.base.descriptors import SHORTAGES
from proxy.base.tasks import Tasks
from proxy.net.bind import close_listening
from proxy.net.connection import READ_BYTES, Connection

__all__ = ["AcceptSettings", "Listener", "Room", "ServerTls"]

logger = logging.getLogger(__name__)

_HANDSHAKE = b"\x16"  # the type of a record (RFC 8446 section 5.1)


@dataclass(frozen=True, slots=True)
class AcceptSettings:
    """What happens when descriptors or memory run out; times in seconds."""

    accept_retry_seconds: float  # pause before the next accept
    accept_report_seconds: float  # pause between two log lines about failed accepts


@dataclass(frozen=True, slots=True)
class ServerTls:
    """TLS on accepted sockets.

    `context` is called for each of them, so that a new certificate needs no new listener. `handshake_timeout`:
    seconds until an unfinished handshake is given up, and until its first byte. `shutdown_timeout`: seconds for the
    peer to take what is left and its half of the closing handshake. `refusal`: bytes sent to a peer that speaks no TLS.
    """

    context: Callable[[], ssl.SSLContext]
    handshake_timeout: float
    shutdown_timeout: float
    refusal: bytes


class Room(Protocol):
    """The bound on connections, which a server keeps for all its listeners."""

    def has_room(self) -> bool:
        """Whether one more connection may be made; sockets that are not connections yet (`len(listener)`) count."""

    def make_room(self) -> None:
        """There is none, and a client waits: close what can be spared. Then, or later, `made_room` is called."""


class Listener:
    """Accepts connections on some sockets, each when there is room for it; `made_room` wakes it after there was none.

    An accepted socket becomes a connection in a task of its own, so that a client that is silent in its TLS handshake
    delays nobody else. `len` is the number of those tasks. Without room each socket's loop holds one client that it
    has accepted: only then it is known that somebody waits.
    """

    def __init__(
        self,
        sockets: list[socket.socket],
        factory: Callable[[], Connection],
        room: Room,
        settings: AcceptSettings,
        tls: ServerTls | None = None,
    ) -> None:
        self.sockets = sockets
        self._factory = factory
        self._room = room
        self._settings = settings
        self._tls = tls
        self._freed = asyncio.Event()
        self._shortage = _Shortage(settings.accept_report_seconds)
        self._accepting = Tasks("listener")
        self._opening = Tasks("listener")
        self._handshakes: dict[asyncio.Task[None], None] = {}  # those of TLS, the oldest first
        for listening in sockets:
            self._accepting.start("accept", self._accept(listening))

    def __len__(self) -> int:
        return len(self._opening)

    def made_room(self) -> None:
        """A connection ended: go on accepting."""
        self._freed.set()

    def drop_oldest_handshake(self) -> bool:
        """Give up the TLS handshake that began first. False when none is under way."""
        for task in self._handshakes:
            del self._handshakes[task]
            task.cancel()
            return True
        return False

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError as error:
                if error.errno in SHORTAGES:
                    self._shortage.happened(error, loop.time())
                await asyncio.sleep(self._settings.accept_retry_seconds)
                continue
            try:
                await self._wait_for_room()
            except BaseException:
                accepted.close()
                raise
            task = self._opening.start("open", self._open(accepted))
            if self._tls is not None:
                self._handshakes[task] = None
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
            elif not await _says_hello(accepted, self._tls.handshake_timeout):
                with suppress(OSError):
                    accepted.send(self._tls.refusal)
                    accepted.shutdown(socket.SHUT_WR)
                    accepted.recv(READ_BYTES)  # unread bytes would make the close a reset, which destroys the refusal
                accepted.close()
            else:
                await loop.connect_accepted_socket(
                    lambda: connection,
                    accepted,
                    ssl=self._tls.context(),
                    ssl_handshake_timeout=self._tls.handshake_timeout,
                    ssl_shutdown_timeout=self._tls.shutdown_timeout,
                )
        except OSError:  # the peer is gone already or silent, or its handshake failed
            accepted.close()
        except asyncio.CancelledError:
            connection.abandoned()
            raise

    def _opened(self, accepted: socket.socket, task: "asyncio.Task[None]") -> None:
        if task.cancelled() or task.exception() is not None:  # perhaps before it began
            accepted.close()
        self._handshakes.pop(task, None)
        self._freed.set()  # a socket that did not become a connection has left its place

    async def _wait_for_room(self) -> None:
        while not self._room.has_room():
            self._freed.clear()
            self._room.make_room()
            await self._freed.wait()

    async def aclose(self) -> None:
        """Stop accepting and close the sockets, unfinished handshakes too; connections are not touched."""
        await self._accepting.aclose()
        await self._opening.aclose()
        for listening in self.sockets:
            close_listening(listening)


async def _says_hello(accepted: socket.socket, seconds: float) -> bool:
    """Whether the peer's first byte begins a TLS handshake. Reads nothing. Raises TimeoutError, OSError.

    Asked before the loop's own handshake, which would end the connection without a word.
    """
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(accepted, readable.set)
    try:
        async with asyncio.timeout(seconds):
            await readable.wait()
    finally:
        loop.remove_reader(accepted)
    return accepted.recv(1, socket.MSG_PEEK) in (_HANDSHAKE, b"")  # nothing: it has left, which the handshake finds


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
