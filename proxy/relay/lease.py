"""The lease, which says that this instance is alive, and how the leases of other instances are read.

Owns its form in storage: `_proxy/instances/{name}` is a stream that expires `lease_seconds` after it was last read,
and only its owner reads it. So storage's own expiry is the failure detector, and no clocks are compared:

- The holder counts from before it sent the request that storage then answered. Storage counts from when the request
  came in, which is later. So a holder that goes by `held_until` never believes in a lease that storage has dropped, as
  long as both measure the same number of seconds.
- Others look with HEAD, which does not renew. To them an instance is dead only when its lease was missing at three
  looks in a row, some time apart. So an instance that was cut off, and whose lease has run out, has this long to renew
  it. The first of these looks cannot come before `held_until`, so the third cannot come before two looks after it. What
  must not overlap with a successor is stopped one look after `held_until` (`Lease.on_lapse`): one look before the
  earliest moment at which another instance can act.

A frozen process cannot stop anything in time. When it continues, storage refuses what it sends: its appends carry an
older epoch (`relay.takeover`), and so do its changes to locks (`relay.lock`).
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

_CERTAIN = 2  # failed renewals in a row after which storage counts as down
_NAME = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """Times of leases in seconds, and their size in bytes."""

    lease_seconds: int  # lifetime of a lease after its last renewal
    lease_renew_seconds: float  # pause between two renewals, and before the retry of one that failed
    lease_attempt_seconds: float  # time-out of one renewal, so that a lost request costs only part of the lease
    lease_request_seconds: float  # time-out of its request; shorter, so that a deaf connection is noticed
    lease_look_seconds: float  # pause between two looks at a missing lease
    lease_misses: int  # looks in a row without a lease after which its instance counts as dead
    max_lease_bytes: int  # largest stream that may stand for a lease; it is empty


def lease_name(instance: str) -> str:
    """The stream that exists as long as the instance is alive."""
    return f"_proxy/instances/{instance}"


async def is_leased(storage: Storage, instance: str) -> bool:
    """Whether an instance has a lease now. Raises StorageError."""
    return bool(_NAME.fullmatch(instance)) and await storage.head(lease_name(instance)) is not None


async def is_gone(storage: Storage, instance: str, settings: LeaseSettings) -> bool:
    """Whether an instance is dead. To be sure it looks several times, with pauses. Raises StorageError."""
    for number in range(settings.lease_misses):
        if number:
            await asyncio.sleep(settings.lease_look_seconds)
        if await is_leased(storage, instance):
            return False
    return True


class Lease:
    """The lease of this instance, renewed for as long as `keep` runs."""

    def __init__(
        self, storage: Storage, name: str, settings: LeaseSettings, prepare: Callable[[], Awaitable[object]]
    ) -> None:
        """`prepare` is awaited before a lease is made: it makes what others need of a living instance."""
        self._storage = storage
        self._name = name
        self._settings = settings
        self._prepare = prepare
        self._clock = asyncio.get_running_loop().time  # kept: each create asks it several times
        self._held_until = 0.0
        self._renewing = asyncio.Lock()
        self._tries = 0  # attempts that have ended
        self._failures = 0  # failed attempts in a row
        self._lapse: asyncio.TimerHandle | None = None
        self.on_lapse: Callable[[], None] = lambda: None
        self._is_lost = False  # storage had no lease any more, and it has not been made again
        self._late_doubt: asyncio.TimerHandle | None = None
        self.on_loss: Callable[[], None] = lambda: None

    @property
    def is_held(self) -> bool:
        """Whether storage has the lease for certain."""
        return self._clock() < self._held_until

    @property
    def is_troubled(self) -> bool:
        """Whether the last two renewals failed. A single failure may be due to one lost connection."""
        return self._failures >= _CERTAIN

    async def ensure(self) -> bool:
        """Whether the lease is held. When it is not, make one attempt, or wait for the one in progress."""
        if self.is_held:
            return True
        tries = self._tries
        async with self._renewing:
            if not self.is_held and self._tries == tries:
                await self._renew()
        return self.is_held

    async def keep(self) -> None:
        """Renew the lease until cancelled."""
        while True:
            async with self._renewing:
                await self._renew()
            if self._failures != 1:  # the first failure is retried at once
                await asyncio.sleep(self._settings.lease_renew_seconds)

    async def _renew(self) -> None:
        """One attempt to renew the lease; it is created when storage does not have it."""
        began = self._clock()
        name = lease_name(self._name)
        try:
            with anyio.fail_after(self._settings.lease_attempt_seconds):
                if await self._read(name) is None:
                    self._is_lost = self._held_until > 0
                    await self._prepare()
                    await self._storage.create(name, JSON, self._settings.lease_seconds)
        except (StorageError, TimeoutError) as error:
            self._failures += 1
            if self._failures == _CERTAIN:
                reason = str(error) or "no answer in time"
                logger.warning("lease renewal failed: %s (creates get 503 until storage answers)", reason)
            return
        finally:
            self._tries += 1
        if self._failures >= _CERTAIN or not self._held_until:
            logger.info("storage answers: the lease is held")
        if self._is_lost:
            self._is_lost = False
            self._regained()
        self._failures = 0
        self._held_until = began + self._settings.lease_seconds
        self._watch_lapse()

    async def _read(self, name: str) -> bytes | None:
        settings = self._settings
        return await self._storage.read_whole(name, settings.max_lease_bytes, timeout=settings.lease_request_seconds)

    def _regained(self) -> None:
        """Call `on_loss` now, and once more when every instance that had seen no lease has acted on it."""
        logger.info("the lease was gone, and is held again (streams that were ended elsewhere are looked for)")
        self.on_loss()
        if self._late_doubt is not None:
            self._late_doubt.cancel()
        settings = self._settings
        later = settings.lease_misses * settings.lease_look_seconds
        self._late_doubt = asyncio.get_running_loop().call_later(later, self.on_loss)

    def _watch_lapse(self) -> None:
        """Call `on_lapse` one look after the lease has run out, unless it is renewed by then."""
        if self._lapse is not None:
            self._lapse.cancel()
        loop = asyncio.get_running_loop()
        self._lapse = loop.call_at(self._held_until + self._settings.lease_look_seconds, self._lapsed)

    def _lapsed(self) -> None:
        logger.warning("the lease has run out (calls under an Idempotency-Key are stopped)")
        self.on_lapse()

    async def aclose(self) -> None:
        """Delete the lease, so that others soon see that this instance is gone. Call it when no transfer is left.

        Call it after `keep` has ended. When storage does not answer, the lease runs out by itself.
        """
        for timer in (self._lapse, self._late_doubt):
            if timer is not None:
                timer.cancel()
        with anyio.move_on_after(self._settings.lease_renew_seconds):
            try:
                await self._storage.delete(lease_name(self._name))
            except StorageError as error:
                logger.info("the lease could not be deleted: %s (it runs out)", error)
