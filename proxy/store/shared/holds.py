"""How forks keep the bytes they share. Owns that a source lives at least as long as each of its forks.

A source knows the paths of its forks, and until when each of them needs it. A fork may need a source's source, too, so
that a hold is made longer all the way up. The order makes a crash harmless: a source is held before the fork is created
and before the fork's own life is made longer, and released after the fork is gone. What a crash in between leaves is a
hold without a fork: bytes that are kept too long, never bytes that are missing.
"""

from proxy.store.model import Spec
from proxy.store.shared.backend import Backend, Ref, Removed
from proxy.store.shared.entry import SharedEntry

__all__ = ["Holds"]

# How much longer a source lives than its fork: as much as storage may let a TTL last, and what two clocks may differ.
_SLACK = 8  # of the TTL, as the eighth that it is divided by
_APART = 5000  # milliseconds


class Holds:
    """Holds of forks on their sources. Every method may raise Unavailable."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def begin(self, source: Ref, fork: str, spec: Spec) -> bool:
        """Hold `source` for a fork that will be created with `spec`; False when the source is gone."""
        until = spec.expires
        if spec.ttl is not None:
            until = self._backend.now() + spec.ttl * 1000
        return await self._hold(source, fork, until, spec.ttl)

    async def extend(self, entry: SharedEntry, until: int) -> None:
        """The stream of `entry`, a fork, will live until `until`: so will its sources."""
        if entry.source is not None:
            await self._hold(entry.source, entry.ref.path, until, entry.stream.ttl)

    async def _hold(self, source: Ref, fork: str, until: int | None, ttl: int | None) -> bool:
        if until is not None:
            until += (ttl or 0) * 1000 // _SLACK + _APART
        ref: Ref | None = source
        while ref is not None:
            held = await self._backend.hold(ref, fork, until)
            if held is None:
                return ref is not source
            if not held.is_longer:
                break
            fork, ref = ref.path, held.source
        return True

    async def end(self, removed: Removed, fork: str) -> None:
        """The stream at `fork` was removed: its source may have waited for that, and so on up the chain."""
        while removed.freed is not None:
            source = removed.freed
            removed = await self._backend.release(source, fork)
            fork = source.path
