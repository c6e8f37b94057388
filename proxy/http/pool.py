"""A pool of connections to origins, each of which is a `Handler`. Owns bounds, order and idle expiry.

A connection has a *place* from before it is opened until its socket is closed; the bounds are bounds on places. An
exchange needs *room* on a connection: one at a time on HTTP/1.1, `capacity` of them in general. A request gets it from

1. a connection of its origin that has room: the one that was used last, so that the others become idle and expire;
2. a connection that is being opened, if that will probably have room for it and for those that wait before it;
3. a new connection, while there are places;
4. otherwise it waits, first come first served in its origin.

How much room a connection of an origin will have is what its last one had, once its version and settings were known.
Nothing is known of an https origin that is asked for the first time, as long as HTTP/2 is offered. Then everyone waits
for the first connection, because it may have room for all; when it cannot be opened, all of them fail with it.

A request that its origin certainly did not act on is sent once more, on another connection (RFC 9113 section 8.7). A
connection that refused one takes no more. If the origin asked for HTTP/1.1, it is never offered HTTP/2 again. If the
origin was leaving the connection, the second attempt has a connection of its own, as long as there are places: another
shared one could be left just so, by an origin that leaves each after a few requests.

Who gets what becomes free, always in constant time:

- Room goes to its own origin's first waiter. It cannot serve another origin.
- A place goes to the first waiter of the origin that gives it back, which may open a new connection on it. Without
  one it goes to the origin that has been *starved* for longest: one with a waiter that only the total bound holds
  back. An origin at its own bound is not starved: more places would not help it.
- While an origin is starved, a connection that becomes idle is closed for it, and so is, at once, the one that has
  been idle for longest. Otherwise an origin that is never at rest could keep all places for ever.
"""

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from functools import partial

from proxy.base.tasks import Tasks
from proxy.http.client import ClientConnection, ClientLimits, ConnectionOwner
from proxy.http.kept import KeptBody
from proxy.http.message import ExchangeError, Fault, Handler, Request, Response
from proxy.http.opening import Opening
from proxy.http.origin import Known, Origin
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
    DialFailure.DESCRIPTORS: Fault.DESCRIPTORS,
}


_PLAIN = Known(1, offers_http2=False)
"""Of every origin that HTTP/2 is not offered to."""

Connect = Callable[[ConnectionOwner, ClientLimits], ClientConnection]
"""Makes a connection that speaks one HTTP version, before its socket is opened."""


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Bounds of one pool and of its connections: sizes in bytes, times in seconds."""

    head: HeadLimits  # bounds of a response head
    pause_bytes: int  # waiting bytes of one response body at which its connection is paused
    max_waiting_bytes_total: int  # waiting bytes of all response bodies of this pool at which all are paused
    request_piece_bytes: int  # most bytes of a request body that are written at once; more are written piece by piece
    connections: int  # most connections to all origins
    connections_per_origin: int  # most connections to one origin
    origins: int  # origins of which is remembered how many exchanges a connection of them carries
    pool_timeout_seconds: float  # longest wait of a request for a connection
    idle_seconds: float  # how long an idle connection is kept for reuse
    sweep_seconds: float  # pause between two searches for connections that were idle too long
    # True: a lost request cannot be repeated. So an idle connection is checked before it is used, and a connection is
    # closed after a redirect.
    is_careful: bool


class Pool:
    """Client connections to any number of origins. Start it inside a running loop; `aclose` closes every socket."""

    def __init__(
        self, name: str, dialler: Dialler, limits: PoolSettings, connect: Connect, connect2: Connect | None = None
    ) -> None:
        """`connect2` makes connections that speak HTTP/2. Without it, HTTP/2 is offered to no origin."""
        self._loop = asyncio.get_running_loop()
        self._dialler = dialler
        self._limits = limits
        self._connect = connect
        self._connect2 = connect2
        self.bodies = PipeLimits(limits.pause_bytes, Budget(limits.max_waiting_bytes_total))
        self._client_limits = ClientLimits(
            limits.head, self.bodies, limits.request_piece_bytes, keeps_redirected=not limits.is_careful
        )
        self._origins: dict[Address, Origin] = {}
        self._known: OrderedDict[tuple[str, int], Known] = OrderedDict()  # by host and port, the oldest first
        self._connections: dict[ClientConnection, Origin] = {}
        self._unsettled: set[ClientConnection] = set()
        self._idle: OrderedDict[ClientConnection, Origin] = OrderedDict()  # without an exchange, longest idle first
        self._places = 0
        self._starved: deque[Origin] = deque()  # origins with a waiter that the total bound holds back
        self._is_closed = False
        self._all_gone = asyncio.Event()
        self._tasks = Tasks(f"pool {name}")
        self._tasks.start("sweep", self._sweep())

    def at(self, address: Address) -> Handler:
        """The origin at `address` as a function. Its calls raise ExchangeError.

        A call must be awaited at once: it may hold a connection, which only the exchange gives back.
        """

        def handle(request: Request) -> Coroutine[None, None, Response]:
            if self._connect2 is not None and address.tls:
                return self._exchange_kept(address, request)
            connection = self._ready(address)
            return connection.exchange(request) if connection is not None else self._exchange(address, request)

        return handle

    async def _exchange(self, address: Address, request: Request, *, is_apart: bool = False) -> Response:
        """`is_apart`: on a new connection, if there is a place for one."""
        connection = None if is_apart else self._ready(address)
        connection = connection or await self._acquire(address, is_apart=is_apart)
        return await connection.exchange(request)

    async def _exchange_kept(self, address: Address, request: Request) -> Response:
        """An exchange that is begun once more when the origin certainly did not act on it, within the same time-out."""
        kept = await KeptBody.of(request.body)
        begin = self._loop.time()
        try:
            try:
                response = await self._exchange(address, replace(request, body=kept.outgoing()))
            except ExchangeError as error:
                if not error.is_unprocessed:
                    raise
                if error.fault is Fault.VERSION:
                    self._offer_http1(self._known_of(address))
                left = None if request.timeout is None else begin + request.timeout - self._loop.time()
                again = replace(request, body=kept.outgoing(), timeout=left)
                response = await self._exchange(address, again, is_apart=error.fault is Fault.LEAVING)
        except BaseException:
            kept.close()
            raise
        kept.answered()
        return response

    def __len__(self) -> int:
        return len(self._connections)

    # Lending

    def _ready(self, address: Address) -> ClientConnection | None:
        """Lend the connection that was used last, of those that have room and are fit."""
        origin = self._origins.get(address)
        while origin is not None and origin.ready:
            connection = origin.ready.popitem()[0]
            if connection.lent >= connection.capacity:  # it has shrunk
                continue
            self._idle.pop(connection, None)
            connection.lent += 1
            if connection.is_fit(look=self._limits.is_careful):
                if connection.lent < connection.capacity:
                    origin.ready[connection] = None
                return connection
            self._unfit(connection)
        return None

    def _unfit(self, connection: ClientConnection) -> None:
        """A lent connection cannot be used: close it, unless it still carries other exchanges."""
        connection.lent -= 1
        if not connection.lent:
            connection.cut()

    async def _acquire(self, address: Address, *, is_apart: bool = False) -> ClientConnection:
        """Lend a new connection, or one that another exchange no longer needs."""
        origin = self._origin(address)
        give_up = self._loop.time() + self._limits.pool_timeout_seconds
        lent: ClientConnection | None = None
        while True:
            if self._is_closed:
                raise ExchangeError(Fault.CONNECT, sent=False)
            if lent is not None:
                if lent.is_fit(look=self._limits.is_careful):
                    return lent
                self._unfit(lent)
                lent = self._ready(address)
            elif self._has_place(origin) and (is_apart or not origin.covers(len(origin.waiters) + 1)):
                self._take_place(origin)
                return await self._open(origin)
            else:
                lent = await self._wait(origin, give_up)
                if lent is None:
                    return await self._open(origin)
                # The origin may have been forgotten meanwhile, when its last connection was lost.
                origin = self._origin(address)

    def _origin(self, address: Address) -> Origin:
        origin = self._origins.get(address)
        if origin is None:
            origin = self._origins[address] = Origin(self, address, self._known_of(address))
        return origin

    def _known_of(self, address: Address) -> Known:
        if self._connect2 is None or not address.tls:
            return _PLAIN
        place = address.host, address.port
        known = self._known.get(place)
        if known is None:
            known = self._known[place] = Known(math.inf, offers_http2=True)
            if len(self._known) > self._limits.origins:
                self._known.popitem(last=False)
        self._known.move_to_end(place)
        return known

    def _offer_http1(self, known: Known) -> None:
        """An origin has asked for HTTP/1.1: its connections that speak HTTP/2 take no more exchanges."""
        known.carries, known.offers_http2 = 1, False
        for connection, origin in list(self._connections.items()):
            if origin.known is known:
                connection.retire()

    def _has_place(self, origin: Origin) -> bool:
        return origin.places < self._limits.connections_per_origin and self._places < self._limits.connections

    def _close_longest_idle(self) -> None:
        """Close the connection that has been idle for longest. The first starved origin gets its place."""
        self._close_idle(next(iter(self._idle)))

    def _close_idle(self, connection: ClientConnection) -> None:
        """Close a connection without an exchange. The first starved origin gets its place."""
        self._idle.pop(connection).ready.pop(connection, None)
        connection.cut()

    def _take_place(self, origin: Origin) -> None:
        origin.places += 1
        origin.opening += 1
        self._places += 1

    async def _open(self, origin: Origin) -> ClientConnection:
        """Open a connection on a place that is already taken, and lend it.

        Raises ExchangeError; then, and when cancelled, the place is free again.
        """
        try:
            if self._is_closed:
                raise DialError(DialFailure.CONNECT)
            connection = await self._dial(origin)
            if self._is_closed or not connection.is_fit(look=False):
                connection.cut()
                raise DialError(DialFailure.CONNECT)
        except DialError as error:
            if origin.known.carries == math.inf:
                for waiter in origin.waiters:
                    _give_up(waiter, _FAILURES[error.failure], error.detail)
            origin.opening -= 1
            self._leave_place(origin)
            raise ExchangeError(_FAILURES[error.failure], sent=False, detail=error.detail) from None
        except BaseException:
            origin.opening -= 1
            self._leave_place(origin)
            raise
        self._connections[connection] = origin
        self._unsettled.add(connection)
        connection.lent += 1
        self.settled(origin, connection)
        return connection

    async def _dial(self, origin: Origin) -> ClientConnection:
        """A new connection that speaks what the origin has agreed to. Raises DialError."""
        address = origin.address
        http1 = partial(self._connect, origin, self._client_limits)
        if self._connect2 is None or not origin.known.offers_http2:
            return await self._dialler.dial(http1, address)
        http2 = partial(self._connect2, origin, self._client_limits)
        opening = await self._dialler.dial(lambda: Opening(http1, http2), address._replace(http2=True))
        if opening.speaker is None:
            raise DialError(DialFailure.CONNECT)
        return opening.speaker

    async def _wait(self, origin: Origin, give_up: float) -> ClientConnection | None:
        """Wait for a connection, which is then lent to this call; or for a place, then the result is None.

        Raises ExchangeError at the loop's time `give_up`. A cancelled call gives back what it got.
        """
        waiter: asyncio.Future[ClientConnection | None] = self._loop.create_future()
        origin.waiters.append(waiter)
        if origin.places < self._limits.connections_per_origin and origin.wants_place:
            self._starved.append(origin)
            if self._idle:
                self._close_longest_idle()
        timer = self._loop.call_at(give_up, _give_up, waiter, Fault.BUSY)
        try:
            return await waiter
        except asyncio.CancelledError:
            if _is_served(waiter):  # it was served while it was being cancelled
                self._hand_back(origin, waiter.result())
            raise
        finally:
            timer.cancel()
            if not _is_served(waiter) and waiter in origin.waiters:
                origin.waiters.remove(waiter)
            self._forget_unused(origin)

    def _hand_back(self, origin: Origin, connection: ClientConnection | None) -> None:
        if connection is None:
            origin.opening -= 1
            self._leave_place(origin)
        elif connection.is_fit(look=False):
            self.released(origin, connection)
        else:
            self._unfit(connection)

    # Taking back

    def released(self, origin: Origin, connection: ClientConnection) -> None:
        """See ConnectionOwner. The room goes to the first waiter; without one it is kept."""
        connection.lent -= 1
        if not self._is_closed:
            self._share(origin, connection)
        elif not connection.lent:
            connection.cut()

    def _share(self, origin: Origin, connection: ClientConnection) -> None:
        """Lend the connection's room to its origin's waiters. The rest is ready for later requests."""
        while origin.waiters and connection.lent < connection.capacity and self._serve(origin, connection):
            connection.lent += 1
        if not connection.lent:
            if self._starved and self._next_starved() is not None:
                connection.cut()  # a starved origin gets the place
                return
            connection.idle_since = self._loop.time()
            self._idle[connection] = origin
        if connection.lent < connection.capacity:
            origin.ready[connection] = None

    def settled(self, origin: Origin, connection: ClientConnection) -> None:
        """See ConnectionOwner. Those that waited for this connection use it; those that it has no room for open others.

        A connection that is not in the pool yet is looked at when it is.
        """
        if connection not in self._connections or self._is_closed:
            return
        if connection.is_settled and connection in self._unsettled:
            self._unsettled.discard(connection)
            origin.opening -= 1
            if origin.known is not _PLAIN and connection.capacity:
                origin.known.carries = connection.capacity
        self._share(origin, connection)
        self._spread(origin)

    def _spread(self, origin: Origin) -> None:
        """Let waiters that no connection will have room for open others."""
        while self._has_place(origin) and origin.wants_place and self._serve(origin, None):
            self._take_place(origin)

    def gone(self, origin: Origin, connection: ClientConnection) -> None:
        """See ConnectionOwner. The place is free."""
        if connection in self._connections:
            del self._connections[connection]
            if connection in self._unsettled:
                self._unsettled.discard(connection)
                origin.opening -= 1
            self._idle.pop(connection, None)
            origin.ready.pop(connection, None)
            self._leave_place(origin)
        if not self._connections:
            self._all_gone.set()

    def _leave_place(self, origin: Origin) -> None:
        """A place is free: the first waiter for one takes it."""
        origin.places -= 1
        self._places -= 1
        heir = origin if origin.wants_place else self._next_starved()
        if heir is not None and self._serve(heir, None):
            self._take_place(heir)
        self._forget_unused(origin)

    def _forget_unused(self, origin: Origin) -> None:
        if not origin.places and not origin.waiters and self._origins.get(origin.address) is origin:
            del self._origins[origin.address]

    def _next_starved(self) -> Origin | None:
        """The first origin that only the total bound holds back."""
        while self._starved:
            origin = self._starved[0]
            if origin.places < self._limits.connections_per_origin and origin.wants_place:
                return origin
            self._starved.popleft()
        return None

    def _serve(self, origin: Origin, connection: ClientConnection | None) -> bool:
        """Give the first waiter a connection, or (None) a place. False when there is no waiter."""
        while origin.waiters:
            waiter = origin.waiters.popleft()
            if not waiter.done():
                waiter.set_result(connection)
                return True
        return False

    # Time

    async def _sweep(self) -> None:
        pause = self._limits.sweep_seconds
        while True:
            due = self._loop.time() + pause
            await asyncio.sleep(pause)
            now = self._loop.time()
            self.judge(now, is_late=now - due > pause / 4)
            while self._idle and next(iter(self._idle)).idle_since + self._limits.idle_seconds <= now:
                self._close_longest_idle()

    def judge(self, now: float, *, is_late: bool) -> None:
        """Call `overdue` of each connection whose deadline has passed at the loop's time `now`.

        `is_late`: the call is late, because the process was stopped or its loop was blocked. Then a connection with
        unread bytes in its socket is judged at the next call, because its response may have come in time.

        When an origin answers too late, its idle connections are closed, too. They may all be deaf while new ones
        would work (after a fail-over, or when a gateway has forgotten an address), and a request that is sent again
        would try one after the other of them.
        """
        late: set[Origin] = set()
        for connection in [each for each in self._connections if each.deadline <= now]:
            if not (is_late and connection.has_unread()):
                origin = self._connections[connection]
                if connection.overdue():
                    late.add(origin)
        if late:
            for connection in [each for each, origin in self._idle.items() if origin in late]:
                self._close_idle(connection)

    async def aclose(self) -> None:
        """Close every connection, also lent ones, and return when all sockets are closed."""
        self._is_closed = True
        await self._tasks.aclose()
        for origin in list(self._origins.values()):
            for waiter in origin.waiters:
                _give_up(waiter, Fault.BUSY)
        while self._connections:
            self._all_gone.clear()
            for connection in list(self._connections):
                connection.cut()
            await self._all_gone.wait()


def _give_up(waiter: "asyncio.Future[ClientConnection | None]", fault: Fault, detail: str = "") -> None:
    if not waiter.done():
        waiter.set_exception(ExchangeError(fault, sent=False, detail=detail))


def _is_served(waiter: "asyncio.Future[ClientConnection | None]") -> bool:
    return waiter.done() and not waiter.cancelled() and waiter.exception() is None
