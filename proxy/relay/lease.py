"""The lease that says that this instance lives, and how the leases of others are read.

Owns its form in storage: `_proxy/instances/{name}` is a stream that expires `lease` seconds after it was last read,
and only its owner reads it. So storage's own expiry is the failure detector, and no clocks are compared:

- The holder counts from before it sent the request that storage then answered. Storage counts from when the request
  came in, which is later. So a holder that goes by `held_until` never believes in a lease that storage has dropped, as
  long as both measure the same number of seconds.
- Others look with HEAD, which does not renew. They take an instance for dead only when its lease was missing at three
  looks in a row, `look` seconds apart: an instance that was cut off, and whose lease has lapsed, has this long to renew
  it. The first of these looks cannot be before `held_until`, so that whatever the holder stops until then has stopped
  at least two `look`s before anybody acts on its death (`licence_lapses`).

A process that is frozen stops nothing. What it sends when it goes on is refused by storage: its appends carry an older
epoch (`relay.takeover`), and so do its changes to locks (`relay.lock`).
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio

from proxy.streams.answers import StorageError
from proxy.streams.client import JSON, Storage

__all__ = ["Lease", "LeaseSettings", "is_gone", "is_leased", "lease_name"]

logger = logging.getLogger(__name__)

_MAX_LEASE_BYTES = 64
_MISSES = 3  # looks in a row without a lease after which its instance counts as dead
_NAME = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """Times of leases, all in seconds.

    length: after its last renewal a lease lasts this long.
    renew: between two renewals, and before one that failed is tried again.
    timeout: of one renewal, so that a request that is lost costs only part of the lease.
    look: between two looks at a lease that is missing.
    """

    length: int
    renew: float
    timeout: float
    look: float


def lease_name(instance: str) -> str:
    """The stream that exists as long as the instance is alive."""
    return f"_proxy/instances/{instance}"


async def is_leased(storage: Storage, instance: str) -> bool:
    """Whether an instance has a lease now. Raises StorageError."""
    return bool(_NAME.fullmatch(instance)) and await storage.head(lease_name(instance)) is not None


async def is_gone(storage: Storage, instance: str, look: float) -> bool:
    """Whether an instance is dead. Takes two `look`s when it is. Raises StorageError."""
    for number in range(_MISSES):
        if number:
            await asyncio.sleep(look)
        if await is_leased(storage, instance):
            return False
    return True


class Lease:
    """The lease of this instance, renewed for as long as `keep` runs."""

    def __init__(
        self, storage: Storage, name: str, settings: LeaseSettings, prepare: Callable[[], Awaitable[object]]
    ) -> None:
        """`prepare` is awaited before a lease is made: what others look for at a living instance is there first."""
        self._storage = storage
        self._name = name
        self._settings = settings
        self._prepare = prepare
        self._held_until = 0.0
        self._renewing = asyncio.Lock()
        self._tries = 0  # that have ended
        self._trouble = ""  # why the last try failed, "" when it did not
        self._was_reported: bool | None = None  # the last line in the log: answered, or not; None: no line yet
        self._lapse: asyncio.TimerHandle | None = None
        self.on_lapse: Callable[[], None] = lambda: None

    @property
    def is_held(self) -> bool:
        """Whether storage certainly has the lease."""
        return asyncio.get_running_loop().time() < self._held_until

    @property
    def is_troubled(self) -> bool:
        """Whether storage failed at the last try to renew."""
        return bool(self._trouble)

    async def ensure(self) -> bool:
        """Whether the lease is held; when it is not, one try is made, or the one that is under way is waited for."""
        tries = self._tries
        if not self.is_held:
            async with self._renewing:
                if not self.is_held and self._tries == tries:
                    await self._renew()
        return self.is_held

    async def keep(self) -> None:
        """Renew the lease, for ever."""
        while True:
            async with self._renewing:
                await self._renew()
            await asyncio.sleep(self._settings.renew)

    async def _renew(self) -> None:
        """Try once; a lease that is not there, or no longer, is made."""
        began = asyncio.get_running_loop().time()
        name = lease_name(self._name)
        try:
            with anyio.fail_after(self._settings.timeout):
                if await self._storage.read_whole(name, _MAX_LEASE_BYTES) is None:
                    await self._prepare()
                    await self._storage.create(name, JSON, self._settings.length)
        except (StorageError, TimeoutError) as error:
            self._trouble = str(error) or "no answer in time"
            self._report()
            return
        finally:
            self._tries += 1
        self._trouble = ""
        self._held_until = began + self._settings.length
        self._report()
        self._watch_lapse()

    def _report(self) -> None:
        """Say once that storage answers, and once that it does not."""
        if self._was_reported is bool(self._trouble):
            return
        if self._trouble:
            logger.warning("lease renewal failed: %s (creates get 503 until storage answers)", self._trouble)
        else:
            logger.info("storage answers: the lease is held")
        self._was_reported = bool(self._trouble)

    def _watch_lapse(self) -> None:
        """Call `on_lapse` one `look` after the lease has run out, unless it is renewed before."""
        if self._lapse is not None:
            self._lapse.cancel()
        loop = asyncio.get_running_loop()
        self._lapse = loop.call_at(self._held_until + self._settings.look, self._lapsed)

    def _lapsed(self) -> None:
        logger.warning("the lease has run out (calls under an Idempotency-Key are stopped)")
        self.on_lapse()

    async def aclose(self) -> None:
        """Let go: others find at once that this instance is gone. Call it when `keep` has ended and no transfer runs.

        Storage that does not answer is not waited for: the lease runs out.
        """
        if self._lapse is not None:
            self._lapse.cancel()
        with anyio.move_on_after(self._settings.renew):
            try:
                await self._storage.delete(lease_name(self._name))
            except StorageError as error:
                logger.info("the lease could not be deleted: %s (it runs out)", error)
