"""One connection to a server: commands go out in one write a turn of the loop, replies come back in their order.

Owns that each reply reaches the command it answers. A caller that was cancelled leaves its place in the order: its
reply is read and dropped. Deadlines are watched by one timer for the whole connection, because a timer for each command
costs more than the command.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

from proxy.store.valkey.resp import Malformed, Parser, Push, Reply, ServerError

__all__ = ["EngineConnection", "Lost"]


class Lost(Exception):
    """The connection is gone: the command was executed, or not. The message says why."""


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
        self._waiting: deque[tuple[asyncio.Future[Reply], float]] = deque()  # with the time of asking
        self._now = 0.0  # of this turn of the loop
        self._timer: asyncio.TimerHandle | None = None
        self._reason = "the server closed the connection"
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
        if self._waiting:
            await asyncio.wait((self._waiting[-1][0],))

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
            if future.done():
                continue
            if isinstance(reply, ServerError):
                future.set_exception(reply)
            else:
                future.set_result(reply)

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
        while self._waiting:
            future, _ = self._waiting.popleft()
            if not future.done():
                future.set_exception(Lost(self._reason))
        if not self.ended.done():
            self.ended.set_result(None)
        self._lost(self)

    def _sweep(self) -> None:
        now = self._loop.time()
        if self._waiting and self._waiting[0][1] + self._answer_seconds < now:
            self.abort(f"the server did not answer within {self._answer_seconds:g} s")
            return
        self._timer = self._loop.call_later(self._answer_seconds / 4, self._sweep)


def _shown(reply: Reply) -> str:
    return str(reply) if isinstance(reply, ServerError) else type(reply).__name__
