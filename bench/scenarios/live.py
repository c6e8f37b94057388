"""Tokens one by one: `tokens` (to storage), `growth` (many streams, the same rate), `tail` (to a reader)."""

import asyncio
import base64
import contextlib
from collections.abc import Iterator
from functools import partial

from bench.figures import Metric, percentile
from bench.goals import Goal
from bench.peers import start_store
from bench.process import LOAD_CORE
from bench.rig.content import EVENT, TimedCheck
from bench.rig.http import BrokenRun
from bench.rig.load import Link, at_a_time, until
from bench.rig.sink import Sink
from bench.scenarios.plan import SHARES, Figures, Scenario, Trial, key
from bench.session import Run, Session, opened

__all__ = ["GROWTH", "TAIL", "TOKENS", "measure_timed"]

_EVENT_CPU = Metric("event_cpu", "CPU an event", "µs")
_EVENTS = Metric("events", "events an append", "", "")
_DEADLINE_SECONDS = 90.0
_SETTLE_SECONDS = 0.2
_GROWTH_RATE = 1500  # with ten streams, events further apart than --append-interval-seconds, so that none are batched


def _ages(latencies: list[int]) -> Figures:
    ages = [nanoseconds / 1e6 for nanoseconds in latencies]
    return {"p50": percentile(ages, 50), "p99": percentile(ages, 99), "worst": max(ages)}


async def measure_timed(peer: str, streams: int, period: float, rounds: int) -> Figures:
    """`streams` at once, with an event each `period` seconds on each. Opening and closing are not measured."""
    latencies: list[int] = []
    async with opened(peer, sink=Sink(lambda: TimedCheck(latencies))) as session, asyncio.timeout(_DEADLINE_SECONDS):
        drive = _relayed if session.peer.relay else _pumped
        run = await drive(session, streams, period, rounds, latencies)
    events = streams * rounds
    return {
        "event_cpu": run.cpu / events * 1e6,
        **_ages(latencies),
        "events": events / run.appends if run.appends else 1.0,
        **run.shares,
    }


async def _play(session: Session, indices: range, period: float, rounds: int, latencies: list[int]) -> Run:
    """The measured part: until the last event has arrived where it is stored or read."""
    run = Run()
    await asyncio.sleep(_SETTLE_SECONDS)
    async with session.measured(run):
        await session.upstream.play(indices, period, rounds)
        await until(lambda: len(latencies) >= len(indices) * rounds)
    return run


async def _pumped(session: Session, streams: int, period: float, rounds: int, latencies: list[int]) -> Run:
    indices = session.take_indices(streams)
    ids: dict[int, bytes] = {}

    async def open_one(link: Link, index: int) -> None:
        ids[index], _ = await session.create(link, f"/timed/{index}")

    await at_a_time(session.peer.port, 16, indices, open_one)
    run = await _play(session, indices, period, rounds, latencies)
    for index in indices:
        session.upstream.finish(index)
    for index in indices:
        session.verify_stored(await session.sink.closed(ids[index]), index, rounds * EVENT)
    await session.verify_outcomes(list(ids.values()))
    return run


async def _relayed(session: Session, streams: int, period: float, rounds: int, latencies: list[int]) -> Run:
    indices = session.take_indices(streams)
    checks = {index: TimedCheck(latencies) for index in indices}
    with _links() as links:
        for index in indices:
            links.append(await Link.open(session.peer.port))
            await links[-1].begin(session.peer.request(f"/timed/{index}"), checks[index].feed)
        run = await _play(session, indices, period, rounds, latencies)
        for index, link in zip(indices, links, strict=True):
            session.upstream.finish(index)
            await link.finished()
            session.verify(checks[index], index, rounds * EVENT)
    return run


@contextlib.contextmanager
def _links() -> Iterator[list[Link]]:
    links: list[Link] = []
    try:
        yield links
    finally:
        for link in links:
            link.close()


def _tokens(quick: bool) -> list[Trial]:
    rounds = 50 if quick else 200
    return [
        Trial("100 × 25/s", "proxy", partial(measure_timed, "proxy", 100, 0.04, rounds)),
        Trial("100 × 25/s", "nginx", partial(measure_timed, "nginx", 100, 0.04, rounds)),
        Trial("4 × 25/s", "proxy", partial(measure_timed, "proxy", 4, 0.04, rounds)),
        Trial("4 × 25/s", "obvious", partial(measure_timed, "obvious", 4, 0.04, rounds)),
    ]


_TO_STORAGE = [
    Metric("p50", "upstream write to storage, p50", "ms"),
    Metric("p99", "upstream write to storage, p99", "ms"),
    Metric("worst", "upstream write to storage, worst", "ms"),
]

TOKENS = Scenario(
    "tokens",
    "100 streams with 25 events a second each, as language models send them",
    [_EVENT_CPU, *_TO_STORAGE, _EVENTS, *SHARES],
    [
        Goal("upstream write → storage, p50", key("100 × 25/s", "p50"), at_most=1.5, unit="ms"),
        Goal("upstream write → storage, p99", key("100 × 25/s", "p99"), at_most=15, unit="ms"),
        Goal("CPU an event", key("100 × 25/s", "event_cpu"), at_most=80, unit="µs"),
    ],
    _tokens,
    [
        "For nginx, to the client instead of to storage.",
        "The obvious proxy cannot keep up with 100 streams; it is compared at 4.",
    ],
    repeats=3,
)  # fmt: skip


def _growth(quick: bool) -> list[Trial]:
    seconds = 1.5 if quick else 4.0
    trials = []
    for streams in (10, 100, 1000, 4000):
        period = streams / _GROWTH_RATE
        rounds = max(2, round(seconds / period))
        trials.append(Trial(f"{streams:,}", "proxy", partial(measure_timed, "proxy", streams, period, rounds)))
    return trials


GROWTH = Scenario(
    "growth",
    f"10 to 4,000 open streams that share {_GROWTH_RATE:,} events a second",
    [_EVENT_CPU, *_TO_STORAGE, _EVENTS, *SHARES],
    [
        Goal(f"CPU an event with {streams} streams, to that with 10", key(streams, "event_cpu"), at_most=1.25,
             against=key("10", "event_cpu"))
        for streams in ("100", "1,000", "4,000")
    ],
    _growth,
    ["The rate is such that with ten streams, too, an event has an append of its own."],
    repeats=3,
)  # fmt: skip


class _Reader:
    """Follows one stream by SSE and feeds what its data events hold (base64) to a check."""

    def __init__(self, latencies: list[int]) -> None:
        self.check = TimedCheck(latencies)
        self.closed = False
        self._text = b""

    def feed(self, data: memoryview, now: int) -> None:
        """The next bytes of the SSE body."""
        *events, self._text = (self._text + bytes(data)).split(b"\n\n")
        for event in events:
            lines = event.split(b"\n")
            payload = b"".join(line[5:].strip() for line in lines if line.startswith(b"data:"))
            if b"event: data" in lines:
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
            asyncio.timeout(_DEADLINE_SECONDS),
        ):
            run = await _tailed(session, streams, period, rounds, latencies)
    finally:
        if npm:
            npm.child.stop()
    return {"event_cpu": run.cpu / (streams * rounds) * 1e6, **_ages(latencies), **run.shares}


async def _tailed(session: Session, streams: int, period: float, rounds: int, latencies: list[int]) -> Run:
    indices = session.take_indices(streams)
    readers = {index: _Reader(latencies) for index in indices}
    with _links() as links:
        for index in indices:
            link = await Link.open(session.peer.port)
            links.append(link)
            _, location = await session.create(link, f"/timed/{index}")
            reply = await link.begin(session.peer.ask("GET", f"{location}&offset=-1&live=sse"), readers[index].feed)
            if reply.status != 200:
                raise BrokenRun(f"a live read was answered {reply.status}")
        run = await _play(session, indices, period, rounds, latencies)
        for index in indices:
            session.upstream.finish(index)
        for index, link in zip(indices, links, strict=True):
            await link.finished()
            session.verify(readers[index].check, index, rounds * EVENT)
            if not readers[index].closed:
                raise BrokenRun(f"the reader of stream {index} was not told that it is closed")
    return run


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
        _EVENT_CPU,
        Metric("p50", "upstream write to reader, p50", "ms"),
        Metric("p99", "upstream write to reader, p99", "ms"),
        Metric("worst", "upstream write to reader, worst", "ms"),
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
