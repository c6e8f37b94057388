"""The idempotent producer: appends in order, each stored exactly once however often it must be sent.

Owns sequence numbers (Durable Streams, idempotent producers). One append is in flight at a time; its buffers are kept
until storage has acknowledged them.

Why an append is stored once. Storage keeps, for each producer id, the last epoch and sequence number that it accepted,
and commits them together with the data. An attempt whose answer was lost is sent again with the same bytes and the same
number: either storage has the number already and answers "duplicate", or it has not and stores the bytes now. The
number moves on only after one of these two answers. So a number never stands for two different appends, except in one
case, which `close` treats: an append that failed for good may have used up its number, and the close that follows
under the same number is then answered "duplicate" although nothing was closed.
"""

from proxy.streams.answers import AppendResult, StorageError
from proxy.streams.client import Storage
from proxy.streams.names import PRODUCER_EPOCH, PRODUCER_ID, PRODUCER_SEQ, STREAM_CLOSED
from proxy.streams.retry import RetryPolicy, retried
from proxy.wire.events import Buffer
from proxy.wire.headers import Headers

__all__ = ["Producer"]


class Producer:
    """Appends to one stream under one producer id. Not for concurrent use.

    `append` and `close` return ACCEPTED, or what stops this producer for good: CLOSED, FENCED, GAP, GONE. They raise
    StorageError once the retry budget is spent; the sequence number is then still the same, so that a later call
    cannot leave a gap.
    """

    def __init__(
        self, storage: Storage, name: str, content_type: bytes, retry: RetryPolicy, *, epoch: int = 0, alias: str = ""
    ) -> None:
        """A producer for the stream `name`, whose producer id is that name, or `alias` if given."""
        self._storage = storage
        self._retry = retry
        self._target = storage.target(name)
        self._headers: Headers = storage.headers(
            (b"content-type", content_type),
            (PRODUCER_ID, (alias or name).encode("ascii")),
            (PRODUCER_EPOCH, b"%d" % epoch),
        )
        self._seq = 0
        self._end: bytes | None = None  # of the stream, as storage named it last
        self._is_uncertain = False  # what was last sent under the present number may or may not be stored
        self.is_closed = False
        self.may_have_closed = False  # an append that closes failed for good: it may be stored, now or later
        self.has_gap = False  # storage misses an append that it had acknowledged: nothing more can be appended

    async def append(
        self, parts: tuple[Buffer, ...], *, close: bool = False, budget: float | None = None
    ) -> AppendResult:
        """Store `parts` (at least one byte, unless it closes), and close the stream with them if asked.

        `budget` replaces the policy's, in seconds. A cancelled call may or may not have stored them.
        """
        headers = self._headers.plus((PRODUCER_SEQ, b"%d" % self._seq))
        if close:
            headers = headers.plus((STREAM_CLOSED, b"true"))
        try:
            result, end = await self._storage.append_at(self._target, headers, parts)
        except StorageError as error:
            self._is_uncertain = True
            self.may_have_closed = close
            result, end = await retried(
                lambda: self._storage.append_at(self._target, headers, parts), error, self._retry, budget=budget
            )
        self._is_uncertain = self.may_have_closed = False
        if result is AppendResult.ACCEPTED or result is AppendResult.DUPLICATE:
            self._seq += 1
            self.is_closed = close
            if end is not None and not self._has_moved(end, has_data=bool(parts)):
                self.has_gap = True
                return AppendResult.GAP
            return AppendResult.ACCEPTED
        self.has_gap = result is AppendResult.GAP
        return result

    def _has_moved(self, end: bytes, *, has_data: bool) -> bool:
        """Whether the stream's end is where it can be after an append that storage calls stored.

        Offsets grow, and compare as bytes (protocol section on offsets). An end that did not move, or moved back, says
        that storage has lost what it had acknowledged. An append without data may find an end that has moved: that of
        an earlier attempt whose answer was lost.
        """
        before, self._end = self._end, end
        return before is None or (end > before if has_data else end >= before)

    async def close(self, *, budget: float | None = None) -> AppendResult:
        """Close the stream without more data; also after an append that failed, whatever became of it."""
        was_uncertain = self._is_uncertain
        result = await self.append((), close=True, budget=budget)
        if was_uncertain and result is AppendResult.ACCEPTED:
            # The failed append may have used up the number: then this close was answered as its duplicate, and only
            # the next number closes. If this close was the first under its number, the next one finds CLOSED.
            result = await self.append((), close=True, budget=budget)
            return AppendResult.ACCEPTED if result is AppendResult.CLOSED else result
        return result
