"""What happens at the edges: `max-bytes` (the cut), `held` (thousands idle), `slow-storage` (back-pressure)."""

import asyncio
from dataclasses import dataclass
from functools import partial

from bench.figures import Metric, percentile
from bench.goals import Goal
from bench.rig.content import EVENT
from bench.rig.http import BrokenRun
from bench.rig.load import Link, at_a_time, until
from bench.rig.sink import Sink
from bench.scenarios.plan import SHARES, Figures, Scenario, Trial, key
from bench.session import Run, Session, opened

__all__ = ["HELD", "MAX_BYTES", "SLOW_STORAGE"]

_MIB = 1_048_576
_KIB = 1024
_DEADLINE_SECONDS = 90.0
_UNLIMITED = str(1 << 40)


async def _pumped(session: Session, path: str, index: int, size: int) -> bytes:
    """One stream, created, stored to its end and checked; its id."""
    link = await Link.open(session.peer.port)
    stream_id, _ = await session.create(link, path)
    link.close()
    session.verify_stored(await session.sink.closed(stream_id), index, size)
    return stream_id


@dataclass(frozen=True, slots=True)
class _Bodies:
    """`count` bodies, one after another, against `limit`: endless ones, or ones of just that size."""

    limit: int
    count: int
    endless: bool
    limited: bool


async def _measure_cut(bodies: _Bodies) -> Figures:
    limit = str(bodies.limit) if bodies.limited else _UNLIMITED
    async with (
        opened("proxy", options=["--max-response-bytes", limit]) as session,
        asyncio.timeout(_DEADLINE_SECONDS),
    ):
        await _pass(session, bodies, 1 + bodies.count // 10)
        run = Run(size=bodies.limit, streams=bodies.count)
        async with session.measured(run):
            ids = await _pass(session, bodies, bodies.count)
        await session.verify_outcomes(ids, "truncated" if bodies.endless else "complete")
        figures = {
            "per_cpu": run.megabytes / run.cpu,
            "wall": run.megabytes / run.wall,
            "growth": max(0, run.memory_peak - run.memory_before) / _MIB,
            **run.shares,
        }
        if bodies.endless:
            figures["reaction"] = max([await _reaction(session, bodies.limit) for _ in range(3)])
        return figures


async def _pass(session: Session, bodies: _Bodies, count: int) -> list[bytes]:
    size = 0 if bodies.endless else bodies.limit
    indices = session.take_indices(count)
    return [await _pumped(session, f"/chunked/{index}/{size}", index, bodies.limit) for index in indices]


async def _reaction(session: Session, limit: int) -> float:
    """Milliseconds from sending the first byte past the limit until the upstream sees its connection cut.

    The upstream waits at the limit until storage has every byte, so that no queue is part of the time.
    """
    (index,) = session.take_indices(1)
    link = await Link.open(session.peer.port)
    stream_id, _ = await session.create(link, f"/until/{index}/{limit}")
    stored = session.sink.streams[stream_id]
    await until(lambda: stored.length >= limit)
    sent = session.upstream.go(index)
    session.verify_stored(await session.sink.closed(stream_id), index, limit)
    await until(lambda: index in session.upstream.closed_at)
    link.close()
    await session.verify_outcomes([stream_id], "truncated")
    return (session.upstream.closed_at[index] - sent) / 1e6


def _max_bytes(quick: bool) -> list[Trial]:
    trials = []
    for mebibytes, count in ((1, 100), (16, 12), (100, 3)):
        case, limit, much = f"{mebibytes} MiB", mebibytes * _MIB, max(1, count // 3) if quick else count
        trials += [
            Trial(case, "proxy", partial(_measure_cut, _Bodies(limit, much, endless=True, limited=True))),
            Trial(case, "proxy, not cut", partial(_measure_cut, _Bodies(limit, much, endless=False, limited=True))),
            Trial(case, "proxy, no limit", partial(_measure_cut, _Bodies(limit, much, endless=False, limited=False))),
        ]
    return trials


_LIMITS = ("1 MiB", "16 MiB", "100 MiB")

MAX_BYTES = Scenario(
    "max-bytes",
    "endless bodies against limits of 1, 16 and 100 MiB",
    [
        Metric("per_cpu", "body a CPU-second", "MB", "higher"),
        Metric("wall", "body a second", "MB/s", "higher"),
        Metric("reaction", "byte past the limit to upstream cut", "ms"),
        Metric("growth", "memory above the start", "MiB"),
        *SHARES,
    ],
    [
        *(
            Goal(f"upstream closed after the limit, {case}", key(case, "reaction"), at_most=50, unit="ms")
            for case in _LIMITS
        ),
        *(
            Goal(
                f"MB a CPU-second with the limit, {case}, to without",
                key(case, "per_cpu", "proxy, not cut"),
                at_least=0.98,
                against=key(case, "per_cpu", "proxy, no limit"),
            )
            for case in _LIMITS
        ),
        Goal("memory for 100 MiB", key("100 MiB", "growth"), at_most=8, unit="MiB"),
    ],
    _max_bytes,
    [
        "`proxy`: endless bodies; every stream is checked to hold exactly the limit and to be `truncated`. Each cut"
        " costs a connection, so the next body opens a new one.",
        "`not cut`: bodies that end by themselves just at the limit; `no limit`: the same with the limit far off.",
    ],
    repeats=3,
)


async def _measure_held(streams: int) -> Figures:
    """Memory of the process, first with idle transfers, then with an idle live reader on each."""
    async with opened("proxy") as session, asyncio.timeout(_DEADLINE_SECONDS):
        await session.run(lambda index: f"/events/{index}/10", 10 * EVENT, 16, count=200)
        indices = session.take_indices(streams)
        created: dict[int, tuple[bytes, str]] = {}

        async def open_one(link: Link, index: int) -> None:
            created[index] = await session.create(link, f"/held/{index}")

        child = session.peer.child
        empty = child.memory()
        await at_a_time(session.peer.port, 16, indices, open_one)
        stored = [session.sink.streams[stream_id] for stream_id, _ in created.values()]
        await until(lambda: all(stream.length == EVENT for stream in stored), 0.05)
        held = child.memory()
        idle_cpu = child.cpu()
        await asyncio.sleep(1.0)
        idle_cpu = child.cpu() - idle_cpu
        links = []
        for index in indices:
            links.append(await Link.open(session.peer.port))
            target = f"{created[index][1]}&offset=now&live=sse"
            reply = await links[-1].begin(session.peer.ask("GET", target))
            if reply.status != 200:
                raise BrokenRun(f"live reader {len(links)} was answered {reply.status}")
        await asyncio.sleep(0.5)
        parked = child.memory()
        for index in indices:
            session.upstream.finish(index)
        for index in indices:
            session.verify_stored(await session.sink.closed(created[index][0]), index, EVENT)
        for link in links:
            await link.finished()
            link.close()
        await session.verify_outcomes([created[index][0] for index in indices])
        return {
            "transfer": (held - empty) / streams / _KIB,
            "reader": (parked - held) / streams / _KIB,
            "idle": idle_cpu * 100,
        }


async def _measure_held_relay(streams: int) -> Figures:
    async with opened("nginx") as session, asyncio.timeout(_DEADLINE_SECONDS):
        child, indices, links = session.peer.child, session.take_indices(streams), []
        empty = child.memory()
        for index in indices:
            links.append(await Link.open(session.peer.port))
            await links[-1].begin(session.peer.request(f"/held/{index}"))
        held = child.memory()
        for index in indices:
            session.upstream.finish(index)
        for link in links:
            await link.finished()
            link.close()
        return {"transfer": (held - empty) / streams / _KIB}


def _held(quick: bool) -> list[Trial]:
    streams = 1000 if quick else 5000
    return [
        Trial("5,000 idle", "proxy", partial(_measure_held, streams)),
        Trial("5,000 idle", "nginx", partial(_measure_held_relay, streams)),
    ]


HELD = Scenario(
    "held",
    "5,000 streams open and idle, then 5,000 live readers on them",
    [
        Metric("transfer", "memory a transfer", "KiB"),
        Metric("reader", "memory a parked reader", "KiB"),
        Metric("idle", "core used by 5,000 idle transfers", "%"),
    ],
    [
        Goal("memory a transfer", key("5,000 idle", "transfer"), at_most=20, unit="KiB"),
        Goal("memory a parked reader", key("5,000 idle", "reader"), at_most=16, unit="KiB"),
    ],
    _held,
    ["Resident memory of the process over what it was before; a quick run holds 1,000 instead."],
    repeats=3,
)


async def _measure_slow(peer: str, streams: int, size: int, delay: float) -> Figures:
    async with opened(peer, sink=Sink(delay=delay)) as session:
        await session.run(lambda index: f"/events/{index}/10", 10 * EVENT, 8, count=8)
        run = await session.run(lambda index: f"/flat/{index}/{size}", size, streams, count=streams)
        batch = run.streams * run.size / run.appends
        took = percentile(run.ended, 50) / 1e3
        return {
            "memory": max(0, run.memory_peak - run.memory_before) / streams / _KIB,
            "batch": batch / _KIB,
            "stream": size / took / 1e6,
            "predicted": batch / delay / 1e6,
            "fit": (size / took) / (batch / delay),
        }


def _slow_storage(quick: bool) -> list[Trial]:
    size = (1 if quick else 2) * _MIB
    return [
        Trial("40 × 2 MiB", peer, partial(_measure_slow, peer, 40, size, 0.2), once=peer == "obvious")
        for peer in ("proxy", "obvious")
    ]


SLOW_STORAGE = Scenario(
    "slow-storage",
    "storage that takes 200 ms an append, 40 fast bodies of 2 MiB at once",
    [
        Metric("memory", "memory a stream at the peak", "KiB"),
        Metric("batch", "bytes an append", "KiB", "higher"),
        Metric("stream", "a stream's throughput", "MB/s", "higher"),
        Metric("predicted", "batch size / latency", "MB/s", ""),
        Metric("fit", "throughput over batch size / latency", "×", "higher"),
    ],
    [
        Goal("memory a stream, to the limit of 256 KiB", key("40 × 2 MiB", "memory"), at_most=256, unit="KiB"),
        Goal("throughput over batch size / latency", key("40 × 2 MiB", "fit"), at_least=0.9, unit="×"),
    ],
    _slow_storage,
    repeats=3,
)
