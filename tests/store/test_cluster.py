"""A cluster of real servers: streams on every member, slots that move, a member that is replaced by its replica."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from proxy.store.valkey.keys import Namer
from proxy.store.valkey.slots import SLOTS, slot_of
from tests.kit.engines import Engine, redis_binary, valkey_binary
from tests.kit.ports import free_port
from tests.kit.waiting import until
from tests.store.process import StoreProcess
from tests.store.public_suite import described, run_public_suite
from tests.store.serve import LONG_POLL_SECONDS
from tests.store.test_conformance import OPTIONAL, PASSING
from tests.store.test_shared_faults import TEXT, content, insist, insistently, numbered, opened, produce

pytestmark = pytest.mark.slow


class Cluster:
    """Three primaries, and a replica of the first."""

    def __init__(self, binary: str, directory: Path, stack: ExitStack) -> None:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0")
        buses = [str(free_port()) for _ in range(4)]
        self.members = [
            stack.enter_context(Engine(binary, directory / bus, *options, "--cluster-port", bus, has_port=True))
            for bus in buses
        ]
        first = self.members[0]
        for number, member in enumerate(self.members[:3]):
            begin, end = SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1
            assert member.ask("CLUSTER", "ADDSLOTSRANGE", str(begin), str(end)) == b"+OK\r\n"
        for member, bus in zip(self.members, buses, strict=True):
            if member is not first:
                assert first.ask("CLUSTER", "MEET", "127.0.0.1", str(member.port), bus) == b"+OK\r\n"

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{member.port}" for member in self.members)

    def name_of(self, member: Engine) -> str:
        return member.ask("CLUSTER", "MYID").split(b"\r\n")[1].decode()

    async def is_whole(self) -> bool:
        return all(
            b"cluster_state:ok" in member.ask("CLUSTER", "INFO")
            and b"cluster_known_nodes:4" in member.ask("CLUSTER", "INFO")
            for member in self.members
        )

    async def add_replica(self) -> None:
        await until(self.is_whole)
        self.members[3].ask("CLUSTER", "REPLICATE", self.name_of(self.members[0]))

        async def is_synced() -> bool:
            return b"state=online" in self.members[0].ask("INFO", "replication")

        await until(is_synced)

    def move(self, slot: int, source: Engine, target: Engine) -> None:
        """Move a slot with its keys, as redis-cli does."""
        target.ask("CLUSTER", "SETSLOT", str(slot), "IMPORTING", self.name_of(source))
        source.ask("CLUSTER", "SETSLOT", str(slot), "MIGRATING", self.name_of(target))
        while (keys := source.ask("CLUSTER", "GETKEYSINSLOT", str(slot), "10")) != b"*0\r\n":
            for key in keys.split(b"\r\n")[2::2]:
                moved = source.ask("MIGRATE", "127.0.0.1", str(target.port), key.decode(), "0", "5000")
                assert moved == b"+OK\r\n", moved
        for member in (target, source, *self.members):
            member.ask("CLUSTER", "SETSLOT", str(slot), "NODE", self.name_of(target))


@pytest.fixture(params=["redis", "valkey"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Cluster]:
    binary = valkey_binary() if request.param == "valkey" else redis_binary()
    if binary is None:
        pytest.skip(f"there is no {request.param}")
    with ExitStack() as stack:
        yield Cluster(binary, tmp_path, stack)


async def test_streams_are_spread_over_the_members_and_followed_wherever_they_are(cluster: Cluster) -> None:
    await until(cluster.is_whole)
    async with opened(cluster.url) as (_, one), opened(cluster.url) as (_, other):
        for number in range(20):
            await insistently(partial(one.put, f"/{number}", **TEXT))
        events = [await other.events(f"/{number}?offset=-1&live=sse") for number in range(20)]
        for number, each in enumerate(events):
            await each.control()
            await insist(one, f"/{number}", b"%d" % number, 0)
            assert await each.data() == str(number)
            each.close()
        counts = [int(member.ask("DBSIZE")[1:-2]) for member in cluster.members[:3]]
        assert min(counts) > 0
        source = await other.put("/fork", stream_forked_from="/1", **TEXT)
        assert source.status == 201
        assert (await one.get("/fork")).body == b"1"


async def test_slots_move_under_producers_and_readers(cluster: Cluster) -> None:
    await until(cluster.is_whole)
    async with opened(cluster.url, patience_seconds=5.0) as (_, client):
        await insistently(partial(client.put, "/s", **TEXT))
        slot = slot_of(Namer("ds").of("/s").state)
        owner = cluster.members[slot * 3 // SLOTS]
        events = await client.events("/s?offset=-1&live=sse")
        await events.control()
        stop = asyncio.Event()
        producing = asyncio.create_task(produce(client, "/s", stop))
        for step in range(1, 5):
            await asyncio.sleep(0.2)
            target = cluster.members[(cluster.members.index(owner) + step) % 3]
            source = cluster.members[(cluster.members.index(owner) + step - 1) % 3]
            await asyncio.to_thread(cluster.move, slot, source, target)
        await asyncio.sleep(0.3)
        stop.set()
        count = await producing
        assert count > 3
        assert await content(client, "/s") == numbered(count)
        received = ""
        while len(received) < len(numbered(count)):
            async with asyncio.timeout(10):
                kind, payload = await events.next()
            received += payload if kind == "data" else ""
        assert received.encode() == numbered(count)
        events.close()


async def test_a_replica_takes_over_and_nothing_acknowledged_by_it_is_lost(cluster: Cluster) -> None:
    await cluster.add_replica()
    async with opened(cluster.url, patience_seconds=2.0) as (_, client):
        for number in range(12):
            await insistently(partial(client.put, f"/{number}", **TEXT))
        stop = asyncio.Event()
        producing = [asyncio.create_task(produce(client, f"/{number}", stop)) for number in range(12)]
        await asyncio.sleep(0.3)
        assert cluster.members[3].ask("CLUSTER", "FAILOVER") == b"+OK\r\n"

        async def has_changed() -> bool:
            return cluster.members[3].ask("ROLE").startswith(b"*3\r\n$6\r\nmaster")

        await until(has_changed)
        await asyncio.sleep(1)
        cluster.members[0].kill()
        await asyncio.sleep(1)
        stop.set()
        counts = await asyncio.gather(*producing)
        assert min(counts) > 3
        for number, count in enumerate(counts):
            assert await content(client, f"/{number}") == numbered(count)


async def test_every_test_of_the_public_suite_passes(cluster: Cluster, tmp_path: Path) -> None:
    await until(cluster.is_whole)
    with StoreProcess(tmp_path / "store", cluster.url) as store:
        environment = {
            "STORE_URL": f"http://127.0.0.1:{store.port}",
            "STORE_LONG_POLL_MS": str(int(LONG_POLL_SECONDS * 1000)),
        }
        cases = await asyncio.to_thread(run_public_suite, "store-conformance.test.js", environment, tmp_path)
        store.stop()
    others = [case for case in cases if case.status != "passed" and case.group != OPTIONAL]
    assert not others, described(others)
    assert sum(case.status == "passed" for case in cases) >= PASSING
