"""One connection to a server: commands go out in one write a turn of the loop, replies come back in their order.

Owns that each reply reaches the command it answers. A caller that was cancelled leaves its place in the order: its
reply is read and dropped. Deadlines are watched by one timer for the whole connection, because a timer for each command
costs more than the command.

With `replicas`, each write to the socket ends with WAIT, and what was asked in it is answered when so many replicas
have it. The server handles a connection's commands one after the other, so a WAIT holds up what comes behind it: use
another connection for reads.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

from proxy.store.valkey.resp import Malformed, Parser, Push, Reply, ServerError, encoded

__all__ = ["EngineConnection", "Lost", "NotReplicated"]


class Lost(Exception):
    """The connection is gone: the command was executed, or not. The message says why."""


class NotReplicated(Lost):
    """Too few replicas have it in time: it was executed, and a failover may still undo it."""


class EngineConnection(asyncio.Protocol):
    """Made by `loop.create_connection`; usable from then until `is_lost`.

    `pushed` is called with what the server sends unasked, and `lost` once, at the end. `answer_seconds` is the longest
    time that the oldest command may wait for its reply; past it the connection is given up.
    """

    def __init__(
        self, answer_seconds: float, pushed: Callable[[Push], None], lost: Callable[["EngineConnection"], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._answer_seconds = answer_seconds
        self._pushed = pushed
        self._lost = lost
        self._parser = Parser()
        self._transport: asyncio.Transport | None = None
        self._out: list[bytes] = []
        self._waiting: deque[tuple[asyncio.Future[Reply] | None, float]] = deque()  # with its time; None: a WAIT
        self._unacknowledged: list[tuple[asyncio.Future[Reply], Reply]] = []  # replies that wait for replicas
        self.replicas = 0
        self._now = 0.0  # of this turn of the loop
        self._timer: asyncio.TimerHandle | None = None
        self._reason = "the server closed the connection"
        self.node = ""  # the server's address
        self.is_lost = False
        self.ended: asyncio.Future[None] = self._loop.create_future()

    def call(self, command: bytes) -> "asyncio.Future[Reply]":
        """Send a command; its reply, in turn. The future raises ServerError, or Lost."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        if self.is_lost:
            future.set_exception(Lost(self._reason))
            return future
        self._send(command)
        self._waiting.append((future, self._now))
        return future

    async def answered(self) -> None:
        """Return when everything that was sent so far is answered, or the connection is lost."""
        futures = [future for future, _ in self._waiting if future is not None]
        futures += [future for future, _ in self._unacknowledged]
        if futures:
            await asyncio.wait(futures)

    def tell(self, command: bytes) -> None:
        """Send a command that is answered by a push, as a subscription is."""
        if not self.is_lost:
            self._send(command)

    def _send(self, command: bytes) -> None:
        if not self._out:
            self._now = self._loop.time()
            self._loop.call_soon(self._flush)
        self._out.append(command)

    def _flush(self) -> None:
        out, self._out = self._out, []
        if self.replicas:
            out.append(encoded(["WAIT", self.replicas, int(self._answer_seconds * 1000 / 2)]))
            self._waiting.append((None, self._now))
        if self._transport is not None and not self.is_lost:
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        self._transport = cast(asyncio.Transport, transport)
        self._timer = self._loop.call_later(self._answer_seconds / 4, self._sweep)

    def data_received(self, data: bytes) -> None:
        """Replies and pushes."""
        try:
            replies = self._parser.feed(data)
        except Malformed as error:
            self.abort(f"the server does not speak RESP: {error}")
            return
        waiting = self._waiting
        for reply in replies:
            if isinstance(reply, Push):
                self._pushed(reply)
                continue
            if not waiting:
                self.abort(f"the server sent a reply that nothing asked for: {_shown(reply)}")
                return
            future, _ = waiting.popleft()
            if future is None:
                self._acknowledge(reply)
            elif self.replicas:
                self._unacknowledged.append((future, reply))
            else:
                _settle(future, reply)

    def _acknowledge(self, replicas: Reply) -> None:
        """So many replicas have what was asked before."""
        found = replicas if isinstance(replicas, int) else 0
        held, self._unacknowledged = self._unacknowledged, []
        for future, reply in held:
            if found >= self.replicas or isinstance(reply, ServerError):
                _settle(future, reply)
            elif not future.done():
                future.set_exception(NotReplicated(f"{found} of {self.replicas} replicas have the write"))

    def connection_lost(self, error: Exception | None) -> None:
        """The socket is closed: nothing more is answered."""
        if error is not None:
            self._reason = f"the connection broke: {error}"
        self._end()

    def abort(self, reason: str) -> None:
        """Close at once; what waits for a reply raises Lost."""
        self._reason = reason
        if self._transport is not None:
            self._transport.abort()
        self._end()

    def _end(self) -> None:
        if self.is_lost:
            return
        self.is_lost = True
        if self._timer is not None:
            self._timer.cancel()
        futures = [future for future, _ in self._unacknowledged] + [future for future, _ in self._waiting if future]
        self._unacknowledged.clear()
        self._waiting.clear()
        for each in futures:
            if not each.done():
                each.set_exception(Lost(self._reason))
        if not self.ended.done():
            self.ended.set_result(None)
        self._lost(self)

    def _sweep(self) -> None:
        now = self._loop.time()
        if self._waiting and self._waiting[0][1] + self._answer_seconds < now:
            self.abort(f"the server did not answer within {self._answer_seconds:g} s")
            return
        self._timer = self._loop.call_later(self._answer_seconds / 4, self._sweep)


def _settle(future: "asyncio.Future[Reply]", reply: Reply) -> None:
    if future.done():
        return
    if isinstance(reply, ServerError):
        future.set_exception(reply)
    else:
        future.set_result(reply)


def _shown(reply: Reply) -> str:
    return str(reply) if isinstance(reply, ServerError) else type(reply).__name__
