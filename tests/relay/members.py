"""Instances without processes: each over the same storage in memory, in which leases expire."""

import asyncio

from proxy.http.message import Handler, Request, Response
from proxy.relay.fleet import Fleet, FleetSettings
from proxy.relay.membership import Member
from proxy.relay.orphans import Orphans, OrphanSettings
from proxy.relay.record import Record
from tests.kit.bodies import Tap
from tests.kit.memory_storage import MemoryStorage
from tests.relay.kit import ID, LEASE, Relay, ending

__all__ = ["DEAD", "ORPHANS", "PAUSES", "Expiring", "Instance", "owned"]

ORPHANS = OrphanSettings(lease_look_seconds=2.0, watch_seconds=90.0, max_watched=3, recovery_at_once=2)
DEAD = LEASE.lease_seconds + 4 * ORPHANS.lease_look_seconds  # seconds after which a death has been noticed
PAUSES = FleetSettings(first_pause_seconds=0.02, longest_pause_seconds=2.0)


class Expiring(MemoryStorage):
    """Streams that were created with a Stream-TTL vanish when nothing read or wrote them for as long."""

    def __init__(self) -> None:
        super().__init__()
        self._until: dict[str, tuple[float, float]] = {}  # path -> when it vanishes, its TTL

    async def __call__(self, request: Request) -> Response:
        now = asyncio.get_running_loop().time()
        for path in [path for path, (until, _) in self._until.items() if until <= now]:
            self.streams.pop(path, None)
            del self._until[path]
        path = request.target.decode().partition("?")[0]
        ttl = request.headers.get(b"stream-ttl")
        if request.method == b"PUT" and path not in self.streams and ttl is not None:
            self._until[path] = (now + int(ttl), int(ttl))
        elif request.method != b"HEAD" and path in self._until:
            self._until[path] = (now + self._until[path][1], self._until[path][1])
        return await super().__call__(request)


class Instance:
    """One instance: what it is made of, open for as long as the block. `dies` instead of saying farewell."""

    def __init__(self, handler: Handler, *, dies: bool = False) -> None:
        self.relay = Relay.over(handler, is_member=True)
        self.storage, self.endings, self.transfers = self.relay.storage, self.relay.endings, self.relay.transfers
        assert isinstance(self.relay.members, Member)
        self.members = self.relay.members
        self.orphans = Orphans(self.members, self.relay.records, self.endings, ORPHANS)
        self.fleet = Fleet(self.members, self.relay.records, self.transfers, self.endings, self.orphans, PAUSES)
        self._dies = dies

    @property
    def name(self) -> str:
        """Its name in storage."""
        return self.members.name

    async def __aenter__(self) -> "Instance":
        self.transfers.open()
        self.members.open(self.transfers.abort, self.transfers.doubt)
        self.orphans.open()
        return self

    async def freeze(self) -> None:
        """Hold no lease and read no mail any more, but go on writing."""
        await self.members._tasks.aclose()

    async def die(self) -> None:
        """Be gone at once, as after SIGKILL: nothing is said to storage any more."""
        await self.freeze()
        await self.transfers._desk.tasks.aclose()
        await self.transfers._sweeper.aclose()

    async def __aexit__(self, *_: object) -> None:
        await self.orphans.aclose()
        if self._dies:
            await self.die()
        else:
            await self.relay.aclose()
            await self.members.aclose()

    async def record(self, stream_id: str = ID) -> Record:
        """What it knows of a stream."""
        record = await self.relay.records.get(stream_id)
        assert record is not None
        return record


async def owned(owner: Instance, storage: MemoryStorage, *parts: bytes, stream_id: str = ID) -> Tap:
    """A stream that `owner` writes, with `parts` in it."""
    tap = Tap()
    await owner.relay.start(tap, stream_id)
    tap.feed(*parts)
    await asyncio.sleep(1)
    assert ending(storage, stream_id) == (b"".join(parts), False, None)
    return tap
