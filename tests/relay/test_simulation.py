"""Seeded schedules of upstream, pump and a storage that loses answers, against the invariants of a stream.

I1 a gap-free, duplicate-free prefix; I2 and I3 what was acknowledged stays where it is; I4 an outcome within a bound;
I5 `complete` only when whole; I7 memory bounded; I8 nothing left; I9 made before it is answered; I10 one writer.
"""

import asyncio
import random
from functools import cache

import pytest

from proxy.http.body import Cut
from proxy.http.message import ExchangeError, Fault, Request, Response
from proxy.http.pipe import Budget, PipeLimits
from proxy.streams.answers import StorageError
from proxy.wire.headers import Headers
from tests.kit.bodies import Tap
from tests.kit.memory_storage import MemoryStorage
from tests.kit.oracle import SIZE, check, piece
from tests.kit.virtual_time import run_in_virtual_time
from tests.relay.kit import RECORD, Relay, ending

HIGH_WATER = 16 * SIZE
STREAMS = 6
PIECES = 60
CLOSED = "the pump closed the body"


class World:
    """Storage in trouble: late, losing requests and answers, sometimes down for long; and what it acknowledged."""

    def __init__(self, dice: random.Random, memory: MemoryStorage) -> None:
        self.dice = dice
        self.memory = memory
        self.trouble = dice.choice((0.0, 0.1, 0.4))
        self.down_until = 0.0
        self.busy: set[bytes] = set()
        self.acknowledged: dict[str, int] = {}  # bytes by path

    async def __call__(self, request: Request) -> Response:
        target = request.target.partition(b"?")[0]
        is_append = request.method == b"POST"
        if is_append:
            assert target not in self.busy, "two writers of one stream"
            self.busy.add(target)
        try:
            return await self._answer(request, target.decode(), is_append=is_append)
        finally:
            self.busy.discard(target)

    async def _answer(self, request: Request, path: str, *, is_append: bool) -> Response:
        dice = self.dice
        await asyncio.sleep(dice.choice((0.0, 0.001, 0.02)))
        now = asyncio.get_running_loop().time()
        if self.trouble and dice.random() < 0.003:
            self.down_until = now + dice.choice((5.0, 200.0))
        if now < self.down_until:
            raise ExchangeError(Fault.CONNECT, sent=False)
        fate = dice.random() if request.method in (b"POST", b"PUT") else 1.0
        if fate < self.trouble / 2:
            return self._refusal()
        before = self.memory.streams[path].data if path in self.memory.streams else b""
        response = await self.memory(request)
        stream = self.memory.streams.get(path)
        assert stream is None or stream.data.startswith(before)
        if fate < self.trouble:
            raise ExchangeError(dice.choice((Fault.RESET, Fault.TIMEOUT)), sent=True)
        if is_append and stream is not None and response.status in (200, 204):
            self.acknowledged[path] = len(stream.data)
        return response

    def _refusal(self) -> Response:
        kind = self.dice.randrange(4)
        if kind == 0:
            raise ExchangeError(Fault.RESET, sent=True)
        if kind == 1:
            return Response(429, Headers([(b"retry-after", b"1")]))
        return Response(503 if kind == 2 else 500, Headers())


async def upstream(dice: random.Random, tap: Tap, seed: int, number: int) -> tuple[int, Cut | str | None]:
    """Feeds pieces, cut anywhere, at any pace; returns how many bytes came and how it ended."""
    sent = 0
    fate = dice.choice((None, None, Cut.RESET, Cut.FRAMING, Cut.ABORTED, Cut.SHUTDOWN))
    last = PIECES if fate is None else dice.randrange(PIECES)
    rest = b"".join(piece(seed, number, index) for index in range(last))
    while rest and not tap.is_cut:
        if tap.is_paused:
            await asyncio.sleep(0.01)
            continue
        size = dice.randrange(1, 4 * SIZE)
        data, rest = rest[:size], rest[size:]
        half = dice.randrange(len(data) + 1)
        tap.feed(*(part for part in (data[:half], memoryview(data)[half:]) if len(part)))
        sent += len(data)
        if dice.random() < 0.6:
            await asyncio.sleep(dice.choice((0.0, 0.0001, 0.004, 0.1)))
    if tap.is_cut:
        return sent, CLOSED
    if fate is None:
        tap.body.end()
    elif fate in (Cut.ABORTED, Cut.SHUTDOWN):
        tap.body.abort(fate)
    else:
        tap.body.fail(fate)
    return sent, fate


OUTCOMES: dict[Cut | str | None, set[str | None]] = {
    None: {None, "storage_error"},
    Cut.RESET: {"upstream_error", "storage_error"},
    Cut.FRAMING: {"upstream_error", "storage_error"},
    Cut.ABORTED: {"aborted", "storage_error"},
    Cut.SHUTDOWN: {"interrupted", "storage_error"},
    CLOSED: {"storage_error"},
}


async def one_run(seed: int) -> list[str]:
    dice = random.Random(seed)
    random.seed(seed)  # of the producers' jitter
    memory = MemoryStorage()
    world = World(dice, memory)
    budget = Budget(STREAMS * HIGH_WATER)
    relay = Relay.over(world)
    relay.transfers.open()
    taps = [Tap(PipeLimits(HIGH_WATER, budget)) for _ in range(STREAMS)]

    async def one(number: int) -> str:
        name, tap = f"stream-{number}", taps[number]
        await asyncio.sleep(dice.random())
        try:
            await relay.start(tap, name)
        except StorageError:  # a create is not retried for long: its caller is waiting
            assert tap.is_cut
            return "refused"
        assert memory.named(name) is not None
        assert memory.named(f"{name}.record") is not None
        transfer = relay.transfers.get(name)
        sent, fate = await upstream(dice, tap, seed, number)
        began = asyncio.get_running_loop().time()
        if transfer is not None:
            await transfer.ended.wait()
        assert asyncio.get_running_loop().time() - began < 1000
        data, is_closed, outcome = ending(memory, name)
        check(data, seed, number)
        assert is_closed, "a reader would wait for ever"
        assert len(data) <= sent
        assert len(data) >= world.acknowledged[f"/v1/streams/{name}"]
        assert outcome in OUTCOMES[fate]
        if outcome != "storage_error":
            assert len(data) == sent
        if outcome is None:
            assert (fate, len(data)) == (None, PIECES * SIZE)
        record = await Relay.over(memory).endings.record(name, is_closed=True)  # a reader whose storage answers
        assert record is not None
        assert record.content_type == RECORD.content_type
        return outcome or "complete"

    outcomes = await asyncio.gather(*map(one, range(STREAMS)))
    assert budget.used == 0
    async with asyncio.timeout(100):  # what was half made is removed after its caller was answered
        await relay.transfers.drain(100.0)
    assert len(relay.transfers) == 0
    await relay.aclose()
    return outcomes


@cache
def outcomes_of(seed: int) -> tuple[str, ...]:
    """The outcomes of one run, which is made once."""
    return tuple(run_in_virtual_time(one_run(seed)))


@pytest.mark.parametrize("block", range(8))
def test_every_schedule_keeps_the_invariants(block: int) -> None:
    for seed in range(block * 10, block * 10 + 10):
        try:
            outcomes_of(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise


def test_the_schedules_reach_every_outcome() -> None:
    seen = {outcome for seed in range(80) for outcome in outcomes_of(seed)}
    assert seen == {"complete", "upstream_error", "aborted", "interrupted", "storage_error", "refused"}


def test_the_same_seed_gives_the_same_run() -> None:
    assert run_in_virtual_time(one_run(3)) == run_in_virtual_time(one_run(3))
