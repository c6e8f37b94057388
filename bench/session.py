"""One measurement: upstream, storage and one peer, streams driven through, every stream's bytes and end checked.

Owns the life of the three and the bookkeeping of CPU, time and memory around a run.
"""

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from bench.peers import Peer, start
from bench.profile import sampled
from bench.rig.content import Check, FlatCheck
from bench.rig.http import BrokenRun
from bench.rig.load import Link, at_a_time, for_seconds
from bench.rig.sink import Sink, Stored
from bench.rig.upstream import Upstream

__all__ = ["Run", "Session", "opened"]

_OUTCOMES_ASKED = 20  # streams of a run whose outcome is asked for afterwards; the bytes of all are checked
_SETTLE_SECONDS = 0.3
_DEADLINE_SECONDS = 100.0


@dataclass(slots=True)
class Run:
    """What a run cost: CPU and wall in seconds, memory in bytes, latencies in milliseconds."""

    streams: int = 0
    size: int = 0
    cpu: float = 0.0
    wall: float = 0.0
    rig_cpu: float = 0.0
    appends: int = 0
    memory_before: int = 0
    memory_peak: int = 0
    created: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)

    @property
    def shares(self) -> dict[str, float]:
        """How much of their cores the peer and the rig used, in percent."""
        return {"core": self.cpu / self.wall * 100, "rig": self.rig_cpu / self.wall * 100}

    @property
    def megabytes(self) -> float:
        """10^6 bytes of body."""
        return self.streams * self.size / 1e6


class Session:
    """A peer with its upstream and storage. Made by `opened`."""

    def __init__(self, peer: Peer, upstream: Upstream, sink: Sink) -> None:
        self.peer = peer
        self.upstream = upstream
        self.sink = sink
        self._next = 1
        self._asked: list[bytes] = []

    def take_indices(self, count: int) -> range:
        """Indices that no stream of this session has had."""
        self._next += count
        return range(self._next - count, self._next)

    async def create(self, link: Link, path: str) -> tuple[bytes, str]:
        """A stream by the proxy's protocol: its id and its signed location, once the 201 is here."""
        reply = await link.ask(self.peer.request(path))
        location = (reply.field(b"location") or b"").decode()
        stream_id = location.partition("?")[0].rpartition("/")[2]
        if reply.status != 201 or len(stream_id) != 36:
            raise BrokenRun(f"{self.peer.name} answered {reply.status} to a create")
        return stream_id.encode(), location

    async def run(
        self, path: Callable[[int], str], size: int, width: int, *, seconds: float = 0.0, count: int = 0
    ) -> Run:
        """Streams of `size` bytes from `path(index)`, `width` at a time, for `seconds` or `count` of them."""
        run = Run(size=size)

        async def job(link: Link, index: int) -> None:
            begun = time.monotonic_ns()
            if self.peer.relay:
                relayed = FlatCheck()
                reply = await link.ask(self.peer.request(path(index)), relayed.feed)
                if reply.status != 200:
                    raise BrokenRun(f"{self.peer.name} answered {reply.status}")
                run.created.append((reply.at - begun) / 1e6)
                self.verify(relayed, index, size)
            else:
                stream_id, _ = await self.create(link, path(index))
                run.created.append((time.monotonic_ns() - begun) / 1e6)
                stored = await self.sink.closed(stream_id)
                self.verify_stored(stored, index, size)
                self._finished(stream_id)
            run.ended.append((time.monotonic_ns() - begun) / 1e6)

        async with self.measured(run), asyncio.timeout(_DEADLINE_SECONDS):
            if seconds:
                run.streams = await for_seconds(self.peer.port, width, seconds, self._next, job)
                self._next += run.streams
            else:
                run.streams = count
                await at_a_time(self.peer.port, width, self.take_indices(count), job)
        await self.verify_outcomes(self._asked)
        for stream_id in self._asked:
            self.sink.forget(stream_id)
        self._asked.clear()
        return run

    @contextlib.asynccontextmanager
    async def measured(self, run: Run) -> AsyncIterator[Run]:
        """Fill in what the block costs the peer, and the rig."""
        child = self.peer.child
        run.memory_before = child.memory()
        child.reset_peak()
        asked, appends = self.upstream.requests, self.sink.appends
        wall, rig, cpu = time.monotonic(), time.process_time(), child.cpu()
        with sampled(child.pid):
            yield run
        if not child.alive():
            raise BrokenRun(f"{self.peer.name} died:\n{child.output}")
        run.cpu = child.cpu() - cpu
        run.wall = time.monotonic() - wall
        run.rig_cpu = time.process_time() - rig
        run.memory_peak = child.peak()
        run.appends = self.sink.appends - appends
        if run.streams and self.upstream.requests - asked != run.streams:
            raise BrokenRun(f"{self.upstream.requests - asked} upstream requests for {run.streams} streams")

    def verify(self, check: Check, index: int, size: int) -> None:
        """Raises BrokenRun unless exactly the right bytes arrived."""
        if not check.intact or check.index != index or check.received != size:
            raise BrokenRun(
                f"{self.peer.name}: stream {index} of {size} bytes came as {check.index} with {check.received}"
                f" bytes, {'intact' if check.intact else 'not intact'}"
            )

    def verify_stored(self, stored: Stored, index: int, size: int) -> None:
        """Raises BrokenRun unless a stream in storage is closed and has exactly the right bytes."""
        if stored.check is None or not stored.closed:
            raise BrokenRun(f"{self.peer.name}: stream {index} is no closed data stream")
        self.verify(stored.check, index, size)

    async def outcome(self, link: Link, stream_id: bytes) -> str:
        """The outcome that our proxy tells of a stream."""
        reply = await link.ask(self.peer.ask("HEAD", f"/v1/proxy/{stream_id.decode()}"))
        if reply.status != 200:
            raise BrokenRun(f"HEAD of a stream was answered {reply.status}")
        return (reply.field(b"upstream-outcome") or b"").decode()

    async def verify_outcomes(self, stream_ids: Sequence[bytes], expected: str = "complete") -> None:
        """Asks our proxy how some of the streams ended."""
        if self.peer.name != "proxy":
            return
        link = await Link.open(self.peer.port)
        for stream_id in stream_ids[:_OUTCOMES_ASKED]:
            if (outcome := await self.outcome(link, stream_id)) != expected:
                raise BrokenRun(f"a stream's outcome is {outcome!r}, not {expected!r}")
        link.close()

    def _finished(self, stream_id: bytes) -> None:
        if len(self._asked) < _OUTCOMES_ASKED:
            self._asked.append(stream_id)
        else:
            self.sink.forget(stream_id)


@contextlib.asynccontextmanager
async def opened(
    name: str,
    *,
    sink: Sink | None = None,
    storage_url: str | None = None,
    embedded: bool = False,
    options: Sequence[str] = (),
) -> AsyncIterator[Session]:
    """Starts all three and ends them. Storage is the null sink unless a URL or our embedded store is asked for."""
    upstream, sink = Upstream(), sink or Sink()
    await upstream.start()
    await sink.start()
    try:
        url = None if embedded else storage_url or sink.url
        starting = asyncio.ensure_future(asyncio.to_thread(start, name, upstream.port, url, options))
        try:
            peer = await asyncio.shield(starting)
        except asyncio.CancelledError:  # a thread is not cancelled, and would leave behind what it starts
            (await starting).child.stop()
            raise
        try:
            await asyncio.sleep(_SETTLE_SECONDS)  # start-up work of the peer that is not part of any figure
            gc.collect()
            gc.disable()
            yield Session(peer, upstream, sink)
        finally:
            gc.enable()
            await asyncio.to_thread(peer.child.stop)
    finally:
        await sink.stop()
        await upstream.stop()
