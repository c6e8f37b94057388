"""All transfers of this process. Owns their places, tasks and deadlines, and the drain."""

import asyncio
import logging
from contextlib import suppress
from dataclasses import dataclass

import anyio

from proxy.base.errors import Code, Refusal
from proxy.base.tasks import Tasks
from proxy.http.body import READING_TURNS, Body, Cut
from proxy.relay.record import Record
from proxy.relay.transfer import Desk, State, Transfer
from proxy.streams.answers import StorageError

__all__ = ["TransferLimits", "Transfers"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TransferLimits:
    """Bounds of all transfers of a process; times in seconds."""

    max_transfers: int  # most at once; more are refused. As many again may be left open (`State.LEFT_OPEN`)
    inactivity_timeout_seconds: float  # longest silence of an upstream; then the transfer ends as timeout
    max_transfer_seconds: float  # longest duration of a transfer; a longer one ends as timeout
    sweep_seconds: float  # pause between two checks of these times
    recovery_at_once: int  # largest number of streams looked at, at once, when others may have ended them


class Transfers:
    """The transfers of this process, by stream id. Owns the task of each."""

    def __init__(self, desk: Desk, limits: TransferLimits) -> None:
        self._desk = desk
        self._limits = limits
        self._running: dict[str, Transfer] = {}
        self._left_open = 0  # how many of the running transfers are LEFT_OPEN
        self._expected = 0
        self._sweeper = Tasks("transfers")
        self.is_draining = False
        self._is_closed = False
        self._changed = asyncio.Event()  # set when a transfer changes its state, or a place is given back

    def __len__(self) -> int:
        """How many transfers have a place."""
        return len(self._running) - self._left_open

    def open(self) -> None:
        """Start checking deadlines. Call it inside the loop."""
        self._sweeper.start("sweep", self._sweep())

    def reserve(self) -> None:
        """Reserve a place for a transfer. The caller must `release` it. Raises Refusal when there is none."""
        if self.is_draining:
            raise Refusal(Code.DRAINING, "the proxy is shutting down")
        at_once = self._limits.max_transfers
        # A transfer that is left open has no place, but there may be only as many of them as there are places.
        if max(len(self), len(self._running) - at_once) + self._expected >= at_once:
            raise Refusal(Code.OVERLOADED, "too many streams are running")
        self._expected += 1

    def release(self) -> None:
        """Give a reserved place back. A transfer that was started has a place of its own."""
        self._expected -= 1
        self._changed.set()

    def get(self, stream_id: str) -> Transfer | None:
        """The transfer into this stream, if it runs here."""
        return self._running.get(stream_id)

    async def start(self, stream_id: str, body: Body, record: Record) -> None:
        """Create stream and record, and pump `body` into the stream. Returns when both exist.

        `stream_id` was never used before, and `record` names its owner. The caller holds a reserved place. Raises
        StorageError when they cannot be created, and Refusal after `aclose`. Then, and when cancelled, both are
        removed, in the background.
        """
        if self._is_closed:
            raise Refusal(Code.DRAINING, "the proxy is shutting down")
        transfer = Transfer(stream_id, body, record, self._desk, self._entered)
        self._running[stream_id] = transfer
        self._desk.tasks.start(stream_id, self._run(transfer))
        self._expected -= 1  # the caller's reserved place becomes the transfer's
        try:
            await transfer.established.wait()
        except asyncio.CancelledError:
            transfer.withdraw()
            raise
        finally:
            self._expected += 1
        if transfer.failure is not None:
            raise transfer.failure

    async def _run(self, transfer: Transfer) -> None:
        try:
            await transfer.run()
        finally:
            self._left_open -= transfer.state is State.LEFT_OPEN
            self._running.pop(transfer.stream_id, None)
            transfer.finish()

    def _entered(self, state: State) -> None:
        self._left_open += state is State.LEFT_OPEN
        self._changed.set()

    def withdraw(self, stream_id: str) -> None:
        """Remove a stream that no caller knows, and its record, in the background. It may have ended."""
        transfer = self._running.get(stream_id)
        if transfer is not None:
            transfer.withdraw()
        else:
            self._desk.tasks.start(f"{stream_id} removal", self._desk.remove(stream_id))

    def abort(self, stream_id: str, cut: Cut = Cut.ABORTED) -> None:
        """Abort the transfer into this stream, if it runs here; `cut` says why."""
        transfer = self._running.get(stream_id)
        if transfer is not None:
            transfer.abort(cut)

    def doubt(self) -> None:
        """Others may have ended streams that are written here: look in the background, and stop those transfers.

        Otherwise a transfer would find out only with its next append, and an upstream that is silent would run on.
        """
        doubted = [transfer for transfer in self._running.values() if transfer.state is State.RUNNING]
        self._sweeper.start("doubt", self._verify(doubted))

    async def _verify(self, doubted: list[Transfer]) -> None:
        limit = anyio.CapacityLimiter(self._limits.recovery_at_once)

        async def verify(transfer: Transfer) -> None:
            async with limit:
                with suppress(StorageError):  # its next append will tell
                    if await self._desk.is_over(transfer.stream_id):
                        logger.warning("stream %s was ended elsewhere (its upstream is cut)", transfer.stream_id)
                        transfer.abort(Cut.SHUTDOWN)

        async with anyio.create_task_group() as group:
            for transfer in doubted:
                group.start_soon(verify, transfer)

    async def end(self, stream_id: str, *, discard: bool, wait: float) -> bool:
        """Abort or discard the transfer into this stream, if it runs here.

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

    async def _sweep(self) -> None:
        """Abort transfers that have waited or run too long.

        In a process that was stopped for a while, a deadline passes while bytes wait in a socket. So the loop first
        gets the turns that it needs to read them, and the pump one to take them.
        """
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(self._limits.sweep_seconds)
            now = clock()
            if self._overdue(now):
                for _ in range(READING_TURNS + 1):
                    await asyncio.sleep(0)
                for transfer in self._overdue(now):
                    transfer.abort(Cut.IDLE)

    def _overdue(self, now: float) -> list[Transfer]:
        quiet_since, oldest = now - self._limits.inactivity_timeout_seconds, now - self._limits.max_transfer_seconds
        return [
            transfer
            for transfer in self._running.values()
            if transfer.started <= oldest or ((since := transfer.waiting.since) is not None and since <= quiet_since)
        ]

    async def drain(self, seconds: float) -> None:
        """Refuse new transfers. Those that run, or whose upstream is being asked, get `seconds` to end."""
        self.is_draining = True
        with anyio.move_on_after(seconds):
            while len(self) or self._expected:
                self._changed.clear()
                await self._changed.wait()

    async def aclose(self, seconds: float) -> None:
        """End every transfer as interrupted, flushed and closed. Cancel those that take longer than `seconds`."""
        self.is_draining = self._is_closed = True
        for transfer in list(self._running.values()):
            transfer.abort(Cut.SHUTDOWN)
            if transfer.state is State.LEFT_OPEN:
                transfer.dismiss()
        with anyio.move_on_after(seconds):
            await self._desk.tasks.wait()
        await self._desk.tasks.aclose()
        await self._sweeper.aclose()
