"""How a stream ends: "record, then close", written once, for its owner and for everyone who finds it left open.

A stream S and its record R are two streams in storage, and nothing changes both at once. The owner is the instance
that pumps into S; a finder is any other that finds S open and its owner dead, or must stop an owner that does not
answer. Both write to S and to R as one idempotent producer each, the owner under epoch 0, finders under epoch 1.
Storage refuses epoch 0 once it has accepted something under epoch 1, in each of the two. Every finder sends the same
requests under the same numbers. So storage accepts each request from the first finder, and those of the others are
duplicates without effect.

  owner, whole:       S: last append, which closes S            (R is not written: closed and no outcome is COMPLETE)
  owner, any other:   R: outcome, which closes R     then     S: close
  owner, in doubt:    as a finder, with an outcome of its own
  finder:             R: INTERRUPTED, marked "found", which closes R     then     S: close

R takes one outcome at most, because it is closed with it. What each crash leaves:

- between R and S: S is open, and the next finder closes it. Nobody reads R before S is closed, so nobody has seen the
  outcome. S is never closed before its outcome is in R, so a cut stream cannot look whole.
- an owner that is frozen, or cut off, and continues later: its appends to S are refused (FENCED, or CLOSED), so nothing
  is stored after the finder's close. An owner that wants to record an outcome, and finds R closed, closes S under the
  finders' epoch. Under epoch 0 its close would mean "whole".

One race is left. A finder records INTERRUPTED in R while the owner's last append, under way, closes S: then R says
INTERRUPTED, and S is whole. Who closed S decides, and storage can be asked: the finders' close is sent once more.
It is a duplicate when a finder closed S, and refused (CLOSED) when the owner did. That answer never changes, so that
everyone who asks gives the same outcome: `record`.

An owner is in doubt when storage has not answered its last append, which closes S, for longer than the append's budget:
the append may be stored, or be on its way for long. S may be whole then, and somebody may have heard so. So the owner
is in the same race against itself, and decides it in the same way.

An outcome is final when S is closed, and no caller gets it earlier.
"""

from dataclasses import replace

from proxy.relay.record import Record, Records
from proxy.streams.answers import AppendResult, StorageError
from proxy.streams.client import OCTETS, Storage
from proxy.streams.names import Outcome
from proxy.streams.producer import Producer
from proxy.streams.retry import RetryPolicy

__all__ = ["FINDER", "OWNER", "Endings"]

OWNER, FINDER = 0, 1
"""The producer epochs of the two roles, in a stream and in its record."""

_LOST = Record(content_type=OCTETS, status=200)


class Endings:
    """Ends streams, and tells how they ended."""

    def __init__(self, storage: Storage, records: Records, retry: RetryPolicy) -> None:
        self._storage = storage
        self.records = records
        self._retry = retry

    async def end_own(self, stream_id: str, record: Record, producer: Producer, *, budget: float) -> None:
        """As the owner: record the outcome of `record`, not COMPLETE, then close the stream with its own `producer`.

        `budget`: seconds for all attempts at each of the two. May be repeated. Raises StorageError.
        """
        assert record.outcome is not None  # noqa: S101  # the caller has set it
        if producer.may_have_closed:
            await self._end_in_doubt(stream_id, record.outcome, budget=budget)
            return
        result = await self.records.append(stream_id, record.outcome, epoch=OWNER, is_found=False, budget=budget)
        if result in (AppendResult.FENCED, AppendResult.CLOSED):  # a finder was first
            await self._close_as_finder(stream_id, OCTETS, budget=budget)
            return
        if not producer.has_gap:
            await producer.close(budget=budget)
        if producer.has_gap:  # storage lost an acknowledged append: a later epoch starts a new count
            await self._close_as_finder(stream_id, OCTETS, budget=budget)
        if result is AppendResult.ACCEPTED:
            self.records.settle(stream_id, record)

    async def _end_in_doubt(self, stream_id: str, outcome: Outcome, *, budget: float) -> None:
        """As an owner that does not know whether its last append closes the stream, or will: as a finder would."""
        await self.records.append(stream_id, outcome, epoch=FINDER, is_found=True, budget=budget)
        await self._close_as_finder(stream_id, OCTETS, budget=budget)

    async def take_over(self, stream_id: str, *, budget: float | None = None) -> bool:
        """As a finder: end the stream; False when it was not open. Afterwards storage refuses its owner's appends.

        The stream is ended even when its record is lost. May be repeated, also by several instances at the same time.
        Raises StorageError.
        """
        metadata = await self._storage.head(stream_id)
        if metadata is None or metadata.is_closed:
            return False
        await self.records.append(stream_id, Outcome.INTERRUPTED, epoch=FINDER, is_found=True, budget=budget)
        kind = metadata.content_type or OCTETS
        return await self._close_as_finder(stream_id, kind, budget=budget) is AppendResult.ACCEPTED

    async def is_over(self, stream_id: str) -> bool:
        """Whether the stream is closed, or gone. Raises StorageError."""
        metadata = await self._storage.head(stream_id)
        return metadata is None or metadata.is_closed

    async def record_foreign_close(self, stream_id: str, *, budget: float) -> None:
        """As an owner whose stream was closed by something else: unless that was a finder, record that it is not whole.

        Raises StorageError.
        """
        await self.records.append(stream_id, Outcome.INTERRUPTED, epoch=OWNER, is_found=False, budget=budget)

    async def record(self, stream_id: str, *, is_closed: bool) -> Record | None:
        """The record of a stream that exists; None when the stream is gone by now. Raises StorageError.

        `is_closed`: the stream is closed; then the outcome is final. A stream whose record is lost is INTERRUPTED,
        because nothing says that it is whole.
        """
        record = self.records.final(stream_id)
        if record is None:
            record = await (self.records.read(stream_id) if is_closed else self.records.get(stream_id))
        if record is None:  # lost, or the stream is being deleted: then the stream goes first
            if await self._storage.head(stream_id) is None:
                return None
            record = _LOST if not is_closed else replace(_LOST, outcome=Outcome.INTERRUPTED)
        elif is_closed and (record.outcome is None or record.is_found):
            outcome = await self._final(stream_id, record)
            if outcome is None:
                return None
            record = replace(record, outcome=outcome, is_found=False)
            self.records.settle(stream_id, record)
        return record

    async def _final(self, stream_id: str, record: Record) -> Outcome | None:
        """The outcome of a closed stream whose record does not decide it. The record was read after the close."""
        if record.outcome is None:
            return Outcome.COMPLETE
        closed = await self._close_as_finder(stream_id, OCTETS, budget=0.0)  # a reader waits
        if closed is AppendResult.GONE:
            return None
        return Outcome.COMPLETE if closed is AppendResult.CLOSED else record.outcome

    async def _close_as_finder(
        self, stream_id: str, content_type: bytes, *, budget: float | None = None
    ) -> AppendResult:
        """Close the stream under the finders' epoch: ACCEPTED when a finder has, CLOSED when the owner had, or GONE."""
        producer = Producer(self._storage, stream_id, content_type, self._retry, epoch=FINDER)
        result = await producer.close(budget=budget)
        if result in (AppendResult.FENCED, AppendResult.GAP):
            raise StorageError(f"the first append of an epoch was refused: {result.value}", is_final=True)
        return result
