"""The thread that writes: all waiting writes become one transaction (group commit). Owns batches, failures and chores.

A chore is maintenance of the database: moving the log into it, deleting the data of removed streams, giving free space
back to the file system. Chores are done in small steps between commits, so that no append waits long for one.
"""

import asyncio
import logging
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from proxy.store.sqlite.writing import Database, Write

__all__ = ["Batch", "Writer", "WriterSettings"]

logger = logging.getLogger(__name__)

_IDLE = 1.0  # seconds without a write, after which the log is moved into the database
_LOOK = 64  # commits between two measurements of the space in use
_CHORE_EVERY = 8  # commits between two chores while writes keep coming
_LARGEST_BATCH = 8 << 20  # bytes of one transaction, by which the log grows at once


@dataclass(frozen=True, slots=True)
class WriterSettings:
    """Thresholds and step sizes of the chores."""

    checkpoint_bytes: int
    """Size of the write-ahead log at which it is moved into the database."""
    vacuum_bytes: int
    """Free space that the database file keeps for reuse; more than that goes back to the file system."""
    sweep_rows: int
    """Most rows of removed streams that one step of a sweep deletes."""
    sweep_bytes: int
    """Most bytes of removed streams that one step of a sweep deletes, or that one step moves to shrink the file."""


@dataclass(slots=True)
class Batch:
    """Writes that were committed together, or failed together. `error` is None when they are on disk.

    `is_first` marks the first failure since writing was resumed. Writes that are put after it and before `resume` fail
    too, because they were judged by a state that was never stored (`commits` has the argument).
    """

    writes: list[Write]
    error: Exception | None
    is_first: bool


class Writer:
    """Stores writes in the order of `put`. `report` gets each batch; it is called in the event loop's thread."""

    def __init__(self, path: Path, settings: WriterSettings, report: Callable[[Batch], None]) -> None:
        self._path = path
        self._settings = settings
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._inbox: queue.SimpleQueue[list[Write] | None] = queue.SimpleQueue()
        self._refusing = False
        self._resumes = False
        self._stopping = False
        self._excess = False
        self._wants_look = False
        self._rest: list[Write] = []  # taken from the inbox, but too much for one transaction
        self.used = self.free = 0  # bytes of the database in use; free bytes of the disk
        self._database = Database(path)
        self.last_id = self._database.last_id()
        self._look()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    # Called by the event loop

    def put(self, writes: list[Write]) -> None:
        """Store `writes` as soon as possible."""
        self._inbox.put(writes)

    def resume(self) -> None:
        """Write again after a failure. What is put after this call was judged by the state that is on disk."""
        self._inbox.put(None)

    def look(self) -> None:
        """Measure soon how much space is in use and free. Called when a write was refused for lack of space."""
        self._wants_look = True
        self._inbox.put([])

    def measure_disk(self) -> None:
        """Measure now how much of the disk is free: a system call that asks no disk."""
        try:
            disk = os.statvfs(self._path.parent)
            self.free = disk.f_bavail * disk.f_frsize
        except OSError as error:
            logger.warning("the free space of the disk cannot be measured: %s", error)

    async def aclose(self) -> None:
        """Store what was put, move the log into the database and end the thread."""
        self._stopping = True
        self._inbox.put([])
        await asyncio.to_thread(self._thread.join)

    # The thread

    def _run(self) -> None:
        commits = 0
        try:
            while True:
                writes = self._next()
                if writes:
                    self._store(writes)
                    commits += 1
                    if commits % _LOOK == 0:
                        self._try(self._look)
                    if self._log_is_long():
                        self._try(self._database.checkpoint)
                    if commits % _CHORE_EVERY == 0:
                        self._try(self._sweep)
                if self._rest:
                    continue
                if self._resumes:
                    self._resumes = self._refusing = False
                if self._wants_look:
                    self._wants_look = False
                    self._try(self._look)
                if self._stopping and self._inbox.empty():
                    return
                del writes  # otherwise the last batch stays in memory until the next one comes
        finally:
            self._try(self._database.close)

    def _next(self) -> list[Write]:
        """The writes of the next transaction: all that wait, up to a size, but none from behind a `resume`.

        While nothing waits, chores are done.
        """
        found: list[Write] | None
        if self._rest:
            found, self._rest = self._rest, []
        else:
            found = self._wait()
            if found is None:
                self._resumes = True
                return []
        size = count = 0
        while size < _LARGEST_BATCH:
            if count < len(found):
                size += found[count].size
                count += 1
            elif self._resumes or self._inbox.empty():
                break
            elif (more := self._inbox.get()) is None:
                self._resumes = True
            else:
                found += more
        self._rest = found[count:]
        return found[:count]

    def _wait(self) -> list[Write] | None:
        while self._inbox.empty() and not self._stopping and self._has_chore():
            if not self._try(self._chore):
                break
        while True:
            try:
                return self._inbox.get(timeout=_IDLE if self._database.log_pages else None)
            except queue.Empty:
                self._try(self._database.checkpoint)

    def _store(self, writes: list[Write]) -> None:
        error: Exception | None = None
        is_first = False
        if self._refusing:
            error = RuntimeError("an earlier write failed")
        else:
            try:
                self._database.store(writes)
                size = sum(write.size for write in writes)
                self.used += size
                self.free -= size
            except Exception as failure:  # any failure: nothing was stored, and the thread must go on
                error = failure
                is_first = self._refusing = True
                logger.error("a commit failed: %s", failure)
        batch = Batch(writes, error, is_first)
        try:
            self._loop.call_soon_threadsafe(self._report, batch)
        except RuntimeError:
            logger.error("a batch of writes has no one to report to: its event loop has ended")

    def _look(self) -> None:
        """Measure the space in use and the free space of the disk. `_store` keeps both current in between."""
        self.used = self._database.used_bytes()
        self._excess = self._database.free_bytes() > self._settings.vacuum_bytes
        self.measure_disk()

    def _log_is_long(self) -> bool:
        return self._database.log_pages * self._database.page_bytes >= self._settings.checkpoint_bytes

    def _has_chore(self) -> bool:
        return self._database.has_garbage or self._excess

    def _chore(self) -> None:
        if self._database.has_garbage:
            self._sweep()
        else:
            before = self._database.free_bytes()
            self._database.vacuum(self._settings.sweep_bytes // self._database.page_bytes)
            after = self._database.free_bytes()
            self._excess = self._settings.vacuum_bytes < after < before
        if self._log_is_long():
            self._database.checkpoint()

    def _sweep(self) -> None:
        if self._database.has_garbage:
            self._database.sweep(self._settings.sweep_rows, self._settings.sweep_bytes)
            if not self._database.has_garbage:
                self._look()

    def _try(self, step: Callable[[], None]) -> bool:
        """Do one step of a chore; whether it succeeded. A failure (no space, I/O error) is logged, and the step is done
        again later: it must not end the thread, because without the thread nothing is stored.
        """
        try:
            step()
        except Exception as error:
            logger.warning("maintenance of the database failed: %s (it is done again later)", error)
            return False
        return True
