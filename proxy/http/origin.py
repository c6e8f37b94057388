"""One origin of a pool: who has room, who waits, and what is expected of a connection that is being opened."""

import asyncio
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Protocol

from proxy.http.client import ClientConnection
from proxy.net.dial import Address

__all__ = ["Known", "Origin"]


@dataclass(slots=True)
class Known:
    """What is known of the connections to a host's port, whatever guards them."""

    carries: float  # exchanges at once that one has room for; infinite as long as that is not known
    offers_http2: bool  # whether a handshake offers HTTP/2


class Keeper(Protocol):
    """The pool, as its origins see it: see ConnectionOwner."""

    def released(self, origin: "Origin", connection: ClientConnection) -> None:
        """An exchange has ended."""

    def settled(self, origin: "Origin", connection: ClientConnection) -> None:
        """The connection's capacity has become known, or has grown."""

    def gone(self, origin: "Origin", connection: ClientConnection) -> None:
        """The connection is closed."""


class Origin:
    """What a pool knows of one origin, and the owner of its connections."""

    __slots__ = ("_pool", "address", "known", "opening", "places", "ready", "waiters")

    def __init__(self, pool: Keeper, address: Address, known: Known) -> None:
        self._pool = pool
        self.address = address
        self.known = known
        self.ready: OrderedDict[ClientConnection, None] = OrderedDict()  # with room; the last one is lent first
        self.places = 0  # how many connections are open or being opened
        self.opening = 0  # how many of them are being opened: until their capacity is known
        self.waiters: deque[asyncio.Future[ClientConnection | None]] = deque()

    @property
    def has_waiter(self) -> bool:
        """Whether anyone waits for room or a place."""
        return any(not waiter.done() for waiter in self.waiters)

    def covers(self, waiters: int) -> bool:
        """Whether so many waiters, and those that open them, will find room on connections that are being opened."""
        return self.opening > 0 and waiters <= self.opening * (self.known.carries - 1)

    @property
    def wants_place(self) -> bool:
        """Whether someone waits that no connection is being opened for."""
        return self.has_waiter and not self.covers(len(self.waiters))

    def released(self, connection: ClientConnection) -> None:
        """See ConnectionOwner."""
        self._pool.released(self, connection)

    def settled(self, connection: ClientConnection) -> None:
        """See ConnectionOwner."""
        self._pool.settled(self, connection)

    def gone(self, connection: ClientConnection) -> None:
        """See ConnectionOwner."""
        self._pool.gone(self, connection)
