"""How long a request to storage is tried again, and with which pauses. Owns the back-off; sends nothing itself."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from proxy.streams.answers import StorageError

__all__ = ["RetryPolicy", "retried"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The pauses between attempts at one request, and when to give up.

    budget: seconds from the first failure after which no new attempt is made; 0 means a single attempt.
    first_delay: bound of the pause before the second attempt, in seconds; the bound doubles with each failure.
    longest_delay: the largest that bound becomes, in seconds.
    """

    budget: float
    first_delay: float
    longest_delay: float

    def delay(self, failures: int, retry_after: float | None) -> float:
        """The pause after `failures` earlier retries, in seconds: full jitter, never less than storage asked for."""
        bound = min(self.longest_delay, self.first_delay * 2.0 ** min(failures, 32))
        jittered = random.uniform(0, bound)  # noqa: S311  # spreads load, guards nothing
        return max(jittered, retry_after or 0.0)


async def retried(
    send: Callable[[], Awaitable[T]], error: StorageError, policy: RetryPolicy, *, budget: float | None = None
) -> T:
    """Repeat `send`, whose first attempt failed with `error`, until it returns or the budget is spent.

    `budget` replaces the policy's, in seconds. Raises the last StorageError, at once for a final one. A cancelled call
    leaves the fate of the attempt in flight unknown.
    """
    clock = asyncio.get_running_loop().time
    give_up = clock() + (policy.budget if budget is None else budget)
    failures = 0
    while True:
        delay = policy.delay(failures, error.retry_after)
        if error.is_final or clock() + delay > give_up:
            raise error
        await asyncio.sleep(delay)
        failures += 1
        try:
            return await send()
        except StorageError as again:
            error = again
