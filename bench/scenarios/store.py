"""Our store and the npm server, both durable: `store`."""

import asyncio
import itertools
import time
import uuid
from functools import partial

from bench.figures import Metric, percentile
from bench.goals import Goal
from bench.peers import Store, start_store
from bench.profile import sampled
from bench.rig.content import EVENT, FlatCheck, flat
from bench.rig.http import BrokenRun
from bench.rig.load import Link, at_a_time
from bench.scenarios.plan import SHARES, Figures, Scenario, Trial, key
from bench.session import Session, opened

__all__ = ["STORE"]

_KIB = 1024
_DEADLINE_SECONDS = 90.0
_WARM_APPENDS = 20
_IDLE_SECONDS = 0.25


class _Producer:
    """One idempotent producer that appends pieces of a flat body, one append in flight, and can read them back."""

    def __init__(self, store: Store, link: Link, index: int, size: int) -> None:
        self.times: list[float] = []
        self.appends = 0
        self._link = link
        self._index = index
        self._size = size
        self._path = f"{store.path}{uuid.uuid4()}"
        self._host = f"Host: 127.0.0.1:{store.port}\r\n"

    async def create(self) -> None:
        """PUT."""
        reply = await self._link.ask(
            f"PUT {self._path} HTTP/1.1\r\n{self._host}Content-Type: application/octet-stream\r\n"
            f"Stream-TTL: 86400\r\nContent-Length: 0\r\n\r\n".encode()
        )
        if reply.status != 201:
            raise BrokenRun(f"a create was answered {reply.status}")

    async def append(self) -> None:
        """The next piece."""
        at = self.appends * self._size
        head = (
            f"POST {self._path} HTTP/1.1\r\n{self._host}Content-Type: application/octet-stream\r\n"
            f"Producer-Id: bench\r\nProducer-Epoch: 0\r\nProducer-Seq: {self.appends}\r\n"
            f"Content-Length: {self._size}\r\n\r\n"
        )
        request = head.encode() + b"".join(flat(self._index, at + self._size, at))
        self.appends += 1
        begun = time.monotonic_ns()
        reply = await self._link.ask(request)
        self.times.append((time.monotonic_ns() - begun) / 1e6)
        if reply.status != 200:
            raise BrokenRun(f"append {self.appends - 1} was answered {reply.status}")

    async def verify(self) -> None:
        """Read the whole stream back, in any number of responses, and compare."""
        check, offset = FlatCheck(), "-1"
        while True:
            reply = await self._link.ask(
                f"GET {self._path}?offset={offset} HTTP/1.1\r\n{self._host}\r\n".encode(), check.feed
            )
            offset = (reply.field(b"stream-next-offset") or b"").decode()
            if reply.status != 200 or not offset:
                raise BrokenRun(f"a read was answered {reply.status}")
            if reply.field(b"stream-up-to-date") is not None:
                break
        if not check.intact or check.index != self._index or check.received != self.appends * self._size:
            raise BrokenRun(f"a stream of {self.appends * self._size} bytes was read as {check.received}")


async def _measure_appends(name: str, width: int, size: int, seconds: float) -> Figures:
    store = await asyncio.to_thread(start_store, name)
    try:
        async with asyncio.timeout(_DEADLINE_SECONDS):
            links = [await Link.open(store.port) for _ in range(width)]
            producers = [_Producer(store, link, index + 1, size) for index, link in enumerate(links)]
            for producer in producers:
                await producer.create()
            await asyncio.gather(*(_appends(producer, _WARM_APPENDS) for producer in producers))
            for producer in producers:
                producer.times.clear()
            until = time.monotonic() + seconds
            wall, cpu = time.monotonic(), store.child.cpu()
            with sampled(store.child.pid):
                await asyncio.gather(*(_appends_until(producer, until) for producer in producers))
            wall, cpu = time.monotonic() - wall, store.child.cpu() - cpu
            for producer in producers:
                await producer.verify()
                producer._link.close()
    finally:
        await asyncio.to_thread(store.child.stop)
    times = list(itertools.chain.from_iterable(producer.times for producer in producers))
    return {
        "rate": len(times) / wall,
        "megabytes": len(times) * size / wall / 1e6,
        "p50": percentile(times, 50),
        "p99": percentile(times, 99),
        "append_cpu": cpu / len(times) * 1e6,
        "core": cpu / wall * 100,
    }


async def _appends(producer: _Producer, count: int) -> None:
    for _ in range(count):
        await producer.append()


async def _appends_until(producer: _Producer, until: float) -> None:
    while time.monotonic() < until:
        await producer.append()


async def _measure_through_proxy(count: int) -> Figures:
    """Small streams through the proxy into its embedded store: the CPU of all, until the process is idle again."""
    async with opened("proxy", embedded=True) as session, asyncio.timeout(_DEADLINE_SECONDS):
        await _create_all(session, 200)
        cpu, wall = session.peer.child.cpu(), time.monotonic()
        created = await _create_all(session, count)
        wall = time.monotonic() - wall
        cpu = session.peer.child.cpu() - cpu
        link = await Link.open(session.peer.port)
        for index, location in created.items():
            check = FlatCheck()
            reply = await link.ask(session.peer.ask("GET", f"{location}&offset=-1"), check.feed)
            session.verify(check, index, 10 * EVENT)
            if reply.field(b"stream-closed") != b"true" or reply.field(b"upstream-outcome") != b"complete":
                raise BrokenRun("a whole stream was not closed as complete")
        link.close()
        return {"stream_cpu": cpu / count * 1e3, "core": cpu / wall * 100}


async def _create_all(session: Session, count: int) -> dict[int, str]:
    """Creates, and waits until the process has nothing left to do; the signed locations by index."""
    created: dict[int, str] = {}

    async def create(link: Link, index: int) -> None:
        _, created[index] = await session.create(link, f"/events/{index}/10")

    await at_a_time(session.peer.port, 16, session.take_indices(count), create)
    used = -1.0
    while (now := session.peer.child.cpu()) - used > 0.005:
        used = now
        await asyncio.sleep(_IDLE_SECONDS)
    return created


_CASES = (("200 B × 32", 32, 200), ("64 KiB × 8", 8, 64 * _KIB), ("200 B alone", 1, 200))


def _store(quick: bool) -> list[Trial]:
    seconds = 1.0 if quick else 2.5
    trials = [
        Trial(case, peer, partial(_measure_appends, peer, width, size, seconds))
        for case, width, size in _CASES
        for peer in ("store", "npm")
    ]
    return [*trials, Trial("small streams", "proxy", partial(_measure_through_proxy, 500 if quick else 2000))]


STORE = Scenario(
    "store",
    "durable appends with producer headers: our store beside the npm server with a data directory",
    [
        Metric("rate", "appends a second", "/s", "higher"),
        Metric("megabytes", "body a second", "MB/s", "higher"),
        Metric("p50", "append, p50", "ms"),
        Metric("p99", "append, p99", "ms"),
        Metric("append_cpu", "CPU an append", "µs"),
        Metric("stream_cpu", "CPU a small stream, through the proxy", "ms"),
        *SHARES,
    ],
    [
        Goal("appends a second, 32 connections", key("200 B × 32", "rate", "store"), at_least=10_000, unit="/s"),
        Goal("the same, to the npm server's", key("200 B × 32", "rate", "store"), at_least=15,
             against=key("200 B × 32", "rate", "npm")),
        Goal("append p50, 32 connections", key("200 B × 32", "p50", "store"), at_most=4, unit="ms"),
        Goal("64 KiB appends, 8 connections", key("64 KiB × 8", "megabytes", "store"), at_least=100, unit="MB/s"),
        Goal("one append alone, p50", key("200 B alone", "p50", "store"), at_most=1.5, unit="ms"),
        Goal("CPU of a small stream through the proxy", key("small streams", "stream_cpu"), at_most=1.0, unit="ms"),
    ],
    _store,
    [
        "Every stream is read back whole and compared. A disk that is faster or slower moves all of these.",
        "Small streams: proxy and store in one process, both counted.",
    ],
    repeats=3,
)  # fmt: skip
