"""Tokens one by one: `tokens` (to storage), `growth` (many streams, the same rate)."""

import asyncio
import contextlib
from collections.abc import Iterator
from functools import partial

from bench.figures import Metric, percentile
from bench.goals import Goal
from bench.rig.content import EVENT, TimedCheck
from bench.rig.load import Link, at_a_time, until
from bench.rig.sink import Sink
from bench.scenarios.plan import SHARES, Figures, Scenario, Trial, key
from bench.session import Run, Session, opened

__all__ = ["DEADLINE_SECONDS", "EVENT_CPU", "GROWTH", "TOKENS", "ages", "measure_timed", "open_links", "play"]

EVENT_CPU = Metric("event_cpu", "CPU an event", "µs")
_EVENTS = Metric("events", "events an append", "", "")
DEADLINE_SECONDS = 90.0
_SETTLE_SECONDS = 0.2
_GROWTH_RATE = 1500  # with ten streams, events further apart than --append-interval-seconds, so that none are batched


def ages(latencies: list[int]) -> Figures:
    """Percentiles of how old events were when they arrived, in ms."""
    ages = [nanoseconds / 1e6 for nanoseconds in latencies]
    return {"p50": percentile(ages, 50), "p99": percentile(ages, 99), "worst": max(ages)}


async def measure_timed(peer: str, streams: int, period: float, rounds: int) -> Figures:
    """`streams` at once, with an event each `period` seconds on each. Opening and closing are not measured."""
    latencies: list[int] = []
    async with opened(peer, sink=Sink(lambda: TimedCheck(latencies))) as session, asyncio.timeout(DEADLINE_SECONDS):
        drive = _relayed if session.peer.relay else _pumped
        run = await drive(session, streams, period, rounds, latencies)
    events = streams * rounds
    return {
        "event_cpu": run.cpu / events * 1e6,
        **ages(latencies),
        "events": events / run.appends if run.appends else 1.0,
        **run.shares,
    }


async def play(session: Session, indices: range, period: float, rounds: int, latencies: list[int]) -> Run:
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
    run = await play(session, indices, period, rounds, latencies)
    for index in indices:
        session.upstream.finish(index)
    for index in indices:
        session.verify_stored(await session.sink.closed(ids[index]), index, rounds * EVENT)
    await session.verify_outcomes(list(ids.values()))
    return run


async def _relayed(session: Session, streams: int, period: float, rounds: int, latencies: list[int]) -> Run:
    indices = session.take_indices(streams)
    checks = {index: TimedCheck(latencies) for index in indices}
    with open_links() as links:
        for index in indices:
            links.append(await Link.open(session.peer.port))
            await links[-1].begin(session.peer.request(f"/timed/{index}"), checks[index].feed)
        run = await play(session, indices, period, rounds, latencies)
        for index, link in zip(indices, links, strict=True):
            session.upstream.finish(index)
            await link.finished()
            session.verify(checks[index], index, rounds * EVENT)
    return run


@contextlib.contextmanager
def open_links() -> Iterator[list[Link]]:
    """A list of connections to be filled. They are cut at the end of the block."""
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
    [EVENT_CPU, *_TO_STORAGE, _EVENTS, *SHARES],
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
    [EVENT_CPU, *_TO_STORAGE, _EVENTS, *SHARES],
    [
        Goal(f"CPU an event with {streams} streams, to that with 10", key(streams, "event_cpu"), at_most=1.25,
             against=key("10", "event_cpu"))
        for streams in ("100", "1,000", "4,000")
    ],
    _growth,
    ["The rate is such that with ten streams, too, an event has an append of its own."],
    repeats=3,
)  # fmt: skip
