"""Writes on their way to the disk: queued by the event loop, committed by the writer's thread, settled in the loop.

How an append becomes durable, and what is said when:

1. The engine judges it by the entry's `next` state, changes that state, and queues a write. Nothing is visible yet.
2. What is queued in one turn of the loop is handed to the writer together, at the end of that turn. What was handed
   over while the writer was busy is one transaction afterwards (group commit): the busier the disk, the larger the
   transactions, without a timer.
3. COMMIT returns when the log is on disk. Only then, back in the loop, the view moves, results are given and readers
   wake. So an acknowledged append survives a crash, and a reader never sees a byte that could still disappear.

When a commit fails (a full disk, an I/O error) nothing of its transaction is stored, and three things are wrong:

- Its writes get FULL or FAILED. Their producers repeat them with the same sequence numbers.
- Writes that were queued behind it were judged by a state that never came to be: for example "sequence number 6
  follows 5", when 5 is the one that failed. So they fail too. The writer refuses everything that it receives until it
  meets the mark that `_refuse_all` puts into its queue. This happens in the loop, at the moment when it learns of the
  failure: whatever was queued earlier is before the mark.
- The `next` state of their streams is ahead of the database. Each such entry becomes `suspect`, and the engine reads
  the state again before it judges the next append.

A refusal such as DUPLICATE or CLOSED may rest on writes that are still on their way. `decided` waits for them; if they
failed, the engine judges again. So a producer never hears "stored before" about an append that was then lost.
"""

import asyncio
from pathlib import Path

import apsw

from proxy.store.model import Result, Verdict
from proxy.store.recent import RecentPieces
from proxy.store.settings import StoreSettings
from proxy.store.sqlite.stall import Stall
from proxy.store.sqlite.state import Entry
from proxy.store.sqlite.table import StreamTable
from proxy.store.sqlite.writer import Batch, Writer, WriterSettings
from proxy.store.sqlite.writing import Write
from proxy.store.waiting import Waiter

__all__ = ["Commits"]


class Commits:
    """The event loop's side of the writer. It updates `table` and `recent` after each commit."""

    def __init__(self, path: Path, settings: StoreSettings, table: StreamTable, recent: RecentPieces) -> None:
        """Open the database file at `path`; blocks for some milliseconds and raises what `open_for_writing` does."""
        self._settings = settings
        self._table = table
        self._recent = recent
        self._loop = asyncio.get_running_loop()
        self._queue: list[Write] = []
        self._coming = 0  # bytes of all writes on their way
        self._unsettled: dict[Entry, None] = {}  # entries with writes on their way
        self._undecided: dict[asyncio.Future[Result], None] = {}  # of writes on their way
        self._stall = Stall(settings.stall_seconds, self._give_up)
        self._is_closed = False
        self.refusal = Verdict.FAILED  # the verdict on everything that failed with the last failed commit
        limits = WriterSettings(
            settings.checkpoint_bytes, settings.vacuum_bytes, settings.sweep_rows, settings.sweep_bytes
        )
        self._writer = Writer(path, limits, self._settle)
        self.last_id = self._writer.last_id

    @property
    def is_stalled(self) -> bool:
        """Whether the disk hangs: a write would have to wait for nobody knows how long."""
        return self._stall.is_stalled

    def put(self, write: Write) -> "asyncio.Future[Result]":
        """Queue `write`. The future gets the result when the write is on disk or has failed.

        When the disk hangs, the result is FAILED, although the write may still be stored. Cancelling the future does
        not undo the write.
        """
        entry = write.entry
        write.done = self._loop.create_future()
        if self._is_closed:
            write.done.set_result(Result(Verdict.FAILED))
            return write.done
        if entry is not None:
            entry.queued += 1
            self._unsettled[entry] = None
        self._undecided[write.done] = None
        if not self._queue:
            self._loop.call_soon(self._hand_over)
        self._queue.append(write)
        self._coming += write.size
        return write.done

    async def decided(self, entry: Entry) -> bool:
        """Wait until the writes queued for `entry` so far are settled; whether all of them were stored.

        False at once when the disk hangs.
        """
        queued, failures = entry.queued, entry.failures
        waiter = Waiter(entry)
        while entry.settled < queued:
            if self.is_stalled:
                return False
            await waiter.changed(None)
        return entry.failures == failures

    def _give_up(self) -> None:
        """The disk hangs: nobody waits for it any more."""
        for done in self._undecided:
            if not done.done():
                done.set_result(Result(Verdict.FAILED))
        self._undecided.clear()
        for entry in self._unsettled:
            entry.wake()

    def is_full(self, size: int, reserve: int) -> bool:
        """Whether `size` more bytes exceed the database's bound, or leave the disk less than `reserve` free bytes."""
        coming = self._coming + size
        limit = self._settings.max_bytes
        if 0 < limit < self._writer.used + coming:
            self._writer.look()  # there may be room again; while every write is refused, nothing else would measure it
            return True
        if reserve <= 0 or self._writer.free - coming >= reserve:
            return False
        self._writer.measure_disk()  # others may have made room since
        return self._writer.free - coming < reserve

    def _hand_over(self) -> None:
        if self._queue:
            queue, self._queue = self._queue, []
            self._stall.handed_over(len(queue))
            self._writer.put(queue)

    def _settle(self, batch: Batch) -> None:
        """A batch was committed or failed: change what is visible, give results, wake waiting readers."""
        if batch.is_first:
            self._refuse_all(batch.error)
        self._stall.settled(len(batch.writes))
        changed: dict[Entry, None] = {}
        for write in batch.writes:
            self._coming -= write.size
            result = write.result
            if batch.error is not None:
                result = Result(self.refusal)
            entry = write.entry
            if entry is not None:
                entry.settled += 1
                if entry.settled == entry.queued:
                    del self._unsettled[entry]
                changed[entry] = None
            if batch.error is None:
                self._stored(write, changed)
            elif write.removes is not None and entry is not None:
                entry.removing = False
            if entry is not None and write.creation:
                self._created(entry, result)
            if write.done is not None:
                self._undecided.pop(write.done, None)
                if not write.done.done() and result is not None:
                    write.done.set_result(result)
        for entry in changed:
            entry.wake()

    def _stored(self, write: Write, changed: dict[Entry, None]) -> None:
        """Make a committed write visible."""
        entry, result = write.entry, write.result
        if entry is not None and result is not None and result.verdict in (Verdict.STORED, Verdict.CREATED):
            entry.show(result.position, closed=entry.closed or result.closed)
            if write.cached:
                self._recent.add(entry.recent, write.cached)
        for path, is_free in write.removed:
            removed = self._table.removed(path) if is_free else self._table.get(path)
            if removed is not None:
                removed.lose(Verdict.MISSING if is_free else Verdict.GONE)
                removed.removing = False
                self._recent.drop(removed.recent)
                changed[removed] = None

    def _created(self, entry: Entry, result: Result | None) -> None:
        self._table.end(entry.stream.path)
        if result is not None and result.verdict is Verdict.CREATED:
            self._table.put(entry)

    def _refuse_all(self, error: Exception | None) -> None:
        """A commit failed: all writes on their way fail too, and the state of their streams will be read again."""
        self.refusal = Verdict.FULL if isinstance(error, apsw.FullError) else Verdict.FAILED
        self._hand_over()
        self._writer.resume()
        for entry in self._unsettled:
            entry.suspect = object()
            entry.failures += 1
            if entry.expires_kept is not None:
                entry.expires_kept = 0  # so the next touch stores the expiry in any case

    async def aclose(self) -> None:
        """Store what was queued, and end the writer's thread. Later writes fail."""
        self._is_closed = True
        self._hand_over()
        await self._writer.aclose()
        self._stall.close()
