"""Waiting for what no event announces: a lost socket, a row that a sweep deletes, another process's file.

Where there is an event, a future or a queue, await that instead; where time is the subject, use `virtual_time`.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable

__all__ = ["LONG", "SOON", "until", "until_blocking"]

LONG = 60.0
"""Seconds: a deadline that is not the test's subject."""
SOON = 5.0
"""Seconds within which what must happen happens; the test fails after them."""


async def until(holds: Callable[[], bool | Awaitable[bool]], *, within: float = 20.0, every: float = 0.002) -> None:
    """Return when `holds()` is true. `holds` is a function or a coroutine function, called every `every` seconds.

    TimeoutError after `within` seconds. With `every=0` it is called on each turn of the loop.
    """
    async with asyncio.timeout(within):
        while True:
            found = holds()
            if await found if inspect.isawaitable(found) else found:
                return
            await asyncio.sleep(every)


def until_blocking(holds: Callable[[], bool], *, within: float = 20.0, every: float = 0.02) -> None:
    """Block the thread until `holds()` is true, for a test without a loop. TimeoutError after `within` seconds."""
    deadline = time.monotonic() + within
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"it did not happen within {within} s")
        time.sleep(every)
