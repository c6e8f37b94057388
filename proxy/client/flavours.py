"""What asynchronous and synchronous drivers cannot share, written by hand for both: closing, and being interrupted.

`scripts/unasync` turns the names with `Async` and `async_` into those without.
"""

import asyncio
import logging
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

from proxy.client._sync.aborts import create_abort
from proxy.client.errors import DurableError

__all__ = ["Aborts", "AsyncAborts", "async_each", "async_loses_nothing", "each", "loses_nothing"]

logger = logging.getLogger(__name__)


class AsyncAborts:
    """Aborts that closing a response owes. Each is awaited by the close."""

    async def send(self, abort: Callable[[], Awaitable[None]], stream_url: str, *, own_connections: bool) -> None:
        """Abort; a failure is logged. A close whose task is cancelled obeys, and a thread sends the abort.

        The thread opens connections of its own. Where the caller chose the transport (`own_connections` is False),
        nobody can know how else to reach the proxy, so the abort is lost and the upstream call goes on.
        """
        try:
            await abort()
        except DurableError as error:
            _log_failure(error)
        except asyncio.CancelledError:
            if own_connections:
                _in_thread(create_abort(stream_url))
            raise

    async def settle(self) -> None:
        """Wait for aborts under way: there are none, because each close waits for its own."""


class Aborts:
    """Aborts that closing a response owes. Each is sent by a thread, because a close may run in a finaliser."""

    def __init__(self) -> None:
        self._threads: list[threading.Thread] = []

    def send(self, abort: Callable[[], None], stream_url: str, *, own_connections: bool) -> None:
        """Start the abort without waiting for it; a failure is logged."""
        self._threads = [thread for thread in self._threads if thread.is_alive()] + _in_thread(abort)

    def settle(self) -> None:
        """Wait for aborts under way, each bounded by its time-outs."""
        for thread in self._threads:
            thread.join()


def _in_thread(abort: Callable[[], None]) -> list[threading.Thread]:
    """Run `abort` in a thread; the thread, or none when the interpreter is shutting down."""

    def work() -> None:
        try:
            abort()
        except DurableError as error:
            _log_failure(error)

    if sys.is_finalizing():  # a thread started now would never run, and starting it would wait for that
        return []
    thread = threading.Thread(target=work, name="durable-abort")
    with suppress(RuntimeError):  # raised by newer Pythons during shutdown
        thread.start()
        return [thread]
    return []


def _log_failure(error: DurableError) -> None:
    logger.info("aborting a closed response failed: %s", error)


async def async_each(calls: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Make these calls, all at the same time. Raises the first error."""
    await asyncio.gather(*(call() for call in calls))


def each(calls: Iterable[Callable[[], None]]) -> None:
    """Make these calls, one after the other. Raises the first error."""
    for call in calls:
        call()


def async_loses_nothing(error: BaseException) -> bool:
    """Whether `error` hit while no byte was between the source and the caller.

    A cancellation hits at an `await`, and a reader awaits only what has not arrived yet.
    """
    return isinstance(error, asyncio.CancelledError)


def loses_nothing(error: BaseException) -> bool:
    """Whether `error` hit while no byte was between the source and the caller.

    Never: a KeyboardInterrupt can hit between any two instructions, and a byte may be lost there.
    """
    return False
