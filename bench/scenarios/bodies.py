"""Whole bodies through the pump: `create` (small ones), `bulk` (large ones), `dense` (many tiny chunks), `pump`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from bench.figures import Metric, percentile
from bench.goals import Goal
from bench.rig.content import EVENT
from bench.scenarios.live import measure_timed
from bench.scenarios.plan import SHARES, Figures, Scenario, Trial, key
from bench.session import Run, opened

__all__ = ["BULK", "CREATE", "DENSE", "PUMP"]

_PEERS = ("proxy", "nginx", "obvious")
_MIB = 1_048_576
_KIB = 1024

_CPU = Metric("cpu", "CPU a stream", "ms")
_PER_CPU = Metric("per_cpu", "body a CPU-second", "MB", "higher")
_RATE = Metric("rate", "streams a second", "/s", "higher")
_WALL = Metric("wall", "body a second", "MB/s", "higher")
_P50 = Metric("created_p50", "head answered, p50", "ms")
_P99 = Metric("created_p99", "head answered, p99", "ms")
_APPENDS = Metric("appends", "appends a stream", "", "")
_GROWTH = Metric("growth", "memory above the start", "MiB")


def _small(run: Run) -> Figures:
    return {
        "cpu": run.cpu / run.streams * 1e3,
        "rate": run.streams / run.wall,
        "created_p50": percentile(run.created, 50),
        "created_p99": percentile(run.created, 99),
        "appends": run.appends / run.streams,
        **run.shares,
    }


def _large(run: Run) -> Figures:
    return {
        "per_cpu": run.megabytes / run.cpu,
        "wall": run.megabytes / run.wall,
        "growth": max(0, run.memory_peak - run.memory_before) / _MIB,
        "appends": run.appends / run.streams,
        **run.shares,
    }


def _script(kind: str, count: int) -> Callable[[int], str]:
    return lambda index: f"/{kind}/{index}/{count}"


def _flat(size: int) -> Callable[[int], str]:
    return lambda index: f"/flat/{index}/{size}"


@dataclass(frozen=True, slots=True)
class _Shape:
    """Streams of `count` events by the upstream's script `kind`, `width` at a time."""

    kind: str
    count: int
    width: int


_SMALL = _Shape("events", 10, 16)


async def _measure_events(peer: str, shape: _Shape, seconds: float) -> Figures:
    path, size, width = _script(shape.kind, shape.count), shape.count * EVENT, shape.width
    async with opened(peer) as session:
        await session.run(path, size, width, count=width if peer == "obvious" else max(width, 2000 // shape.count))
        return _small(await session.run(path, size, width, seconds=seconds))


async def _measure_bulk(peer: str, size: int, width: int, seconds: float) -> Figures:
    async with opened(peer) as session:
        await session.run(_flat(size // 10), size // 10, width, count=width)
        if seconds:
            return _large(await session.run(_flat(size), size, width, seconds=seconds))
        return _large(await session.run(_flat(size), size, width, count=width))


def _create(quick: bool) -> list[Trial]:
    seconds = 1.0 if quick else 3.0
    return [Trial("small", peer, partial(_measure_events, peer, _SMALL, seconds)) for peer in _PEERS]


CREATE = Scenario(
    "create",
    "small streams: 10 events of 100 B, 16 streams at a time",
    [_CPU, _RATE, _P50, _P99, _APPENDS, *SHARES],
    [
        Goal(
            "CPU a stream, to nginx's a request", key("small", "cpu"), at_most=2, against=key("small", "cpu", "nginx")
        ),
        Goal(
            "CPU a stream, to the obvious proxy's",
            key("small", "cpu"),
            at_most=0.1,
            against=key("small", "cpu", "obvious"),
        ),
    ],
    _create,
    ["Each event is a write of its own, a turn of the upstream's loop apart. To nginx a stream is a relayed request."],
)


def _bulk(quick: bool) -> list[Trial]:
    seconds = 1.0 if quick else 2.5
    trials = [Trial("8 × 10 MiB", peer, partial(_measure_bulk, peer, 10 * _MIB, 8, seconds)) for peer in _PEERS]
    return trials + [
        Trial("1 × 100 MiB", peer, partial(_measure_bulk, peer, 100 * _MIB, 1, 0.0), once=peer == "obvious")
        for peer in _PEERS
    ]


BULK = Scenario(
    "bulk",
    "large bodies: 10 MiB 8 at a time, and 100 MiB alone",
    [_PER_CPU, _WALL, _GROWTH, _APPENDS, *SHARES],
    [
        Goal(
            f"MB a CPU-second, {case}, to nginx's",
            key(case, "per_cpu"),
            at_least=0.55,
            against=key(case, "per_cpu", "nginx"),
        )
        for case in ("8 × 10 MiB", "1 × 100 MiB")
    ],
    _bulk,
    ["nginx reads and writes 64 KiB at a time here: its default of 4 KiB would make it slower."],
    repeats=3,
)


def _dense(quick: bool) -> list[Trial]:
    seconds = 1.0 if quick else 2.5
    flushed, joined = _Shape("dense", 1000, 4), _Shape("burst", 1000, 4)
    return [
        *(Trial("flushed", peer, partial(_measure_events, peer, flushed, seconds)) for peer in _PEERS),
        *(Trial("one write", peer, partial(_measure_events, peer, joined, seconds)) for peer in _PEERS[:2]),
    ]


DENSE = Scenario(
    "dense",
    "1,000 chunked events of 100 B at full speed, 4 streams at a time",
    [_CPU, _RATE, _APPENDS, *SHARES],
    [
        Goal("CPU a stream, to nginx's", key("flushed", "cpu"), at_most=1.4, against=key("flushed", "cpu", "nginx")),
    ],
    _dense,
    [
        "Flushed: each event is a write of its own, so how many a read finds depends on how fast the reader is.",
        "One write: all events at once, what decoding alone costs.",
    ],
    repeats=3,
)


def _pump(quick: bool) -> list[Trial]:
    seconds = 1.0 if quick else 2.5
    trials = []
    for peer in ("proxy", "nginx"):
        trials += [
            Trial("small", peer, partial(_measure_events, peer, _SMALL, seconds)),
            Trial("8 × 10 MiB", peer, partial(_measure_bulk, peer, 10 * _MIB, 8, seconds)),
            Trial("1 × 100 MiB", peer, partial(_measure_bulk, peer, 100 * _MIB, 1, 0.0)),
            Trial("100 × 25/s", peer, partial(measure_timed, peer, 100, 0.04, 50 if quick else 125)),
        ]
    return trials


PUMP = Scenario(
    "pump",
    "the main job in four figures: a small stream, large bodies, tokens, memory",
    [_CPU, _PER_CPU, Metric("event_cpu", "CPU an event", "µs"), Metric("p50", "to storage, p50", "ms"),
     Metric("p99", "to storage, p99", "ms"), _GROWTH, _APPENDS, *SHARES],
    [
        Goal("CPU of a whole small stream", key("small", "cpu"), at_most=0.6, unit="ms"),
        Goal("MB a CPU-second, 10 MiB bodies", key("8 × 10 MiB", "per_cpu"), at_least=800, unit="MB"),
        Goal("CPU an event, 100 streams × 25/s", key("100 × 25/s", "event_cpu"), at_most=100, unit="µs"),
        Goal("memory for 100 MiB through one stream", key("1 × 100 MiB", "growth"), at_most=8, unit="MiB"),
    ],
    _pump,
    repeats=3,
)  # fmt: skip
