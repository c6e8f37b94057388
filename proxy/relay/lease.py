"""The lease that says that this instance lives, and how the leases of others are read.

Owns its form in storage: `_proxy/instances/{name}` is a stream that expires `lease_seconds` after it was last read,
and only its owner reads it. So storage's own expiry is the failure detector, and no clocks are compared:

- The holder counts from before it sent the request that storage then answered. Storage counts from when the request
  came in, which is later. So a holder that goes by `held_until` never believes in a lease that storage has dropped, as
  long as both measure the same number of seconds.
- Others look with HEAD, which does not renew. They take an instance for dead only when its lease was missing at three
  looks in a row, some time apart: an instance that was cut off, and whose lease has lapsed, has this long to renew
  it. The first of these looks cannot be before `held_until`, so that whatever the holder stops until then has stopped
  before anybody acts on its death. What needs that is stopped one look after `held_until` (`Lease.on_lapse`), one look
  before the earliest moment at which another instance can act.

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

_CERTAIN = 2  # failures in a row after which storage is known to be down
_NAME = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """Times of leases in seconds, and their size in bytes."""

    lease_seconds: int  # that a lease lasts after its last renewal
    lease_renew_seconds: float  # between two renewals, and before one that failed is tried again
    lease_attempt_seconds: float  # that one renewal may take, so that a request that is lost costs part of the lease
    lease_request_seconds: float  # that its request may take; less, so that the time-out tells of deaf connections
    lease_look_seconds: float  # between two looks at a lease that is missing
    lease_misses: int  # looks in a row without a lease after which its instance counts as dead
    max_lease_bytes: int  # of the stream that stands for a lease; it is empty


def lease_name(instance: str) -> str:
    """The stream that exists as long as the instance is alive."""
    return f"_proxy/instances/{instance}"


async def is_leased(storage: Storage, instance: str) -> bool:
    """Whether an instance has a lease now. Raises StorageError."""
    return bool(_NAME.fullmatch(instance)) and await storage.head(lease_name(instance)) is not None


async def is_gone(storage: Storage, instance: str, settings: LeaseSettings) -> bool:
    """Whether an instance is dead. Takes the time between the looks when it is. Raises StorageError."""
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
        """`prepare` is awaited before a lease is made: what others look for at a living instance is there first."""
        self._storage = storage
        self._name = name
        self._settings = settings
        self._prepare = prepare
        self._held_until = 0.0
        self._renewing = asyncio.Lock()
        self._tries = 0  # that have ended
        self._failures = 0  # tries in a row
        self._lapse: asyncio.TimerHandle | None = None
        self.on_lapse: Callable[[], None] = lambda: None

    @property
    def is_held(self) -> bool:
        """Whether storage certainly has the lease."""
        return asyncio.get_running_loop().time() < self._held_until

    @property
    def is_troubled(self) -> bool:
        """Whether storage failed at the last two tries to renew: one may be due to a connection that was lost."""
        return self._failures >= _CERTAIN

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
            if self._failures != 1:  # after the first failure it is tried again at once
                await asyncio.sleep(self._settings.lease_renew_seconds)

    async def _renew(self) -> None:
        """Try once; a lease that is not there, or no longer, is made."""
        began = asyncio.get_running_loop().time()
        name = lease_name(self._name)
        try:
            with anyio.fail_after(self._settings.lease_attempt_seconds):
                if await self._read(name) is None:
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
        self._failures = 0
        self._held_until = began + self._settings.lease_seconds
        self._watch_lapse()

    async def _read(self, name: str) -> bytes | None:
        settings = self._settings
        return await self._storage.read_whole(name, settings.max_lease_bytes, timeout=settings.lease_request_seconds)

    def _watch_lapse(self) -> None:
        """Call `on_lapse` one look after the lease has run out, unless it is renewed before."""
        if self._lapse is not None:
            self._lapse.cancel()
        loop = asyncio.get_running_loop()
        self._lapse = loop.call_at(self._held_until + self._settings.lease_look_seconds, self._lapsed)

    def _lapsed(self) -> None:
        logger.warning("the lease has run out (calls under an Idempotency-Key are stopped)")
        self.on_lapse()

    async def aclose(self) -> None:
        """Let go: others find at once that this instance is gone. Call it when `keep` has ended and no transfer runs.

        Storage that does not answer is not waited for: the lease runs out.
        """
        if self._lapse is not None:
            self._lapse.cancel()
        with anyio.move_on_after(self._settings.lease_renew_seconds):
            try:
                await self._storage.delete(lease_name(self._name))
            except StorageError as error:
                logger.info("the lease could not be deleted: %s (it runs out)", error)
