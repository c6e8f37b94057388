"""Readers of what is being stored: `tail` (one on each of many streams), `fanout` (many on one stream)."""

import asyncio
import base64
from functools import partial

from bench.figures import Metric
from bench.goals import Goal
from bench.peers import start_store
from bench.process import LOAD_CORE
from bench.rig.content import EVENT, TimedCheck
from bench.rig.http import BrokenRun
from bench.rig.load import Link, until
from bench.scenarios.live import DEADLINE_SECONDS, EVENT_CPU, ages, measure_timed, open_links, play
from bench.scenarios.plan import SHARES, Figures, Scenario, Trial, key
from bench.session import Run, Session, opened

__all__ = ["FANOUT", "TAIL"]


class _Reader:
    """Follows one stream by SSE and feeds what its data events hold (base64) to a check."""

    def __init__(self, latencies: list[int]) -> None:
        self.check = TimedCheck(latencies)
        self.closed = False
        self.data_events = 0
        self._text = b""

    def feed(self, data: memoryview, now: int) -> None:
        """The next bytes of the SSE body."""
        *events, self._text = (self._text + bytes(data)).split(b"\n\n")
        for event in events:
            lines = event.split(b"\n")
            payload = b"".join(line[5:].strip() for line in lines if line.startswith(b"data:"))
            if b"event: data" in lines:
                self.data_events += 1
                self.check.feed(memoryview(base64.b64decode(payload)), now)
            elif b"event: control" in lines and b'"streamClosed":true' in payload.replace(b" ", b""):
                self.closed = True


async def measure_tail(storage: str, streams: int, period: float, rounds: int) -> Figures:
    """`measure_timed` with a reader on each stream. A latency ends when the reader has the event."""
    npm = await asyncio.to_thread(start_store, "npm", LOAD_CORE) if storage == "npm" else None
    latencies: list[int] = []
    try:
        async with (
            opened("proxy", storage_url=npm.url if npm else None, embedded=npm is None) as session,
            asyncio.timeout(DEADLINE_SECONDS),
        ):
            run = await _tailed(session, streams, period, rounds, latencies)
    finally:
        if npm:
            npm.child.stop()
    return {"event_cpu": run.cpu / (streams * rounds) * 1e6, **ages(latencies), **run.shares}


async def _tailed(session: Session, streams: int, period: float, rounds: int, latencies: list[int]) -> Run:
    indices = session.take_indices(streams)
    readers = {index: _Reader(latencies) for index in indices}
    with open_links() as links:
        for index in indices:
            link = await Link.open(session.peer.port)
            links.append(link)
            _, location = await session.create(link, f"/timed/{index}")
            reply = await link.begin(session.peer.ask("GET", f"{location}&offset=-1&live=sse"), readers[index].feed)
            if reply.status != 200:
                raise BrokenRun(f"a live read was answered {reply.status}")
        run = await play(session, indices, period, rounds, latencies)
        for index in indices:
            session.upstream.finish(index)
        for index, link in zip(indices, links, strict=True):
            await link.finished()
            session.verify(readers[index].check, index, rounds * EVENT)
            if not readers[index].closed:
                raise BrokenRun(f"the reader of stream {index} was not told that it is closed")
    return run


_TO_READER = [
    Metric("p50", "upstream write to reader, p50", "ms"),
    Metric("p99", "upstream write to reader, p99", "ms"),
    Metric("worst", "upstream write to reader, worst", "ms"),
]


def _tail(quick: bool) -> list[Trial]:
    rounds = 50 if quick else 200
    return [
        Trial("100 × 25/s", "proxy", partial(measure_tail, "embedded", 100, 0.04, rounds)),
        Trial("100 × 25/s", "nginx", partial(measure_timed, "nginx", 100, 0.04, rounds)),
        Trial("20 × 25/s", "proxy", partial(measure_tail, "embedded", 20, 0.04, rounds)),
        Trial("20 × 25/s", "proxy + npm", partial(measure_tail, "npm", 20, 0.04, rounds)),
    ]


TAIL = Scenario(
    "tail",
    "the same 100 streams with a live SSE reader on each",
    [
        EVENT_CPU,
        *_TO_READER,
        *SHARES,
    ],
    [Goal("upstream write → reader, p50, embedded store", key("100 × 25/s", "p50"), at_most=8, unit="ms")],
    _tail,
    [
        "`proxy` stores in its embedded store, durably and in its own process; `proxy + npm` in the npm server with a"
        " data directory, a process on the other core whose CPU is not counted; nginx stores nothing.",
        "The npm server cannot keep up with 100 streams; it is compared at 20.",
    ],
    repeats=3,
)  # fmt: skip


async def measure_fanout(readers: int, period: float, rounds: int) -> Figures:
    """One stream with so many readers, all of which check every byte. Its CPU is counted by event and reader."""
    latencies: list[int] = []
    options = ["--max-readers-per-stream", str(readers)]
    async with opened("proxy", embedded=True, options=options) as session, asyncio.timeout(DEADLINE_SECONDS):
        following = [_Reader(latencies) for _ in range(readers)]
        run = await _fanned_out(session, following, period, rounds)
    deliveries = readers * rounds
    return {
        "delivery_cpu": run.cpu / deliveries * 1e6,
        "batch": deliveries / sum(reader.data_events for reader in following),
        **ages(latencies),
        **run.shares,
    }


async def _fanned_out(session: Session, readers: list[_Reader], period: float, rounds: int) -> Run:
    (index,) = session.take_indices(1)
    with open_links() as links:
        links.append(await Link.open(session.peer.port))
        _, location = await session.create(links[0], f"/timed/{index}")
        for reader in readers:
            links.append(await Link.open(session.peer.port))
            reply = await links[-1].begin(session.peer.ask("GET", f"{location}&offset=-1&live=sse"), reader.feed)
            if reply.status != 200:
                raise BrokenRun(f"live reader {len(links) - 1} was answered {reply.status}")
        run = Run()
        async with session.measured(run):
            await session.upstream.play([index], period, rounds)
            await until(lambda: all(reader.check.events == rounds for reader in readers))
        session.upstream.finish(index)
        for reader, link in zip(readers, links[1:], strict=True):
            await link.finished()
            session.verify(reader.check, index, rounds * EVENT)
            if not reader.closed:
                raise BrokenRun("a reader was not told that the stream is closed")
    return run


def _fanout(quick: bool) -> list[Trial]:
    return [
        Trial("1 × 25/s", "proxy", partial(measure_fanout, 1, 0.04, 50 if quick else 200)),
        Trial("100 × 25/s", "proxy", partial(measure_fanout, 100, 0.04, 50 if quick else 200)),
        Trial("2,000 × 10/s", "proxy", partial(measure_fanout, 2000, 0.1, 20 if quick else 80)),
    ]


FANOUT = Scenario(
    "fanout",
    "one stream with 1, 100 and 2,000 live SSE readers",
    [
        Metric("delivery_cpu", "CPU an event and reader", "µs"),
        Metric("batch", "events in one data event", "", ""),
        *_TO_READER,
        *SHARES,
    ],
    [
        Goal("CPU an event and reader, 2,000 readers", key("2,000 × 10/s", "delivery_cpu"), at_most=12, unit="µs"),
        Goal("upstream write → reader, p99, 2,000 readers", key("2,000 × 10/s", "p99"), at_most=60, unit="ms"),
    ],
    _fanout,
    [
        "Stored in the embedded store. With one reader, the CPU is that of the stream, too.",
        "A proxy that cannot keep up puts several events into one data event: then an event costs less, and is late.",
    ],
    repeats=3,
)
