"""Every number of the client: unit and reason beside it. What a caller may choose is in `Retry` and `Timeouts`."""

import random
from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal

__all__ = [
    "ABANDONED_SECONDS", "DEFAULT_PREFIX", "ERROR_BODY_BYTES", "ERROR_BODY_SECONDS", "EVENT_BYTES", "LEAST_SECONDS",
    "LOST_ATTEMPTS", "MAX_CONNECTIONS", "MAX_IDLE_CONNECTIONS", "MEMORY_ENTRIES", "SILENCE_SECONDS", "TAIL_BYTES",
    "TRANSIENT_STATUSES", "Backoff", "Live", "OnClose", "OnCloseName", "Retry", "Timeouts",
]  # fmt: skip

ABANDONED_SECONDS = 30 * 86400.0  # a file that nobody touched for so long; streams live for a day by default
DEFAULT_PREFIX = "durable-streams:"  # of keys in a storage that other things may share
ERROR_BODY_BYTES = 1 << 20  # of an error answer; the proxy passes on at most 64 KiB, another server may send more
ERROR_BODY_SECONDS = 10.0  # for all of it; the proxy itself gives an upstream's error body 5 s
EVENT_BYTES = 32 << 20  # one server-sent event; a stream with larger ones is read by long-poll, which holds none
LEAST_SECONDS = 0.01  # a socket's time-out, when hardly any is left: nought would mean "do not wait" to some
LOST_ATTEMPTS = 256  # requests whose answer was lost, remembered for an SDK's retry; few are ever in flight at once
MAX_CONNECTIONS = 1000  # each answer that is being read holds one; what openai and anthropic allow themselves
MAX_IDLE_CONNECTIONS = 100  # the same
MEMORY_ENTRIES = 10_000  # credentials in `MemoryStorage`, about 1 KiB each; the oldest go first
SILENCE_SECONDS = 90.0  # a live read with no byte, not even a keep-alive, is dead: servers speak up every 30 to 60 s
TAIL_BYTES = 32  # of what was delivered, kept to see `data: [DONE]` at the end

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
    """How new bytes are waited for; the values are those of the `live` parameter."""

    SSE = "sse"
    LONG_POLL = "long-poll"


class OnClose(Enum):
    """What closing an unfinished response means to the upstream call."""

    AUTO = "auto"  # abort, unless a request id lets somebody resume it
    ABORT = "abort"
    DETACH = "detach"


OnCloseName = Literal["auto", "abort", "detach"]


@dataclass(frozen=True, slots=True)
class Retry:
    """How hard the client tries. Waits double from `first_delay` up to `max_delay`, each with full jitter (seconds).

    `reads`: failures in a row, without one new byte, before a read gives up; the default rides out about half a
    minute. `creates`: attempts to get a request answered at all; few, because SDKs retry on top of it.
    """

    reads: int = 10
    creates: int = 3
    first_delay: float = 0.2
    max_delay: float = 8.0
    live: Live = Live.SSE


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. `answer`: from the request to the response's head; longer than the proxy's own wait for an upstream.

    `data`: the longest time without a new byte of the answer, None for ever: keep-alives do not count.
    """

    connect: float | None = 10.0
    write: float | None = 30.0
    pool: float | None = 10.0
    answer: float | None = 120.0
    data: float | None = None

    def for_reading(self, waited: float) -> "Timeouts":
        """The same for a read, after `waited` seconds without a byte: its socket may be silent for what is left of
        `data`, but never for longer than a live server is."""
        left = SILENCE_SECONDS if self.data is None else max(self.data - waited, LEAST_SECONDS)
        return replace(self, answer=min(left, SILENCE_SECONDS))

    def for_abort(self) -> "Timeouts":
        """The same for an abort, which is answered at once or not at all."""
        return replace(self, answer=self.connect)


class Backoff:
    """Counts failures in a row and says how long to wait after each."""

    def __init__(self, retry: Retry, attempts: int) -> None:
        self._retry = retry
        self._attempts = attempts
        self._failures = 0

    def progressed(self) -> None:
        """Something worked: count from nought again."""
        self._failures = 0

    def failed(self, retry_after: float | None = None) -> float | None:
        """Seconds to wait before the next attempt; None when there is none left."""
        self._failures += 1
        if self._failures >= self._attempts:
            return None
        ceiling = min(self._retry.max_delay, self._retry.first_delay * 2.0 ** min(self._failures - 1, 30))
        delay = random.uniform(0, ceiling)  # noqa: S311  # jitter, not a secret
        return max(delay, min(retry_after, self._retry.max_delay)) if retry_after is not None else delay

    def pause(self) -> float:
        """Seconds before asking again when nothing failed and nothing came: so that no server makes us spin."""
        return random.uniform(0.5, 1.0) * self._retry.first_delay  # noqa: S311  # jitter, not a secret
