"""One transfer, from its first PUT to its recorded outcome.

Owns the states of a transfer, which only go forward:

- MAKING: stream and record are being created, side by side. `established` is set at the end, with `failure` if they
  could not be, and then nothing of them is left behind.
- RUNNING: the pump is at work. The stream is open.
- ENDING: the upstream's body has ended, other than whole; outcome and close are being written (`relay.takeover`).
- LEFT_OPEN: storage has not taken the end within its budget. It is tried again for as long as the process runs, but the
  transfer no longer counts as one of those that may run at once.
- ENDED: `ended` is set. The stream is closed with an outcome, or gone, or another instance has ended it; or the process
  stops, and somebody else will find it open.

The stream's name is a random id that nobody else knows until `established`, and that no other transfer ever uses. So
whatever this transfer writes or deletes, however late storage gets it, is its own.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import partial

import anyio

from proxy.base.tasks import Tasks
from proxy.http.body import Body, Cut
from proxy.relay.pump import Pace, Stopped, Waiting, pump
from proxy.relay.record import Record, Records
from proxy.relay.takeover import Endings
from proxy.streams.answers import AppendResult, StorageError
from proxy.streams.client import OCTETS, Storage
from proxy.streams.names import Outcome
from proxy.streams.producer import Producer
from proxy.streams.retry import RetryPolicy, retried

__all__ = ["Desk", "State", "Transfer", "TransferSettings"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TransferSettings:
    """Bounds of one transfer; times in seconds."""

    stream_ttl_seconds: int  # lifetime of a stream, from its last read or write
    create_retry: RetryPolicy  # of creating a stream and its record: their caller is waiting
    retry: RetryPolicy  # of one append
    close_budget_seconds: float  # in which recording an outcome and closing is retried at the pace of an append
    close_retry_seconds: float  # longest pause between retries of closing, once that budget is spent
    pace: Pace  # of the appends to one stream


@dataclass(frozen=True, slots=True)
class Desk:
    """What every transfer of a process works with. `tasks`: where what it starts belongs."""

    storage: Storage
    records: Records
    endings: Endings
    settings: TransferSettings
    tasks: Tasks

    async def remove(self, stream_id: str) -> None:
        """Delete a stream and its record; what storage refuses to delete for as long as an append expires."""
        for delete in (self.storage.delete, self.records.delete):
            with suppress(StorageError):
                try:
                    await delete(stream_id)
                except StorageError as error:
                    await retried(partial(delete, stream_id), error, self.settings.retry)


class State(Enum):
    """How far a transfer has come."""

    MAKING = auto()
    RUNNING = auto()
    ENDING = auto()
    LEFT_OPEN = auto()
    ENDED = auto()


class Transfer:
    """One running copy. `run` is its whole life, in a task of its own."""

    def __init__(
        self, stream_id: str, body: Body, record: Record, desk: Desk, entered: Callable[[State], None]
    ) -> None:
        """`entered` is called with each state after MAKING when the transfer reaches it."""
        self.stream_id = stream_id
        self.body = body
        self.record = record
        self.waiting = Waiting()
        self.started = asyncio.get_running_loop().time()
        self.state = State.MAKING
        self.established = asyncio.Event()
        self.failure: StorageError | None = None
        self.ended = asyncio.Event()
        self._desk = desk
        self._entered = entered
        self._is_unwanted = False  # its stream shall not remain
        self._dismissed = asyncio.Event()  # its end is not worth more than one try

    def abort(self, cut: Cut = Cut.ABORTED) -> None:
        """End the body; what arrived is still stored, then the stream is closed. The first cut wins."""
        self.body.abort(cut)

    def discard(self) -> None:
        """End the body of a stream that is gone, or about to be: what arrived is dropped."""
        self.body.close()
        self._dismissed.set()

    def dismiss(self) -> None:
        """Do not insist on an end that storage does not take."""
        self._dismissed.set()

    def withdraw(self) -> None:
        """Undo everything: nobody has been told of the stream. It is removed in the course of `run`."""
        self._is_unwanted = True
        self.discard()

    async def run(self) -> None:
        """Make the stream, pump, end it. Never raises but for cancellation, which leaves the stream as it is."""
        try:
            if await self._make():
                self._enter(State.RUNNING)
                self.established.set()
                await self._pump()
        except Exception:
            logger.exception("stream %s: its transfer failed (the stream may stay open)", self.stream_id)
        finally:
            if self.state is State.MAKING and self.failure is None:
                self.failure = StorageError("the transfer ended before its stream was made")
            self.body.close()  # first: storage may be slow, and the upstream costs money
            self.established.set()
        if self._is_unwanted or self.failure is not None:
            await self._desk.remove(self.stream_id)

    def finish(self) -> None:
        """The task has ended, in whatever way."""
        self.body.close()
        self._enter(State.ENDED)
        self.established.set()
        self.ended.set()

    def _enter(self, state: State) -> None:
        self.state = state
        self._entered(state)

    async def _make(self) -> bool:
        """Create stream and record side by side; False when one failed or nobody wants them any more."""
        desk, settings = self._desk, self._desk.settings

        async def tried(work: Awaitable[object]) -> None:
            try:
                await work
            except StorageError as error:
                self.failure = error

        record = tried(desk.records.create(self.stream_id, self.record, settings.create_retry))
        recording = desk.tasks.start(f"{self.stream_id} record", record)
        try:
            await tried(
                desk.storage.create(self.stream_id, OCTETS, settings.stream_ttl_seconds, retry=settings.create_retry)
            )
        finally:
            await recording
        if self.failure is not None:
            logger.warning("stream %s could not be made: %s (the caller gets an error)", self.stream_id, self.failure)
        return self.failure is None and not self._is_unwanted

    async def _pump(self) -> None:
        desk, settings = self._desk, self._desk.settings
        producer = Producer(desk.storage, self.stream_id, OCTETS, settings.retry)
        try:
            outcome = await pump(self.body, producer, settings.pace, self.waiting)
        except Stopped as stopped:
            self.body.close()
            if stopped.result is not AppendResult.GAP:
                await self._stopped(stopped.result)
                return
            outcome = Outcome.STORAGE_ERROR
        except StorageError as error:
            logger.warning("stream %s: an append failed for good: %s (it ends here)", self.stream_id, error)
            self.body.close()
            outcome = Outcome.STORAGE_ERROR
        except Exception:  # whatever it is, the stream is closed with an outcome
            logger.exception("stream %s: the pump failed (the stream ends as interrupted)", self.stream_id)
            self.body.close()
            outcome = Outcome.INTERRUPTED
        if self._is_unwanted:
            return
        record = replace(self.record, outcome=outcome)
        if outcome is Outcome.COMPLETE:
            desk.records.settle(self.stream_id, record)
            return
        self._enter(State.ENDING)
        end = desk.endings.end_own
        await self._insist(outcome, lambda budget: end(self.stream_id, record, producer, budget=budget))

    async def _stopped(self, result: AppendResult) -> None:
        """Storage takes nothing more from this producer: another has ended the stream, and knows how."""
        logger.info("stream %s: %s (its transfer stops)", self.stream_id, result.value)
        self._desk.records.forget(self.stream_id)
        if result is not AppendResult.CLOSED:
            return
        self._enter(State.ENDING)
        endings = self._desk.endings
        await self._insist(
            Outcome.INTERRUPTED, lambda budget: endings.record_foreign_close(self.stream_id, budget=budget)
        )

    async def _insist(self, outcome: Outcome, work: Callable[[float], Awaitable[None]]) -> None:
        """Do `work`, which is given its budget, however long storage does not let it be done; unless dismissed."""
        settings = self._desk.settings
        budget, pause = settings.close_budget_seconds, settings.retry.longest_delay
        while True:
            try:
                await work(budget)
                break
            except StorageError as error:
                if self.state is not State.LEFT_OPEN:
                    logger.error(
                        "stream %s stays open: outcome %s could not be recorded: %s (tried again until it is)",
                        self.stream_id, outcome.value, error,
                    )  # fmt: skip
                    self._enter(State.LEFT_OPEN)
            with anyio.move_on_after(pause):
                await self._dismissed.wait()
                return
            budget, pause = 0.0, min(2 * pause, settings.close_retry_seconds)
        if self.state is State.LEFT_OPEN:
            logger.warning("stream %s is closed after all: outcome %s", self.stream_id, outcome.value)
