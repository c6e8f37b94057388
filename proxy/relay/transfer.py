"""One transfer, from its first PUT to its recorded outcome.

Owns the states of a transfer, which only go forward:

- MAKING: stream and record are being created, at the same time. Then `established` is set. If one of them could not be
  created, `failure` is set, too, and both are removed.
- RUNNING: the pump is at work. The stream is open.
- ENDING: the upstream's body was cut. The outcome is being recorded, then the stream is closed (`relay.takeover`).
- LEFT_OPEN: storage has not accepted outcome and close within their budget. They are retried for as long as the process
  runs, but the transfer no longer counts against `max_transfers`.
- ENDED: `ended` is set. The stream is closed with an outcome, or gone, or another instance has ended it. Or this
  process stops, and another instance or the next start will find the stream open.

The stream's name is a random id. No caller knows it until `established`, and no other transfer ever uses it. So a write
or a deletion of this transfer that reaches storage late cannot hit anything else.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import partial

import anyio

from proxy.base.latch import Latch
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
    create_retry: RetryPolicy  # retries of creating a stream and its record, while the caller waits
    retry: RetryPolicy  # retries of one append
    close_budget_seconds: float  # for so long, recording an outcome and closing are retried as fast as an append
    close_retry_seconds: float  # longest pause between retries of closing, once that budget is spent
    pace: Pace  # how often one stream is appended to


@dataclass(frozen=True, slots=True)
class Desk:
    """What all transfers of a process share. `tasks` owns their background work."""

    storage: Storage
    records: Records
    endings: Endings
    settings: TransferSettings
    tasks: Tasks

    async def remove(self, stream_id: str) -> None:
        """Delete a stream and its record. Retried for as long as an append is. What then is left expires."""
        for delete in (self.storage.delete, self.records.delete):
            with suppress(StorageError):
                try:
                    await delete(stream_id)
                except StorageError as error:
                    await retried(partial(delete, stream_id), error, self.settings.retry)

    async def is_over(self, stream_id: str) -> bool:
        """Whether a stream is closed or gone, asked for as long as an append is tried. Raises StorageError."""
        try:
            return await self.endings.is_over(stream_id)
        except StorageError as error:
            return await retried(partial(self.endings.is_over, stream_id), error, self.settings.retry)


class State(Enum):
    """How far a transfer has come."""

    MAKING = auto()
    RUNNING = auto()
    ENDING = auto()
    LEFT_OPEN = auto()
    ENDED = auto()


class Transfer:
    """One running copy of an upstream's body into a stream. `run` is all of it, in a task of its own."""

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
        self.established = Latch()
        self.failure: StorageError | None = None
        self.ended = Latch()
        self._desk = desk
        self._entered = entered
        self._is_unwanted = False  # the stream is to be removed
        self._dismissed = Latch()  # the end is tried once, and not retried

    def abort(self, cut: Cut = Cut.ABORTED) -> None:
        """End the body. What has arrived is still stored, then the stream is closed. The first cut counts."""
        self.body.abort(cut)

    def discard(self) -> None:
        """End the body and drop what has arrived, because the stream is gone or about to be deleted."""
        self.body.close()
        self._dismissed.set()

    def dismiss(self) -> None:
        """Stop retrying an end that storage does not accept."""
        self._dismissed.set()

    def withdraw(self) -> None:
        """Undo everything, because no caller knows the stream. `run` removes it."""
        self._is_unwanted = True
        self.discard()

    async def run(self) -> None:
        """Create the stream, pump, end it. Raises only when cancelled, and then leaves the stream as it is."""
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
            self.body.close()  # before storage, which may be slow: an upstream that goes on costs money
            self.established.set()
        if self._is_unwanted or self.failure is not None:
            await self._desk.remove(self.stream_id)

    def finish(self) -> None:
        """Called when the task has ended, however it ended."""
        self.body.close()
        self._enter(State.ENDED)
        self.established.set()
        self.ended.set()

    def _enter(self, state: State) -> None:
        self.state = state
        self._entered(state)

    async def _make(self) -> bool:
        """Create stream and record at the same time; False when one failed, or `withdraw` was called."""
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
            logger.error("stream %s: %s (it ends as storage_error)", self.stream_id, stopped.result.value)
            outcome = Outcome.STORAGE_ERROR
        except StorageError as error:
            logger.warning("stream %s: an append failed for good: %s (it ends here)", self.stream_id, error)
            self.body.close()
            outcome = Outcome.STORAGE_ERROR
        except Exception:  # after any failure the stream is closed with an outcome
            logger.exception("stream %s: the pump failed (the stream ends as interrupted)", self.stream_id)
            self.body.close()
            outcome = Outcome.INTERRUPTED
        if self._is_unwanted:
            return
        if outcome is Outcome.COMPLETE:
            desk.records.settle(self.stream_id, self.record)  # closed without an outcome is whole
            return
        self._enter(State.ENDING)
        record = replace(self.record, outcome=outcome)
        end = desk.endings.end_own
        await self._insist(outcome, lambda budget: end(self.stream_id, record, producer, budget=budget))

    async def _stopped(self, result: AppendResult) -> None:
        """Storage accepts nothing more from this producer, because something else has ended the stream.

        FENCED: a finder, which has recorded an outcome. GONE: a deletion. CLOSED: a finder, or a client of storage that
        is not a proxy; for the latter an outcome is recorded, and storage refuses it if a finder's is there.
        """
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
        """Do `work`, and retry for as long as storage refuses, unless dismissed. `work` gets its budget in seconds."""
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
