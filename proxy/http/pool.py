"""Connections to origins, kept and lent out: each origin is a `Handler`. Owns bounds, order and idle expiry."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Coroutine
from dataclasses import dataclass

from proxy.base.tasks import Tasks
from proxy.http.client import ClientConnection
from proxy.http.message import ExchangeError, Fault, Handler, Request, Response
from proxy.http.pipe import Budget, PipeLimits
from proxy.net.dial import Address, DialError, DialFailure, Dialler
from proxy.wire.events import HeadLimits

__all__ = ["Pool", "PoolSettings"]

_FAILURES = {
    DialFailure.DNS: Fault.DNS,
    DialFailure.FORBIDDEN: Fault.FORBIDDEN,
    DialFailure.CONNECT: Fault.CONNECT,
    DialFailure.EGRESS: Fault.EGRESS,
    DialFailure.TLS: Fault.TLS,
    DialFailure.TIMEOUT: Fault.CONNECT,
}


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Bounds of one pool and of its connections: sizes in bytes, times in seconds."""

    head: HeadLimits  # bounds of a response head
    pause_bytes: int  # of one response body that wait for its taker before the connection is paused
    max_waiting_bytes_total: int  # of all response bodies of this pool together, before all are paused
    request_piece_bytes: int  # of a request body written at once; a longer one goes out piece by piece
    connections: int  # to all origins together
    connections_per_origin: int  # to one origin
    pool_timeout_seconds: float  # that a request waits for a free connection
    idle_seconds: float  # that an idle connection is kept for reuse
    sweep_seconds: float  # between two looks for connections that were idle too long
    # A request that was lost cannot be sent again: an idle connection is checked before it is used, and closed after a
    # redirect.
    is_careful: bool


class _Origin:
    """What the pool knows of one origin, whose connections it owns. One is idle, or lent out, or being opened."""

    __slots__ = ("_pool", "address", "idle", "places", "waiters")

    def __init__(self, pool: "Pool", address: Address) -> None:
        self._pool = pool
        self.address = address
        self.idle: OrderedDict[ClientConnection, None] = OrderedDict()  # the last used is taken first
        self.places = 0  # idle, lent and being opened
        self.waiters: deque[asyncio.Future[ClientConnection | None]] = deque()

    @property
    def has_waiter(self) -> bool:
        return any(not waiter.done() for waiter in self.waiters)

    def released(self, connection: ClientConnection) -> None:
        """See ConnectionOwner."""
        self._pool.released(self, connection)

    def gone(self, connection: ClientConnection) -> None:
        """See ConnectionOwner."""
        self._pool.gone(self, connection)


class Pool:
    """Client connections to any number of origins. Start it inside a running loop; `aclose` closes every socket.

    A connection has a place from before it is opened until it is closed; the bounds are bounds on places.
    """

    def __init__(self, name: str, dialler: Dialler, limits: PoolSettings) -> None:
        self._loop = asyncio.get_running_loop()
        self._dialler = dialler
        self._limits = limits
        self.bodies = PipeLimits(limits.pause_bytes, Budget(limits.max_waiting_bytes_total))
        self._origins: dict[Address, _Origin] = {}
        self._connections: set[ClientConnection] = set()
        self._places = 0
        self._starved: deque[_Origin] = deque()  # origins with a waiter that the total bound holds back
        self._is_closed = False
        self._all_gone = asyncio.Event()
        self._tasks = Tasks(f"pool {name}")
        self._tasks.start("sweep", self._sweep())

    def at(self, address: Address) -> Handler:
        """The origin at `address` as a function. Its calls raise ExchangeError.

        A call is to be awaited at once: it may hold a connection, which only the exchange gives back.
        """

        def handle(request: Request) -> Coroutine[None, None, Response]:
            connection = self._idle(address)
            return connection.exchange(request) if connection is not None else self._exchange(address, request)

        return handle

    async def _exchange(self, address: Address, request: Request) -> Response:
        connection = await self._acquire(address)
        return await connection.exchange(request)

    def __len__(self) -> int:
        return len(self._connections)

    # Lending

    def _idle(self, address: Address) -> ClientConnection | None:
        """The connection that was used last of those that can be used again."""
        origin = self._origins.get(address)
        while origin is not None and origin.idle:
            connection = origin.idle.popitem()[0]
            if connection.is_free and (not self._limits.is_careful or connection.is_quiet()):
                return connection
            connection.cut()
        return None

    async def _acquire(self, address: Address) -> ClientConnection:
        """A new connection, or one that another exchange is done with."""
        origin = self._origin(address)
        give_up = self._loop.time() + self._limits.pool_timeout_seconds
        lent: ClientConnection | None = None
        while True:
            if self._is_closed:
                raise ExchangeError(Fault.CONNECT, sent=False)
            if lent is not None:
                if lent.is_free and (not self._limits.is_careful or lent.is_quiet()):
                    return lent
                lent.cut()
                lent = self._idle(address)
            elif origin.places < self._limits.connections_per_origin and self._places < self._limits.connections:
                self._take_place(origin)
                return await self._open(origin)
            else:
                lent = await self._wait(origin, give_up)
                if lent is None:
                    return await self._open(origin)
                origin = self._origin(address)  # the one waited for is forgotten if the connection was lost meanwhile

    def _origin(self, address: Address) -> _Origin:
        origin = self._origins.get(address)
        if origin is None:
            origin = self._origins[address] = _Origin(self, address)
        return origin

    def _make_room(self) -> None:
        """Close an idle connection: its place goes to the first starved origin when its socket is closed."""
        for other in self._origins.values():
            if other.idle:
                other.idle.popitem(last=False)[0].cut()
                return

    def _take_place(self, origin: _Origin) -> None:
        origin.places += 1
        self._places += 1

    async def _open(self, origin: _Origin) -> ClientConnection:
        """Open a connection on a place already taken. Raises ExchangeError; then the place is free again."""
        try:
            if self._is_closed:
                raise DialError(DialFailure.CONNECT)
            connection = await self._dialler.dial(
                lambda: ClientConnection(
                    origin,
                    self._limits.head,
                    self.bodies,
                    piece=self._limits.request_piece_bytes,
                    keeps_redirected=not self._limits.is_careful,
                ),
                origin.address,
            )
            if not connection.is_free or self._is_closed:
                connection.cut()
                raise DialError(DialFailure.CONNECT)
        except DialError as error:
            self._leave_place(origin)
            raise ExchangeError(_FAILURES[error.failure], sent=False) from None
        except BaseException:
            self._leave_place(origin)
            raise
        self._connections.add(connection)
        return connection

    async def _wait(self, origin: _Origin, give_up: float) -> ClientConnection | None:
        """A connection that another exchange is done with, or None: a place was taken for a new one.

        Raises ExchangeError at the loop's time `give_up`.
        """
        waiter: asyncio.Future[ClientConnection | None] = self._loop.create_future()
        origin.waiters.append(waiter)
        if origin.places < self._limits.connections_per_origin:
            self._starved.append(origin)
            self._make_room()
        timer = self._loop.call_at(give_up, _give_up, waiter)
        try:
            return await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                self._hand_back(origin, waiter.result())  # it was served while being cancelled
            raise
        finally:
            timer.cancel()
            if waiter in origin.waiters:
                origin.waiters.remove(waiter)
            self._forget_unused(origin)

    def _hand_back(self, origin: _Origin, connection: ClientConnection | None) -> None:
        if connection is None:
            self._leave_place(origin)
        elif connection.is_free:
            self.released(origin, connection)
        else:
            connection.cut()

    # Taking back

    def released(self, origin: _Origin, connection: ClientConnection) -> None:
        """An exchange ended cleanly and the connection is free: the first waiter gets it, else it is kept."""
        if self._is_closed:
            connection.cut()
        elif origin.waiters and self._serve(origin, connection):
            pass
        elif self._starved and self._next_starved() is not None:
            connection.cut()  # another origin needs the place more
        else:
            connection.idle_since = self._loop.time()
            origin.idle[connection] = None

    def gone(self, origin: _Origin, connection: ClientConnection) -> None:
        """A connection is closed: its place is free."""
        if connection in self._connections:
            self._connections.discard(connection)
            origin.idle.pop(connection, None)
            self._leave_place(origin)
        if not self._connections:
            self._all_gone.set()

    def _leave_place(self, origin: _Origin) -> None:
        """A place is free: the first who waits for one takes it."""
        origin.places -= 1
        self._places -= 1
        heir = origin if origin.has_waiter else self._next_starved()
        if heir is not None and self._serve(heir, None):
            self._take_place(heir)
        self._forget_unused(origin)

    def _forget_unused(self, origin: _Origin) -> None:
        if not origin.places and not origin.waiters and self._origins.get(origin.address) is origin:
            del self._origins[origin.address]

    def _next_starved(self) -> _Origin | None:
        """The first origin that the total bound holds back. One at its own bound gets what it gives back itself."""
        while self._starved:
            origin = self._starved[0]
            if origin.places < self._limits.connections_per_origin and origin.has_waiter:
                return origin
            self._starved.popleft()
        return None

    def _serve(self, origin: _Origin, connection: ClientConnection | None) -> bool:
        while origin.waiters:
            waiter = origin.waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return True
        return False

    # Time

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._limits.sweep_seconds)
            now = self._loop.time()
            for connection in [each for each in self._connections if each.deadline <= now]:
                connection.overdue()
            for origin in list(self._origins.values()):
                while origin.idle and next(iter(origin.idle)).idle_since + self._limits.idle_seconds <= now:
                    origin.idle.popitem(last=False)[0].cut()

    async def aclose(self) -> None:
        """Close every connection, lent ones too, and return when all sockets are closed."""
        self._is_closed = True
        await self._tasks.aclose()
        for origin in list(self._origins.values()):
            for waiter in origin.waiters:
                _give_up(waiter)
        while self._connections:
            self._all_gone.clear()
            for connection in list(self._connections):
                connection.cut()
            await self._all_gone.wait()


def _give_up(waiter: "asyncio.Future[ClientConnection | None]") -> None:
    if not waiter.done():
        waiter.set_exception(ExchangeError(Fault.BUSY, sent=False))
