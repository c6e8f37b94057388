"""Opening connections: resolve, check every address, connect to one that was checked (TCP, TLS, Unix)."""

import asyncio
import socket
import ssl
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple, TypeVar

import anyio

from proxy.net.connection import Connection

__all__ = ["Address", "DialError", "DialFailure", "Dialler", "tls_context"]

ConnectionT = TypeVar("ConnectionT", bound=Connection)

_DNS_ENTRIES = 4096


class DialFailure(Enum):
    """Why no connection was opened."""

    DNS = "the host name could not be resolved"
    FORBIDDEN = "the host resolves to an address that is not allowed"
    CONNECT = "the connection could not be opened"
    TLS = "the TLS handshake failed"
    TIMEOUT = "the connection could not be opened in time"


class DialError(Exception):
    """No connection was opened; nothing was sent."""

    def __init__(self, failure: DialFailure) -> None:
        super().__init__(failure.value)
        self.failure = failure


class Address(NamedTuple):
    """Where to connect: a host and port, or a Unix socket's path in `uds`.

    `guarded` addresses must resolve to allowed ones only.
    """

    host: str
    port: int
    tls: bool = False
    guarded: bool = False
    uds: str = ""


def tls_context(ca_file: str = "") -> ssl.SSLContext:
    """A client context that verifies against the system's authorities and those of `ca_file`. Raises OSError."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if ca_file:
        context.load_verify_locations(cafile=ca_file)
    return context


class Dialler:
    """Opens connections within `timeout` seconds. `forbidden` judges an address's text."""

    def __init__(
        self, tls: ssl.SSLContext, *, timeout: float, dns_cache: float, forbidden: Callable[[str], bool]
    ) -> None:
        self._tls = tls
        self._timeout = timeout
        self._dns_cache = dns_cache
        self._forbidden = forbidden
        self._resolved: OrderedDict[Address, tuple[float, list[str]]] = OrderedDict()

    async def dial(self, factory: Callable[[], ConnectionT], address: Address) -> ConnectionT:
        """A new connection; each resolved address is tried in turn, with a fair share of the time.

        Raises DialError. A cancelled call leaves no socket behind.
        """
        loop = asyncio.get_running_loop()
        give_up = loop.time() + self._timeout
        try:
            with anyio.fail_after(self._timeout):
                if address.uds:
                    return (await loop.create_unix_connection(factory, address.uds))[1]
                found = await self.resolve(address)
        except TimeoutError:
            raise DialError(DialFailure.TIMEOUT) from None
        except OSError:
            raise DialError(DialFailure.CONNECT) from None
        failure = DialFailure.CONNECT
        for index, text in enumerate(found):
            share = (give_up - loop.time()) / (len(found) - index)
            try:
                with anyio.fail_after(share):
                    return await self._connect(factory, address, text)
            except TimeoutError:
                failure = DialFailure.TIMEOUT
            except DialError as error:
                failure = error.failure
            except OSError:
                failure = DialFailure.CONNECT
        raise DialError(failure)

    async def _connect(self, factory: Callable[[], ConnectionT], address: Address, text: str) -> ConnectionT:
        loop = asyncio.get_running_loop()
        if not address.tls:
            return (await loop.create_connection(factory, host=text, port=address.port))[1]
        family = socket.AF_INET6 if ":" in text else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY for it
        try:
            opened.setblocking(False)
            await loop.sock_connect(opened, (text, address.port))
        except BaseException:
            opened.close()
            raise
        try:
            return (await loop.create_connection(factory, sock=opened, ssl=self._tls, server_hostname=address.host))[1]
        except TimeoutError:
            raise
        except OSError:  # it was open, so that this is about the handshake
            raise DialError(DialFailure.TLS) from None

    async def resolve(self, address: Address) -> list[str]:
        """The host's addresses, checked when guarded, remembered for a short while. Raises DialError."""
        loop = asyncio.get_running_loop()
        known = self._resolved.get(address)
        if known is not None and known[0] > loop.time():
            return known[1]
        try:
            entries = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise DialError(DialFailure.DNS) from None
        found = list(dict.fromkeys(str(entry[4][0]) for entry in entries))
        if address.guarded and any(map(self._forbidden, found)):
            raise DialError(DialFailure.FORBIDDEN)
        self._resolved[address] = (loop.time() + self._dns_cache, found)
        self._resolved.move_to_end(address)
        if len(self._resolved) > _DNS_ENTRIES:
            self._resolved.popitem(last=False)
        return found
