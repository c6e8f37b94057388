"""The client's side of HTTP, in any version: an exchange with its future, deadline and body; a connection's contract.

Each version's connection frames and sends. The pool decides which connection is used.
"""

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

from proxy.http.body import EMPTY, Body, BytesBody, Cut
from proxy.http.message import ExchangeError, Fault, Request, Response
from proxy.http.pipe import Pipe, PipeLimits, Source
from proxy.net.connection import Connection
from proxy.wire.events import Buffer, HeadLimits, ResponseHead

__all__ = ["NEVER", "ClientConnection", "ClientLimits", "ConnectionOwner", "Exchange"]

NEVER = float("inf")
"""A deadline that does not pass."""


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Bounds of every connection of a pool, in bytes."""

    head: HeadLimits  # bounds of a response head
    body: PipeLimits  # bounds of a response body that waits for its taker
    piece: int  # most bytes of a request body that are written at once; more are written piece by piece
    keeps_redirected: bool  # whether a connection is used again after a redirect


class ConnectionOwner(Protocol):
    """What lends a connection out, and hears from it: an origin of a pool."""

    def released(self, connection: "ClientConnection") -> None:
        """An exchange has ended, and the connection is open: it has room for another."""

    def settled(self, connection: "ClientConnection") -> None:
        """The connection's capacity has become known, or has grown."""

    def gone(self, connection: "ClientConnection") -> None:
        """The connection is closed, and its exchanges with it."""


class ClientConnection(Connection, ABC):
    """A connection to an origin, as its pool sees it.

    `capacity`: how many exchanges it can carry at once, as far as is known. `lent`: how many exchanges it was lent out
    for that have not ended. Its pool counts them, beginning before they do. There is room for another while `lent` is
    less than `capacity`. `is_settled`: whether the capacity is known; until then it is 1. `deadline`: when something is
    overdue, in the loop's time. `idle_since`: when `lent` became 0, in the loop's time.
    """

    __slots__ = ("_owner", "capacity", "deadline", "idle_since", "is_settled", "lent")

    def __init__(self, owner: ConnectionOwner, capacity: int, *, is_settled: bool) -> None:
        super().__init__()
        self._owner = owner
        self.capacity = capacity
        self.is_settled = is_settled
        self.lent = 0
        self.deadline = NEVER
        self.idle_since = 0.0

    @abstractmethod
    def is_fit(self, *, look: bool) -> bool:
        """Whether an exchange may begin now; with `look` the socket is asked, too (a system call)."""

    @abstractmethod
    async def exchange(self, request: Request) -> Response:
        """Send `request`, and return the response when its head has arrived, even if not all of `request` was sent.

        Called only when the connection was lent out for it. Raises ExchangeError, and BodyError when the request's own
        body was cut. Then, and when cancelled, the exchange has ended, and `released` or `gone` was called.
        """

    def retire(self) -> None:
        """Take no more exchanges. A connection without any is closed."""
        self.capacity = 0
        if not self.lent:
            self.cut()

    @abstractmethod
    def overdue(self) -> bool:
        """The deadline has passed. Whether a response's head is late. Called by the pool's sweep."""


class Exchange:
    """One request and its response, from when the request is sent until the response's body is whole.

    `pipe` is the response's body while it arrives. The exchange is open while its caller waits for the response's head,
    and while the body arrives.
    """

    __slots__ = ("_max_bytes", "_response", "deadline", "pipe")

    def __init__(self, loop: asyncio.AbstractEventLoop, request: Request) -> None:
        self._response: asyncio.Future[Response] | None = loop.create_future()
        self.deadline = NEVER if request.timeout is None else loop.time() + request.timeout
        self.pipe: Pipe | None = None
        self._max_bytes = request.max_response_bytes

    @property
    def is_awaited(self) -> bool:
        """Whether the caller waits for the response's head. A cancelled one does not, even before its task has run."""
        return self._response is not None and not self._response.done()

    async def response(self) -> Response:
        """The response, once its head is here. To be asked for once: its fields are not kept while its body arrives."""
        assert self._response is not None  # noqa: S101  # says what the docstring asks for
        response = await self._response
        self._response = None
        return response

    def answered(
        self, source: Source, limits: PipeLimits, head: ResponseHead, parts: list[Buffer], *, is_whole: bool
    ) -> None:
        """The response's head is here, with the first `parts` of its body; `is_whole`: with all of them."""
        body: Body
        if is_whole and (self._max_bytes is None or sum(map(len, parts)) <= self._max_bytes):
            body = BytesBody(parts) if parts else EMPTY
        else:
            body = pipe = Pipe(source, limits, head.length, self._max_bytes)
            self.pipe = pipe
            if parts:
                pipe.feed(parts)
        if self._response is not None:
            self._response.set_result(Response(head.status, head.headers, body))

    def end(self) -> None:
        """The response's body is whole."""
        if self.pipe is not None:
            pipe, self.pipe = self.pipe, None
            pipe.end()

    def fail(self, fault: Fault, cut: Cut, detail: str = "") -> None:
        """There will be no response (`fault`), or no more of its body (`cut`). Harmless after the end."""
        if self._response is not None and not self._response.done():
            self._response.set_exception(ExchangeError(fault, sent=True, detail=detail))
        if self.pipe is not None:
            pipe, self.pipe = self.pipe, None
            pipe.fail(cut)

    def abandoned(self) -> bool:
        """The caller was cancelled or failed. True when the response had just arrived; then its body is closed."""
        response = self._response
        if response is None or not response.done() or response.cancelled() or response.exception() is not None:
            return False
        response.result().body.close()
        return True
