"""The one idea: a server is a function from `Request` to `Response`, and bodies are pulled.

Owns the messages, the `Body` that carries their bytes, and back-pressure between who feeds and who takes.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from proxy.wire.events import Buffer, first_bytes
from proxy.wire.headers import Field, Headers

__all__ = [
    "EMPTY", "Body", "BodyError", "Buffer", "Cut", "Exchange", "ExchangeError", "Field", "Handler", "Headers",
    "Parts", "Request", "Response", "TooLarge", "first_bytes", "read_all",
]  # fmt: skip


class Cut(Enum):
    """Why a body ended before its framing said so."""

    RESET = "the connection was lost"
    FRAMING = "the framing was broken"
    LIMIT = "the limit on its size was reached"
    IDLE = "no byte came in time"
    ABORTED = "it was aborted"
    GONE = "nobody wants the rest"
    SHUTDOWN = "the server stopped"


class BodyError(Exception):
    """Raised by `take` after the last good byte was taken: the body was cut, and why."""

    def __init__(self, cut: Cut) -> None:
        super().__init__(cut.value)
        self.cut = cut


class TooLarge(Exception):
    """A body was larger than its reader accepts."""


class Body(Protocol):
    """The bytes of a message, pulled by one taker."""

    @property
    def length(self) -> int | None:
        """How many bytes there will be in all, None when unknown."""

    @property
    def ended(self) -> bool:
        """Whether all has been taken and the end is known to be whole: the next `take` returns () at once."""

    async def take(self) -> tuple[Buffer, ...]:
        """Every buffer that has arrived since the last take, waiting for the first; () at the end.

        Raises BodyError when the body was cut, after what came before has been taken. A cancelled call
        loses nothing: the next one returns the same buffers.
        """

    def limit(self, max_bytes: int) -> None:
        """Let exactly `max_bytes` pass and cut with `Cut.LIMIT` when one more arrives."""

    def abort(self, cut: Cut = Cut.ABORTED) -> None:
        """End the body now: its source is cut off. Harmless after the end.

        What arrived can still be taken, but for `Cut.GONE`: then it is dropped, for there is no taker. So says, too,
        a taker that stops at `ended`, and then holds nothing of the body any more.
        """


class Parts:
    """A body that is here already. `take` gives all of it once, the very buffers it was made of."""

    __slots__ = ("_cut", "_parts", "length")

    length: int | None

    def __init__(self, parts: Iterable[Buffer] = ()) -> None:
        self._parts = tuple(filter(len, parts))
        self.length = sum(map(len, self._parts))
        self._cut: Cut | None = None

    @property
    def ended(self) -> bool:
        """Whether the buffers were taken."""
        return not self._parts and self._cut is None

    async def take(self) -> tuple[Buffer, ...]:
        """All the buffers, then ()."""
        return self.taken()

    def taken(self) -> tuple[Buffer, ...]:
        """The same for those who need not wait."""
        parts, self._parts = self._parts, ()
        if not parts and self._cut is not None:
            raise BodyError(self._cut)
        return parts

    def limit(self, max_bytes: int) -> None:
        """Keep the first `max_bytes`; a longer body is cut with `Cut.LIMIT`."""
        if sum(map(len, self._parts)) > max_bytes:
            self._parts = tuple(first_bytes(self._parts, max_bytes))
            self._cut = Cut.LIMIT

    def abort(self, cut: Cut = Cut.ABORTED) -> None:
        """Nothing to cut off: the bytes are here. `Cut.GONE` drops them, so that who still holds the body does not."""
        if cut is Cut.GONE and self._parts:
            self._parts, self._cut = (), cut


EMPTY = Parts()


async def read_all(body: Body, max_bytes: int) -> bytes:
    """The whole body joined; aborted when that fails. Raises TooLarge past `max_bytes`, BodyError when it was cut."""
    collected: list[Buffer] = []
    size = 0
    try:
        while parts := await body.take():
            size += sum(map(len, parts))
            if size > max_bytes:
                raise TooLarge
            collected += parts
    except BaseException:
        body.abort(Cut.GONE)
        raise
    return b"".join(collected)


@dataclass(slots=True)
class Request:
    """A request: `target` is in origin form, as on the wire.

    `timeout` is how many seconds whoever performs the exchange waits for the response's head; None: for ever.
    """

    method: bytes
    target: bytes
    headers: Headers
    body: Body = EMPTY
    timeout: float | None = None

    def __repr__(self) -> str:
        """Method and path: a query may hold a signature."""
        return f"<Request {self.method.decode()} {self.target.partition(b'?')[0].decode('latin-1')}>"


@dataclass(slots=True)
class Response:
    """A response. Who receives one takes its body to the end or aborts it; else its connection is never released."""

    status: int
    headers: Headers
    body: Body = EMPTY

    def __repr__(self) -> str:
        return f"<Response {self.status}>"


Handler = Callable[[Request], Awaitable[Response]]


class Exchange(Enum):
    """What went wrong between sending a request and receiving the response's head."""

    BUSY = "no connection became free in time"
    DNS = "the host name could not be resolved"
    FORBIDDEN = "the host resolves to an address that is not allowed"
    CONNECT = "the connection could not be opened"
    TLS = "the TLS handshake failed"
    RESET = "the connection was lost before the response"
    TIMEOUT = "the response did not come in time"
    PROTOCOL = "the response was not valid HTTP"


class ExchangeError(Exception):
    """No response. `sent` tells whether a byte of the request may have reached the peer."""

    def __init__(self, exchange: Exchange, *, sent: bool) -> None:
        super().__init__(exchange.value)
        self.exchange = exchange
        self.sent = sent

    @property
    def is_loss(self) -> bool:
        """Whether the connection was lost under the exchange, as happens to one that idled: worth a new one."""
        return self.exchange is Exchange.RESET
