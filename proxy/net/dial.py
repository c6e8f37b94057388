"""Opening connections: resolve, check every address, connect to one that was checked (TCP, TLS, Unix).

Several addresses are tried as RFC 8305 says: the next one after a quarter of a second, beside those before it.
"""

import asyncio
import socket
from collections import OrderedDict
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple, TypeVar

import anyio
from aiohappyeyeballs import start_connection

from proxy.base.descriptors import are_descriptors_scarce
from proxy.net.client_tls import Contexts, handshake_fault
from proxy.net.connection import Connection
from proxy.net.egress import Egress, EgressError
from proxy.net.liveness import Liveness, watch_peer
from proxy.net.resolve import ResolveError, Resolver

__all__ = ["Address", "DialError", "DialFailure", "DialLimits", "Dialler", "Guard"]

ConnectionT = TypeVar("ConnectionT", bound=Connection)

AddrInfo = tuple[int, int, int, str, tuple[str, int] | tuple[str, int, int, int]]


Guard = Callable[[IPv4Address | IPv6Address, int], bool]
"""Whether a connection to this address and port is forbidden."""


class DialFailure(Enum):
    """Why no connection was opened."""

    DNS = "the host name could not be resolved"
    FORBIDDEN = "the host resolves to an address that is not allowed"
    CONNECT = "the connection could not be opened"
    TLS = "the TLS handshake failed"
    TIMEOUT = "the connection could not be opened in time"
    EGRESS = "the egress proxy could not be reached or refused"
    DESCRIPTORS = "no file descriptor was free"


_LOCAL = (DialFailure.DNS, DialFailure.CONNECT, DialFailure.EGRESS)  # what a lack of descriptors looks like


class DialError(Exception):
    """No connection was opened; nothing was sent. `detail` says more about `failure`, without the peer's bytes."""

    def __init__(self, failure: DialFailure, detail: str = "") -> None:
        super().__init__(f"{failure.value}: {detail}" if detail else failure.value)
        self.failure = failure
        self.detail = detail


class Address(NamedTuple):
    """Where to connect: a host and port, or a Unix socket's path in `uds`.

    `guard` is asked about every address that the host resolves to; None: nothing is forbidden. Two addresses with
    different guards are two origins, so a connection that one guard allowed never serves the other. `http2`: the TLS
    handshake offers HTTP/2 beside HTTP/1.1.
    """

    host: str
    port: int
    tls: bool = False
    guard: Guard | None = None
    uds: str = ""
    http2: bool = False


@dataclass(frozen=True, slots=True)
class DialLimits:
    """`timeout`: seconds to open one connection, resolution and TLS included. `attempt_delay`: seconds after which the
    next address is tried beside the one before (RFC 8305 section 5). `origins`: addresses remembered that worked last.
    """

    timeout: float
    attempt_delay: float
    origins: int
    liveness: Liveness  # when the peer of a TCP connection counts as gone


class Dialler:
    """Opens connections. `tls` gives the context of each handshake, `egress` is the proxy to go through, None: none."""

    def __init__(
        self,
        tls: Contexts,
        resolver: Resolver,
        limits: DialLimits,
        *,
        egress: Egress | None = None,
    ) -> None:
        self._tls = tls
        self._resolver = resolver
        self._limits = limits
        self._egress = egress
        self._worked: OrderedDict[str, str] = OrderedDict()  # by host, the address that was connected to last

    async def dial(self, factory: Callable[[], ConnectionT], address: Address) -> ConnectionT:
        """A new connection to the first of the host's addresses that answers.

        Raises DialError. A cancelled call leaves no socket behind.
        """
        try:
            return await self._dial(factory, address)
        except DialError as error:
            if error.failure in _LOCAL and are_descriptors_scarce():
                raise DialError(DialFailure.DESCRIPTORS) from None
            raise

    async def _dial(self, factory: Callable[[], ConnectionT], address: Address) -> ConnectionT:
        try:
            with anyio.fail_after(self._limits.timeout):
                if address.uds:
                    return (await asyncio.get_running_loop().create_unix_connection(factory, address.uds))[1]
                if self._egress is not None and self._egress.carries(address.host):
                    return await self._tunnel(factory, address, self._egress)
                return await self._direct(factory, address)
        except TimeoutError:
            raise DialError(DialFailure.TIMEOUT) from None
        except OSError:
            raise DialError(DialFailure.CONNECT) from None

    async def _direct(self, factory: Callable[[], ConnectionT], address: Address) -> ConnectionT:
        """Connect to one of the addresses; one whose TLS handshake fails is left out, and the others are tried."""
        untried = await self.resolve(address)
        while True:
            opened = await self._open(address.host, address.port, untried)
            peer = _peer(opened)
            try:
                connection = await self._hand_over(factory, opened, address)
            except DialError:
                untried = [text for text in untried if text != peer]
                if not untried:
                    raise
            else:
                self._remember(address.host, peer)
                return connection

    async def _tunnel(self, factory: Callable[[], ConnectionT], address: Address, egress: Egress) -> ConnectionT:
        """Connect through the egress proxy, which resolves the host's name: only an IP literal can be checked here."""
        with suppress(ValueError):
            _check(address, (str(ip_address(address.host)),))
        try:
            found = await self._resolver.resolve(egress.host)
        except ResolveError:
            raise DialError(DialFailure.EGRESS) from None
        try:
            opened = await self._open(egress.host, egress.port, list(found))
        except OSError:
            raise DialError(DialFailure.EGRESS) from None
        try:
            await egress.connect(opened, address.host, address.port)
        except (OSError, EgressError):
            opened.close()
            raise DialError(DialFailure.EGRESS) from None
        except BaseException:
            opened.close()
            raise
        return await self._hand_over(factory, opened, address)

    async def _open(self, host: str, port: int, texts: list[str]) -> socket.socket:
        """A connected socket to one of `texts`: the one that worked last first, then in turn, families interleaved."""
        worked = self._worked.get(host)
        texts = sorted(texts, key=lambda text: text != worked)
        found = [_entry(text, port) for text in texts]
        try:
            return await start_connection(found, happy_eyeballs_delay=self._limits.attempt_delay)
        except RuntimeError as error:  # uvloop's, for a socket that was closed meanwhile
            raise OSError(str(error)) from None

    async def _hand_over(
        self, factory: Callable[[], ConnectionT], opened: socket.socket, address: Address
    ) -> ConnectionT:
        """Make a connection of a socket, after its TLS handshake. Closes the socket when it cannot."""
        loop = asyncio.get_running_loop()
        tls, name = None, None
        if address.tls:
            tls, name = self._tls(address.host, address.port, address.http2), address.host
        try:
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            watch_peer(opened, self._limits.liveness)
            return (await loop.create_connection(factory, sock=opened, ssl=tls, server_hostname=name))[1]
        except TimeoutError:
            raise
        except OSError as error:  # it was open, so that this is about the handshake
            if address.tls:
                raise DialError(DialFailure.TLS, handshake_fault(error)) from None
            raise DialError(DialFailure.CONNECT) from None

    async def resolve(self, address: Address) -> list[str]:
        """The host's addresses, all of them checked when guarded. Raises DialError."""
        try:
            found = await self._resolver.resolve(address.host)
        except ResolveError:
            raise DialError(DialFailure.DNS) from None
        _check(address, found)
        return list(found)

    def _remember(self, host: str, text: str) -> None:
        self._worked[host] = text
        self._worked.move_to_end(host)
        if len(self._worked) > self._limits.origins:
            self._worked.popitem(last=False)


def _check(address: Address, found: Iterable[str]) -> None:
    """Raise DialError when the guard forbids one of the addresses: which of them is connected to is chance."""
    guard = address.guard
    if guard is not None and any(guard(ip_address(text), address.port) for text in found):
        raise DialError(DialFailure.FORBIDDEN)


def _entry(text: str, port: int) -> AddrInfo:
    """A resolved address as getaddrinfo gives it, with its port."""
    if ":" in text:
        return (socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (text, port, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (text, port))


def _peer(opened: socket.socket) -> str:
    return str(opened.getpeername()[0])
