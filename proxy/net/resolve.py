"""Host names to IP addresses. Owns look-ups, their threads and what is remembered of their answers.

The system's resolver blocks its caller, and for a name whose servers do not answer it blocks for as long as the
system's configuration says, often 10 to 40 seconds. A shared pool of threads would let a few such names hold up every
other name. So each look-up has a thread of its own, a name has one look-up at a time, and everyone who asks for the
name meanwhile waits for that one. A look-up that nobody waits for any more goes on; its answer is remembered.
"""

import asyncio
import socket
import threading
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address

__all__ = ["ResolveError", "Resolver", "ResolverLimits"]


class ResolveError(Exception):
    """The name could not be resolved: it has no address, or no answer came in time."""


@dataclass(frozen=True, slots=True)
class ResolverLimits:
    """Bounds of one resolver.

    `timeout`: seconds that a caller waits for an answer; a look-up that has taken longer is known to hang, and later
    callers fail at once. `answers`: seconds that addresses are remembered. `failures`: seconds that a failure is
    remembered. `names`: names remembered at once. `lookups`: look-ups, and so threads, at once.
    """

    timeout: float
    answers: float
    failures: float
    names: int
    lookups: int


@dataclass(slots=True)
class _Lookup:
    """A look-up under way since `began`, in the loop's time. `answer` is empty when the name has no address."""

    began: float
    answer: asyncio.Future[tuple[str, ...]]


class Resolver:
    """The system's resolver for the callers of one event loop."""

    def __init__(self, limits: ResolverLimits) -> None:
        self._limits = limits
        self._lookups: dict[str, _Lookup] = {}
        self._known: OrderedDict[str, tuple[float, tuple[str, ...]]] = OrderedDict()  # until when, in the loop's time

    async def resolve(self, host: str) -> tuple[str, ...]:
        """The addresses of `host` as text, each once, in the system's order; an IP literal is its own address.

        Raises ResolveError. A cancelled call leaves the look-up running.
        """
        with suppress(ValueError):
            ip_address(host)
            return (host,)
        now = asyncio.get_running_loop().time()
        until, found = self._known.get(host, (0.0, ()))
        if until <= now:
            found = await self._joined(host, now)
        if not found:
            raise ResolveError
        return found

    async def _joined(self, host: str, now: float) -> tuple[str, ...]:
        lookup = self._lookups.get(host)
        if lookup is None:
            if len(self._lookups) >= self._limits.lookups:
                raise ResolveError
            lookup = self._look_up(host, now)
        try:
            async with asyncio.timeout_at(lookup.began + self._limits.timeout):
                return await asyncio.shield(lookup.answer)
        except TimeoutError:
            raise ResolveError from None

    def _look_up(self, host: str, now: float) -> _Lookup:
        loop = asyncio.get_running_loop()
        lookup = self._lookups[host] = _Lookup(now, loop.create_future())

        def settle(found: tuple[str, ...]) -> None:
            del self._lookups[host]
            self._remember(host, found, loop.time())
            lookup.answer.set_result(found)

        def ask() -> None:
            found: tuple[str, ...] = ()
            with suppress(OSError, UnicodeError):
                entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
                found = tuple(dict.fromkeys(str(entry[4][0]) for entry in entries))
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(settle, found)

        threading.Thread(target=ask, name="resolver", daemon=True).start()  # the process's end does not wait for it
        return lookup

    def _remember(self, host: str, found: tuple[str, ...], now: float) -> None:
        seconds = self._limits.answers if found else self._limits.failures
        self._known[host] = (now + seconds, found)
        self._known.move_to_end(host)
        if len(self._known) > self._limits.names:
            self._known.popitem(last=False)
