"""The idempotent producer: appends in order, each stored exactly once however often it must be sent.

Owns sequence numbers, retries and their budget (Durable Streams protocol, idempotent producers). One append is in
flight at a time; its buffers are kept until storage has acknowledged them.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from proxy.streams.client import Reply, Storage, StorageError
from proxy.wire.events import Buffer
from proxy.wire.headers import Headers

__all__ = ["Producer", "RetryPolicy"]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long a failing append is tried again, in seconds: in all, and at least and at most between two attempts."""

    budget: float
    first_delay: float
    longest_delay: float

    def delay(self, failures: int, retry_after: float | None) -> float:
        """Full jitter over an exponential bound, never sooner than storage asked for."""
        bound = min(self.longest_delay, self.first_delay * 2.0 ** min(failures, 32))
        jittered = random.uniform(0, bound)  # noqa: S311  # spreads load, guards nothing
        return max(jittered, retry_after or 0.0)


class Producer:
    """Appends to one stream under one producer id. Not for concurrent use.

    `life` tells streams apart that had the same name one after the other: the producer of one is a stranger to the
    next, who is refused unless it has stored nothing so far; then `may_begin` is asked.

    `append` and `close` return ACCEPTED, or what stops this producer for good: CLOSED, FENCED, GAP, GONE. They raise
    StorageError once the retry budget is spent; the sequence number is then still the same, so that a later call
    cannot leave a gap.
    """

    def __init__(
        self,
        storage: Storage,
        name: str,
        content_type: bytes,
        retry: RetryPolicy,
        *,
        epoch: int = 0,
        life: str = "",
    ) -> None:
        self._storage = storage
        self.may_begin: Callable[[], Awaitable[bool]] | None = None
        self._retry = retry
        self._target = storage.target(name)
        self._headers: Headers = storage.headers(
            (b"content-type", content_type),
            (b"producer-id", f"{name}.{life}".encode("ascii") if life else name.encode("ascii")),
            (b"producer-epoch", b"%d" % epoch),
        )
        self._seq = 0
        self._is_uncertain = False  # what was last sent under the present number may or may not be stored
        self.is_closed = False

    async def append(self, parts: tuple[Buffer, ...], *, close: bool = False, budget: float | None = None) -> Reply:
        """Store `parts` (at least one byte, unless it closes), and close the stream with them if asked.

        `budget` replaces the policy's. A cancelled call may or may not have stored them.
        """
        if not self._seq and self.may_begin is not None and not await self.may_begin():
            return Reply.GONE
        headers = self._headers.plus((b"producer-seq", b"%d" % self._seq))
        if close:
            headers = headers.plus((b"stream-closed", b"true"))
        try:
            reply = await self._storage.append(self._target, headers, parts)
        except StorageError as error:
            self._is_uncertain = True
            reply = await self._insist(headers, parts, error, self._retry.budget if budget is None else budget)
        self._is_uncertain = False
        if reply is Reply.ACCEPTED or reply is Reply.DUPLICATE:
            self._seq += 1
            self.is_closed = close
            return Reply.ACCEPTED
        return reply

    async def close(self, *, budget: float | None = None) -> Reply:
        """Close the stream without more data; also after an append that failed, whatever became of it."""
        was_uncertain = self._is_uncertain
        reply = await self.append((), close=True, budget=budget)
        if was_uncertain and reply is Reply.ACCEPTED:
            # The number may have been used up by the append that failed: then this close was taken for its duplicate.
            reply = await self.append((), close=True, budget=budget)
            return Reply.ACCEPTED if reply is Reply.CLOSED else reply
        return reply

    async def _insist(self, headers: Headers, parts: tuple[Buffer, ...], error: StorageError, budget: float) -> Reply:
        """Send the very same append until storage says what became of it, or the budget is spent."""
        give_up = asyncio.get_running_loop().time() + budget
        failures = 0
        while True:
            delay = self._retry.delay(failures, error.retry_after)
            if error.is_final or asyncio.get_running_loop().time() + delay > give_up:
                raise error
            await asyncio.sleep(delay)
            failures += 1
            try:
                return await self._storage.append(self._target, headers, parts)
            except StorageError as again:
                error = again
