"""A primary and its replica, watched by a Sentinel: what happens to streams when another server takes over."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from tests.kit.engines import Engine, Sentinel, redis_binary, valkey_binary
from tests.kit.waiting import until
from tests.store.test_shared_faults import TEXT, content, insist, insistently, numbered, opened, produce

pytestmark = pytest.mark.slow

NAME = "streams"


@dataclass
class Group:
    """What a Sentinel watches."""

    primary: Engine
    replica: Engine
    sentinel: Sentinel

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:1,127.0.0.1:{self.sentinel.port}/{NAME}"

    async def is_synced(self) -> bool:
        return b"state=online" in self.primary.ask("INFO", "replication")

    async def is_known(self) -> bool:
        try:
            return b"num-slaves\r\n$1\r\n1" in self.sentinel.ask("SENTINEL", "MASTER", NAME)
        except OSError:
            return False


@pytest.fixture(params=["redis", "valkey"])
def group(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Group]:
    binary = valkey_binary() if request.param == "valkey" else redis_binary()
    if binary is None:
        pytest.skip(f"there is no {request.param}")
    with ExitStack() as stack:
        at_once = ("--repl-diskless-sync-delay", "0")
        primary = stack.enter_context(Engine(binary, tmp_path / "one", *at_once, has_port=True))
        follows = ("--replicaof", f"127.0.0.1 {primary.port}")
        replica = stack.enter_context(Engine(binary, tmp_path / "two", *at_once, *follows, has_port=True))
        yield Group(primary, replica, stack.enter_context(Sentinel(binary, tmp_path / "sentinel", primary, NAME)))


@pytest.mark.parametrize("how", ["kill", "switch"])
async def test_producers_go_on_at_the_next_primary_and_with_a_replica_nothing_is_lost(group: Group, how: str) -> None:
    await until(group.is_synced)
    await until(group.is_known)
    async with opened(group.url, replicas=1, patience_seconds=1.0) as (_, client):
        stop = asyncio.Event()
        for number in range(8):
            await insistently(partial(client.put, f"/{number}", **TEXT))
        events = await client.events("/0?offset=-1&live=sse")
        producing = [asyncio.create_task(produce(client, f"/{number}", stop)) for number in range(8)]
        await asyncio.sleep(0.3)
        if how == "kill":
            group.primary.kill()
        else:
            assert group.sentinel.ask("SENTINEL", "FAILOVER", NAME) == b"+OK\r\n"

        async def has_changed() -> bool:
            return group.replica.ask("ROLE").startswith(b"*3\r\n$6\r\nmaster")

        await until(has_changed)
        if how == "kill":  # its replica is alone now, and acknowledges nothing until it has one
            group.primary.start("--replicaof", f"127.0.0.1 {group.replica.port}")
        await asyncio.sleep(4)
        stop.set()
        counts = await asyncio.gather(*producing)
        assert min(counts) > 3
        for number, count in enumerate(counts):
            assert await content(client, f"/{number}") == numbered(count)
        await insist(client, "/0", b"!", counts[0])
        received = ""
        while not received.endswith("!"):
            async with asyncio.timeout(10):
                kind, payload = await events.next()
            received += payload if kind == "data" else ""
        assert received.encode() == numbered(counts[0]) + b"!"
        events.close()
