"""Every number of the client, with unit and reason. Callers choose those in `Retry` and `Timeouts`."""

import random
from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal

__all__ = [
    "ABANDONED_SECONDS", "DECODED_STEP_BYTES", "DEFAULT_PREFIX", "ERROR_BODY_BYTES", "ERROR_BODY_SECONDS",
    "EVENT_BYTES", "LEAST_SECONDS", "LOST_ATTEMPTS", "MAX_CONNECTIONS", "MAX_IDLE_CONNECTIONS", "MEMORY_ENTRIES",
    "RETRY_AFTER_SECONDS", "SILENCE_SECONDS", "SSE_ATTEMPTS", "SSE_SILENCE_SECONDS", "TAIL_BYTES",
    "TRANSIENT_STATUSES", "Backoff", "Live", "OnClose", "OnCloseName", "Retry", "Timeouts",
]  # fmt: skip

ABANDONED_SECONDS = 30 * 86400.0  # a file untouched for this long is removed; streams live for a day by default
DECODED_STEP_BYTES = 1 << 16  # of an encoded body, decoded at a time to look at it
DEFAULT_PREFIX = "durable-streams:"  # of keys in a storage that other things may share
ERROR_BODY_BYTES = 1 << 20  # read of an error answer; the proxy sends at most 64 KiB, another server may send more
ERROR_BODY_SECONDS = 10.0  # for the whole error answer; the proxy gives an upstream's error body 5 s
EVENT_BYTES = 32 << 20  # one server-sent event; a stream with larger ones is read by long-poll, which buffers no events
LEAST_SECONDS = 0.01  # shortest time-out of a socket, because 0 can mean "do not wait"
LOST_ATTEMPTS = 256  # lost requests remembered for an SDK's retry; few are in flight at once
MAX_CONNECTIONS = 1000  # each answer being read holds one; the openai and anthropic SDKs use the same number
MAX_IDLE_CONNECTIONS = 100  # kept open for reuse; the openai and anthropic SDKs use the same number
MEMORY_ENTRIES = 10_000  # credentials in `MemoryStorage`, about 1 KiB each
SSE_ATTEMPTS = 3  # live reads by SSE in a row without one event; then long-poll, which more networks let through
SSE_SILENCE_SECONDS = 45.0  # an SSE read without a byte for so long is dead: the proxy sends keep-alives every 15 s
RETRY_AFTER_SECONDS = 60.0  # longest `Retry-After` that the client waits for; SDKs wait about as long
SILENCE_SECONDS = 90.0  # any other read without a byte for so long is dead: a long-poll is answered within 60 s
TAIL_BYTES = 32  # last delivered bytes that are kept, to see whether they end with `data: [DONE]`

# Statuses that can be another one a moment later, so the same request is sent again. Most of them come from something
# between the client and the proxy: a load balancer, a CDN or a gateway. Repeating costs nothing: a read changes
# nothing, and a create carries an `Idempotency-Key`, so the proxy calls the upstream once.
# `proxy/static` holds the same list; a test compares the two.
TRANSIENT_STATUSES = frozenset({
    408, 425, 429,  # request timed out on the way; too early; too many requests
    500, 502, 503, 504,  # a failing, restarting or overloaded hop
    520, 521, 522, 523, 524, 525, 526, 527, 530,  # Cloudflare: no usable answer from the server behind it
    529, 598, 599,  # overloaded, read time-out, connect time-out: not registered, but sent by gateways
})  # fmt: skip


class Live(Enum):
    """How a read waits for new bytes; the values are those of the `live` parameter."""

    SSE = "sse"
    LONG_POLL = "long-poll"


class OnClose(Enum):
    """What closing an unfinished response does to the upstream call."""

    AUTO = "auto"  # abort, unless there is a request id by which the answer can be resumed
    ABORT = "abort"  # abort
    DETACH = "detach"  # let it go on


OnCloseName = Literal["auto", "abort", "detach"]


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how long the client tries.

    - `reads`: a read gives up after this many failures in a row without a new byte. The default bridges about 30 s.
    - `creates`: attempts to have a request answered. Few, because SDKs retry on top of them.
    - `first_delay`, `max_delay`: seconds. The longest wait before a retry doubles from the first to the second; each
      wait is drawn at random from zero up to it. A server's `Retry-After` makes a wait longer, up to a minute.
    - `live`: how a read waits for new bytes.
    """

    reads: int = 10
    creates: int = 3
    first_delay: float = 0.2
    max_delay: float = 8.0
    live: Live = Live.SSE


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Longest waits, in seconds; None waits for ever.

    - `connect`: for a connection to the proxy. `write`: for the socket to take a piece of the request.
    - `pool`: for a place in the connection pool.
    - `answer`: from the request to the head of the response. The default exceeds the proxy's own wait for an upstream.
    - `data`: for a new byte of the answer. Keep-alives do not count.
    """

    connect: float | None = 10.0
    write: float | None = 30.0
    pool: float | None = 10.0
    answer: float | None = 120.0
    data: float | None = None

    def for_reading(self, waited: float, silence: float) -> "Timeouts":
        """The time-outs of a read, after `waited` seconds without a byte.

        Its socket may be silent for what is left of `data`, but never for longer than `silence` seconds.
        """
        left = silence if self.data is None else max(self.data - waited, LEAST_SECONDS)
        return replace(self, answer=min(left, silence))

    def for_abort(self) -> "Timeouts":
        """The time-outs of an abort, which is answered at once or not at all."""
        return replace(self, answer=self.connect)


class Backoff:
    """Counts failures in a row, and says how long to wait after each."""

    def __init__(self, retry: Retry, attempts: int) -> None:
        self._retry = retry
        self._attempts = attempts
        self._failures = 0

    def progressed(self) -> None:
        """Something worked: start counting from zero."""
        self._failures = 0

    def failed(self, retry_after: float | None = None) -> float | None:
        """Count a failure. Seconds to wait before the next attempt; None when no attempt is left.

        `retry_after`: seconds that the server asked for. The wait is at least as long, but at most RETRY_AFTER_SECONDS.
        """
        self._failures += 1
        if self._failures >= self._attempts:
            return None
        ceiling = min(self._retry.max_delay, self._retry.first_delay * 2.0 ** min(self._failures - 1, 30))
        delay = random.uniform(0, ceiling)  # noqa: S311  # jitter, not a secret
        return delay if retry_after is None else max(delay, min(retry_after, RETRY_AFTER_SECONDS))

    def pause(self) -> float:
        """Seconds to wait after an answer without news, so that a server that answers at once causes no busy loop."""
        return random.uniform(0.5, 1.0) * self._retry.first_delay  # noqa: S311  # jitter, not a secret
