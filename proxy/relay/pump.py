"""The pump: appends an upstream's body to one stream, by reference, until either ends.

It has no queue of its own. While one append is under way, the body collects what arrives; the next `take` returns all
of it as one batch. When storage is slow, the body reaches its mark and its connection is no longer read (`http.pipe`),
so memory stays bounded. The only timer is `append_interval_seconds`, if it is set: the least time between two appends.
"""

import asyncio
from dataclasses import dataclass

from proxy.http.body import Body, BodyError, Cut
from proxy.streams.answers import AppendResult
from proxy.streams.names import Outcome
from proxy.streams.producer import Producer

__all__ = ["Pace", "Stopped", "Waiting", "pump"]

_OUTCOMES = {
    Cut.RESET: Outcome.UPSTREAM_ERROR,
    Cut.FRAMING: Outcome.UPSTREAM_ERROR,
    Cut.LIMIT: Outcome.TRUNCATED,
    Cut.IDLE: Outcome.TIMEOUT,
    Cut.ABORTED: Outcome.ABORTED,
    Cut.SHUTDOWN: Outcome.INTERRUPTED,
}


@dataclass(frozen=True, slots=True)
class Pace:
    """How often a stream is appended to."""

    append_interval_seconds: float  # least time between two appends
    batch_bytes: int  # size from which an append is followed by the next one at once


class Stopped(Exception):
    """Storage accepts no more from this producer: the stream is gone, closed or fenced, or has lost an append."""

    def __init__(self, result: AppendResult) -> None:
        super().__init__(result.value)
        self.result = result


class Waiting:
    """Since when the pump has been waiting for the upstream, in the loop's time; None while it is not waiting."""

    __slots__ = ("since",)

    def __init__(self) -> None:
        self.since: float | None = None


async def pump(body: Body, producer: Producer, pace: Pace, waiting: Waiting) -> Outcome:
    """Append everything that `body` yields, in order; a body that ends whole closes the stream with its last append.

    Afterwards the body is closed. COMPLETE means that the stream is closed. Any other outcome leaves the stream open,
    and every byte before the cut is stored. Raises Stopped, and StorageError when storage refused for longer
    than the retry budget.
    """
    clock = asyncio.get_running_loop().time
    not_before = 0.0
    try:
        waiting.since = clock()
        while parts := await body.take():
            waiting.since = None
            if (rest := not_before - clock()) > 0:
                await asyncio.sleep(rest)  # what arrives meanwhile makes the next batch larger
            if sum(map(len, parts)) < pace.batch_bytes:
                not_before = clock() + pace.append_interval_seconds
            _accepted(await producer.append(parts, close=body.ended))
            if producer.is_closed:
                return Outcome.COMPLETE
            del parts  # otherwise it stays in memory beside the next batch
            waiting.since = clock()
    except BodyError as error:
        return _OUTCOMES[error.cut]
    finally:
        waiting.since = None
        body.close()  # returns the memory of what was taken, and stops the upstream
    _accepted(await producer.close())
    return Outcome.COMPLETE


def _accepted(result: AppendResult) -> None:
    if result is not AppendResult.ACCEPTED:
        raise Stopped(result)
