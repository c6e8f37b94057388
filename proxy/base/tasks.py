"""Background tasks that have a name, an owner and an end. The only place that creates asyncio tasks.

A task that fails is reported, never silently lost; an owner that closes leaves none behind.
"""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

__all__ = ["Tasks"]

logger = logging.getLogger(__name__)


class Tasks:
    """The tasks of one owner. Each is referenced until it ends; `aclose` cancels and awaits the rest."""

    def __init__(self, owner: str) -> None:
        self._owner = owner
        self._running: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None  # asked for once: each time is a system call

    def __len__(self) -> int:
        return len(self._running)

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work` as a task called `owner/name`; its failure is logged with its traceback."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        task = self._loop.create_task(work, name=f"{self._owner}/{name}")
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("task %s failed", task.get_name(), exc_info=error)

    async def wait(self) -> None:
        """Return when no task is left (new ones started meanwhile are waited for too)."""
        while self._running:
            await asyncio.wait(self._running)

    async def aclose(self) -> None:
        """Cancel every task and wait until all have ended."""
        for task in self._running:
            task.cancel()
        await self.wait()
