"""What runs here: every transfer from its first PUT to its recorded outcome. Owns their tasks, deadlines and number."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import anyio

from proxy.base.errors import Code, Refusal
from proxy.base.tasks import Tasks
from proxy.http.body import Body, Cut
from proxy.relay.instance import Instance
from proxy.relay.orphans import end_orphan
from proxy.relay.pump import Pace, Stopped, Waiting, pump
from proxy.relay.record import Record, Records
from proxy.streams.answers import AppendResult, StorageError
from proxy.streams.client import OCTETS, Storage, ttl
from proxy.streams.names import Outcome
from proxy.streams.producer import Producer
from proxy.streams.retry import RetryPolicy

__all__ = ["Transfer", "TransferSettings", "Transfers"]

logger = logging.getLogger(__name__)

_STREAM, _RECORD = "stream", "record"
_YOUNG_SECONDS = 1.0  # a stream of an idempotency key is surely still its maker's


@dataclass(frozen=True, slots=True)
class TransferSettings:
    """Bounds of transfers: numbers, and times in seconds."""

    max_transfers: int  # at once; further ones are refused
    stream_ttl_seconds: int  # lifetime of a stream, from its last read or write
    inactivity_timeout_seconds: float  # without a byte from upstream; then the transfer ends as timeout
    max_transfer_seconds: float  # duration of a transfer; a longer one ends as timeout
    close_budget_seconds: float  # in which recording an outcome and closing is retried at the pace of an append
    close_retry_seconds: float  # longest pause between retries of closing, once that budget is spent
    sweep_seconds: float  # between two checks of these times
    pace: Pace  # of the appends to one stream
    retry: RetryPolicy  # of requests to storage


class Transfer:
    """One running copy. `established` is set once stream and record exist, or `failure` says why they do not."""

    def __init__(self, stream_id: str, body: Body, record: Record) -> None:
        self.stream_id = stream_id
        self.body = body
        self.record = record
        self.waiting = Waiting()
        self.started = asyncio.get_running_loop().time()
        self.established = asyncio.Event()
        self.failure: StorageError | None = None
        self.is_unwanted = False  # its stream shall not remain
        self.made = {_STREAM, _RECORD}  # what is removed when it fails: never what was there before
        self.ended = asyncio.Event()
        self.is_left_open = False  # storage has not taken its end so far: it keeps no place
        self.dismissed = asyncio.Event()  # its end is not worth more than one try

    def abort(self, cut: Cut = Cut.ABORTED) -> None:
        """End the body; what arrived is still stored, then the stream is closed. The first cut wins."""
        self.body.abort(cut)

    def discard(self) -> None:
        """End the body of a stream that is gone, or about to be: what arrived is dropped."""
        self.body.close()
        self.dismissed.set()


class Transfers:
    """The transfers of this process, by stream id. Each runs in a task that belongs here."""

    def __init__(
        self,
        storage: Storage,
        records: Records,
        instance: Instance,
        has_room: Callable[[], bool],
        settings: TransferSettings,
    ) -> None:
        """`has_room`: whether storage would take another stream now, as far as can be told without asking it."""
        self._storage = storage
        self._records = records
        self._instance = instance
        self._settings = settings
        self._has_room = has_room
        self._lifetime = ttl(settings.stream_ttl_seconds)
        self._running: dict[str, Transfer] = {}
        self._left_open = 0  # of those running
        self._expected = 0
        self._tasks = Tasks("transfer")
        self._sweeper = Tasks("transfers")
        self.is_draining = False
        self._is_closed = False
        self._changed = asyncio.Event()  # a transfer ended, or a place was given back

    def __len__(self) -> int:
        return len(self._running) - self._left_open

    def open(self) -> None:
        """Start looking after deadlines. Call it inside the loop."""
        self._sweeper.start("sweep", self._sweep())

    def reserve(self) -> None:
        """Claim a place for a transfer to come; `release` it if none does. Raises Refusal."""
        if self.is_draining:
            raise Refusal(Code.DRAINING, "the proxy is shutting down")
        at_once = self._settings.max_transfers
        # Those left open keep no place, but are no more than there are places.
        if max(len(self), len(self._running) - at_once) + self._expected >= at_once:
            raise Refusal(Code.OVERLOADED, "too many streams are running")
        self._expected += 1

    def check_room(self) -> None:
        """Raise StorageError when a stream could not be created: better before its upstream is called and paid."""
        if not self._has_room():
            raise StorageError("the store is full")

    def release(self) -> None:
        """Give a reserved place back; a started transfer counts by itself."""
        self._expected -= 1
        self._changed.set()

    def get(self, stream_id: str) -> Transfer | None:
        """The transfer into this stream if it runs here."""
        return self._running.get(stream_id)

    async def start(self, stream_id: str, body: Body, record: Record) -> None:
        """Create stream and record and pump `body` into the stream; returns when both exist.

        The caller holds a place until after this. Raises StorageError when they cannot be created, or exist already
        and are somebody else's, and Refusal after `aclose`; then, and when cancelled, nothing of ours remains.
        """
        if self._is_closed:
            raise Refusal(Code.DRAINING, "the proxy is shutting down")
        owner = await self._instance.owner()
        await self.end(stream_id, discard=True, wait=self._settings.retry.budget)  # of a stream that has expired
        if stream_id in self._running:
            raise StorageError("a former transfer into this stream has not ended yet", is_final=True)
        transfer = self._running[stream_id] = Transfer(stream_id, body, replace(record, owner=owner))
        self._tasks.start(stream_id, self._run(transfer))
        self._expected -= 1  # the place that the caller holds stands for both of us
        try:
            await transfer.established.wait()
        except asyncio.CancelledError:
            transfer.is_unwanted = True
            transfer.discard()
            raise
        finally:
            self._expected += 1
        if transfer.failure is not None:
            raise transfer.failure

    async def removed(self, stream_id: str) -> None:
        """Return when nothing is left of a transfer whose `start` was cancelled; at once for any other."""
        transfer = self._running.get(stream_id)
        if transfer is not None and transfer.is_unwanted:
            await transfer.ended.wait()

    def abort(self, stream_id: str, life: str) -> None:
        """Abort the transfer into this stream if it runs here and `life` is what its record calls `transfer`."""
        transfer = self._running.get(stream_id)
        if transfer is not None and transfer.record.transfer == life:
            transfer.abort()

    async def end(self, stream_id: str, *, discard: bool, wait: float) -> bool:
        """Abort or discard the transfer into this stream if it runs here.

        False when it has not ended within `wait` seconds.
        """
        transfer = self._running.get(stream_id)
        if transfer is None:
            return True
        if discard:
            transfer.discard()
        else:
            transfer.abort()
        with anyio.move_on_after(wait):
            await transfer.ended.wait()
        return transfer.ended.is_set()

    # One transfer

    async def _run(self, transfer: Transfer) -> None:
        try:
            if await self._establish(transfer):
                transfer.established.set()
                await self._pump(transfer)
            if transfer.is_unwanted or transfer.failure is not None:
                transfer.body.close()  # first: storage may be slow, and the upstream costs money
                await self._remove(transfer)
        except Exception:
            logger.exception("stream %s: its transfer failed", transfer.stream_id)
            if not transfer.established.is_set():
                await self._remove(transfer)
        finally:
            if not transfer.established.is_set() and transfer.failure is None:
                transfer.failure = StorageError("the transfer ended before its stream was made")
            transfer.body.close()
            self._running.pop(transfer.stream_id, None)
            self._left_open -= transfer.is_left_open
            transfer.established.set()
            transfer.ended.set()
            self._changed.set()

    async def _establish(self, transfer: Transfer) -> bool:
        """Create stream and record side by side; False when one failed or nobody wants them any more."""

        async def create_record() -> None:
            try:
                _made(transfer, _RECORD, await self._records.create(transfer.stream_id, transfer.record))
            except StorageError as error:
                transfer.failure = error

        recording = self._tasks.start(f"{transfer.stream_id} record", create_record())
        try:
            _made(transfer, _STREAM, await self._storage.create(transfer.stream_id, OCTETS, self._lifetime))
        except StorageError as error:
            transfer.failure = error
        finally:
            await recording
        if transfer.failure is not None:
            logger.warning("stream %s could not be created: %s", transfer.stream_id, transfer.failure)
        return transfer.failure is None and not transfer.is_unwanted

    async def _remove(self, transfer: Transfer) -> None:
        """Leave nothing half-done behind; what storage refuses to delete expires."""
        if _STREAM in transfer.made:
            with suppress(StorageError):
                await self._storage.delete(transfer.stream_id)
        if _RECORD in transfer.made:
            with suppress(StorageError):
                await self._records.delete(transfer.stream_id)

    async def _pump(self, transfer: Transfer) -> None:
        settings = self._settings
        producer = self._producer(transfer)
        try:
            outcome = await pump(transfer.body, producer, settings.pace, transfer.waiting)
        except Stopped as stopped:
            transfer.body.close()
            if stopped.result is not AppendResult.GAP:
                logger.info("stream %s: %s", transfer.stream_id, stopped)
                self._records.forget(transfer.stream_id)  # whoever closed or deleted it knows the outcome
                if stopped.result is AppendResult.CLOSED:
                    await self._closed_by_another(transfer)
                return
            outcome = Outcome.STORAGE_ERROR
        except StorageError as error:
            logger.warning("stream %s: %s", transfer.stream_id, error)
            transfer.body.close()
            outcome = Outcome.STORAGE_ERROR
        except Exception:  # whatever it is, the stream is closed with an outcome
            logger.exception("stream %s: the pump failed", transfer.stream_id)
            transfer.body.close()
            outcome = Outcome.INTERRUPTED
        if outcome is Outcome.COMPLETE:
            self._records.completed(transfer.stream_id, transfer.record)
        else:
            await self._end(transfer, producer, outcome)

    def _producer(self, transfer: Transfer, *, epoch: int = 0) -> Producer:
        async def may_begin() -> bool:
            if asyncio.get_running_loop().time() - transfer.started < _YOUNG_SECONDS:
                return True
            with suppress(StorageError):  # what it cannot tell, the append will find out
                return await self._is_its_stream(transfer)
            return True

        life = transfer.record.transfer
        producer = Producer(self._storage, transfer.stream_id, OCTETS, self._settings.retry, epoch=epoch, life=life)
        producer.may_begin = may_begin if life else None
        return producer

    async def _end(self, transfer: Transfer, producer: Producer, outcome: Outcome) -> None:
        """Record the outcome, then close: a crash between the two can never make a cut stream look whole."""

        async def record_and_close(budget: float) -> None:
            nonlocal producer
            reply = await self._records.end(transfer.stream_id, transfer.record, outcome, budget=budget)
            if reply is AppendResult.FENCED:  # our close would tell who has taken over that the stream is whole
                retry = replace(self._settings.retry, budget=budget)
                await end_orphan(self._storage, self._records, retry, transfer.stream_id)
                return
            if await producer.close(budget=budget) is AppendResult.GAP:  # storage has lost an append: begin a new count
                producer = self._producer(transfer, epoch=1)
                if await producer.close(budget=budget) is AppendResult.GAP:
                    raise StorageError("storage misses an append that was never made", is_final=True)

        await self._insist(transfer, outcome, record_and_close)

    async def _closed_by_another(self, transfer: Transfer) -> None:
        """A stream that was closed before its end is never to look complete, whoever closed it."""

        async def record_it(budget: float) -> None:
            self._records.forget(transfer.stream_id)
            record = await self._records.get(transfer.stream_id)
            if record is not None and record.outcome is None:
                await self._records.end(transfer.stream_id, record, Outcome.INTERRUPTED, budget=budget)

        await self._insist(transfer, Outcome.INTERRUPTED, record_it)

    async def _insist(self, transfer: Transfer, outcome: Outcome, work: Callable[[float], Awaitable[None]]) -> None:
        """Do `work`, which is given its budget, however long storage does not let it be done; unless dismissed."""
        budget, pause = self._settings.close_budget_seconds, self._settings.retry.longest_delay
        while True:
            try:
                if not await self._is_its_stream(transfer):
                    return
                await work(budget)
                break
            except StorageError as error:
                if not transfer.is_left_open:
                    logger.error(
                        "stream %s stays open, %s is not recorded: %s", transfer.stream_id, outcome.value, error
                    )
                    transfer.is_left_open = True
                    self._left_open += 1
                    self._changed.set()
            with anyio.move_on_after(pause):
                await transfer.dismissed.wait()
                return
            budget, pause = 0.0, min(2 * pause, self._settings.close_retry_seconds)
        if transfer.is_left_open:
            logger.warning("stream %s is closed after all: %s", transfer.stream_id, outcome.value)

    async def _is_its_stream(self, transfer: Transfer) -> bool:
        """Whether the stream is still the one that `transfer` made. Raises StorageError.

        It may have expired or been deleted, and its key been used again on another instance.
        """
        if not transfer.record.transfer:
            return True
        self._records.forget(transfer.stream_id)
        record = await self._records.get(transfer.stream_id)
        return record is None or record.transfer == transfer.record.transfer

    # All of them

    async def _sweep(self) -> None:
        """Abort what has waited or run too long."""
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(self._settings.sweep_seconds)
            now = clock()
            quiet_since, oldest = (
                now - self._settings.inactivity_timeout_seconds,
                now - self._settings.max_transfer_seconds,
            )
            for transfer in self._running.values():
                waiting = transfer.waiting.since
                if (waiting is not None and waiting <= quiet_since) or transfer.started <= oldest:
                    transfer.abort(Cut.IDLE)

    async def drain(self, seconds: float) -> None:
        """Take no new transfers; those that run, and those whose upstream is being asked, go on for `seconds`."""
        self.is_draining = True
        with anyio.move_on_after(seconds):
            while len(self) or self._expected:
                self._changed.clear()
                await self._changed.wait()

    async def aclose(self, seconds: float) -> None:
        """End every transfer as interrupted, flushed and closed; what takes longer than `seconds` is cancelled."""
        self.is_draining = self._is_closed = True
        for transfer in list(self._running.values()):
            transfer.abort(Cut.SHUTDOWN)
            if transfer.is_left_open:
                transfer.dismissed.set()
        with anyio.move_on_after(seconds):
            await self._tasks.wait()
        await self._tasks.aclose()
        await self._sweeper.aclose()


def _made(transfer: Transfer, what: str, reply: AppendResult) -> None:
    """Storage answered a create: what was there already is not ours to fill, nor to remove."""
    if reply is AppendResult.EXISTS:
        transfer.made.discard(what)
        transfer.failure = StorageError(f"the {what} exists already", is_final=True)
