"""The pipe between a source and a taker, against a model: any order of events, the same bytes, no debt."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from proxy.http.body import BodyError, Cut, TooLarge, read_all
from proxy.http.pipe import Budget, Pipe, PipeLimits
from tests.kit.bodies import Silent

HIGH_WATER = 500
BUDGET = 900


def _run(work: Coroutine[Any, Any, tuple[bytes | memoryview, ...]]) -> tuple[bytes | memoryview, ...]:
    """A coroutine that must not have to wait."""
    try:
        work.send(None)
    except StopIteration as done:
        result: tuple[bytes | memoryview, ...] = done.value
        return result
    work.close()
    raise AssertionError("it waits")


class _Model:
    """One pipe and what is known of it."""

    def __init__(self, budget: Budget, allowed: int | None) -> None:
        self.source = Silent()
        self.pipe = Pipe(self.source, PipeLimits(HIGH_WATER, budget), max_bytes=allowed)
        self.fed = b""
        self.taken = b""
        self.lent = 0  # bytes that the last take gave
        self.allowed = allowed
        self.ending: Cut | bool | None = False  # False: not ended; None: whole
        self.is_dropped = False
        self.since_hungry = 0  # bytes fed since its taker had nothing
        self.was_over = False  # the budget was, at one of these feeds

    @property
    def waiting(self) -> bytes:
        if self.is_dropped:
            return b""
        return self.fed[: self.allowed][len(self.taken) :]

    def finish(self, cut: Cut | None) -> None:
        if self.ending is False:
            self.ending = cut


class PipeMachine(RuleBasedStateMachine):
    """Two pipes share a budget."""

    def __init__(self) -> None:
        super().__init__()
        self.models: list[_Model] = []

    @initialize(allowed=st.tuples(*[st.none() | st.integers(0, 900)] * 2))
    def make(self, allowed: tuple[int | None, int | None]) -> None:
        self.budget = Budget(BUDGET)
        self.models = [_Model(self.budget, each) for each in allowed]

    which = st.integers(0, 1)

    @rule(which=which, sizes=st.lists(st.integers(1, 400), min_size=1, max_size=3))
    def feed(self, which: int, sizes: list[int]) -> None:
        model = self.models[which]
        parts = [bytes([len(model.fed) + number & 255]) * size for number, size in enumerate(sizes)]
        model.pipe.feed(list(parts))
        model.since_hungry += sum(sizes)
        model.was_over = model.was_over or self.budget.used > BUDGET
        if model.ending is False:
            model.fed += b"".join(parts)
            if model.allowed is not None and len(model.fed) > model.allowed:
                model.ending = Cut.LIMIT

    @rule(which=which)
    def take(self, which: int) -> None:
        model = self.models[which]
        expected = model.waiting
        model.lent = 0
        if not expected and model.ending is False:
            with pytest.raises((AssertionError, RuntimeError)):  # it would wait, and there is no loop to wait in
                _run(model.pipe.take())
            if self.budget.used <= BUDGET:
                assert not model.source.is_paused
                model.since_hungry, model.was_over = 0, False
        elif not expected and model.ending is not None:
            with pytest.raises(BodyError) as caught:
                _run(model.pipe.take())
            assert caught.value.cut is model.ending
        else:
            assert b"".join(_run(model.pipe.take())) == expected
            model.taken += expected
            model.lent = len(expected)

    @rule(which=which)
    def take_nowait(self, which: int) -> None:
        model = self.models[which]
        expected = model.waiting
        model.lent = 0
        if not expected and model.ending not in (False, None):
            with pytest.raises(BodyError):
                model.pipe.take_nowait()
        else:
            assert b"".join(model.pipe.take_nowait()) == expected
            model.taken += expected
            model.lent = len(expected)

    @rule(which=which)
    def end(self, which: int) -> None:
        self.models[which].pipe.end()
        self.models[which].finish(None)

    @rule(which=which, cut=st.sampled_from([Cut.RESET, Cut.FRAMING]))
    def fail(self, which: int, cut: Cut) -> None:
        self.models[which].pipe.fail(cut)
        self.models[which].finish(cut)

    @rule(which=which, cut=st.sampled_from([Cut.ABORTED, Cut.IDLE]))
    def abort(self, which: int, cut: Cut) -> None:
        model = self.models[which]
        was_open = model.ending is False
        model.pipe.abort(cut)
        model.finish(cut)
        assert model.source.is_cut or not was_open

    @rule(which=which)
    def give_up(self, which: int) -> None:
        model = self.models[which]
        if model.waiting:
            model.ending = Cut.ABORTED
        model.pipe.close()
        model.finish(Cut.ABORTED)
        model.is_dropped = True
        model.lent = 0

    @invariant()
    def the_budget_counts_what_waits_and_what_is_in_a_takers_hand(self) -> None:
        in_memory = sum(len(model.waiting) + model.lent for model in self.models)
        assert in_memory <= self.budget.used
        assert bool(in_memory) == bool(self.budget.used)

    @invariant()
    def a_source_is_paused_when_much_waits_until_the_taker_has_nothing(self) -> None:
        for model in self.models:
            if model.ending is not False:
                assert not model.source.is_paused
            elif len(model.waiting) >= HIGH_WATER:
                assert model.source.is_paused
            elif model.since_hungry < HIGH_WATER // 3 and not model.was_over:
                assert not model.source.is_paused

    @invariant()
    def ended_tells_the_whole_truth(self) -> None:
        for model in self.models:
            assert model.pipe.ended == (model.ending is None and not model.waiting)

    def teardown(self) -> None:
        for model in self.models:
            model.pipe.close()
        assert self.budget.used == 0


TestPipe = PipeMachine.TestCase


def _pipe() -> Pipe:
    return Pipe(Silent(), PipeLimits(HIGH_WATER, Budget(BUDGET)))


async def test_a_waiting_take_gets_what_comes_and_a_cancelled_one_loses_nothing() -> None:
    pipe = _pipe()
    first = asyncio.ensure_future(pipe.take())
    await asyncio.sleep(0)
    pipe.feed([b"one"])
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert first.cancelled()
    pipe.feed([b"two"])
    assert await pipe.take() == (b"one", b"two")


async def test_a_taker_that_waits_for_room_is_fed_when_another_pipe_makes_it() -> None:
    budget, source = Budget(BUDGET), Silent()
    hungry, full = Pipe(source, PipeLimits(HIGH_WATER, budget)), Pipe(Silent(), PipeLimits(HIGH_WATER, budget))
    hungry.feed([bytes(HIGH_WATER)])
    await hungry.take()
    full.feed([bytes(BUDGET)])
    waiting = asyncio.ensure_future(hungry.take())
    await asyncio.sleep(0)
    assert source.is_paused
    assert await full.take()
    assert source.is_paused  # the other taker may still hold all of it
    holding = asyncio.ensure_future(full.take())
    await asyncio.sleep(0)
    assert not source.is_paused
    holding.cancel()
    hungry.end()
    assert await waiting == ()


async def test_a_taker_that_is_alone_goes_on_however_much_it_held() -> None:
    budget, source = Budget(BUDGET), Silent()
    pipe = Pipe(source, PipeLimits(HIGH_WATER, budget))
    pipe.feed([bytes(2 * BUDGET)])
    await pipe.take()
    assert budget.used > BUDGET
    assert source.is_paused
    waiting = asyncio.ensure_future(pipe.take())
    await asyncio.sleep(0)
    assert not source.is_paused
    pipe.end()
    assert await waiting == ()
    assert budget.used == 0


async def test_who_stops_at_a_whole_end_returns_what_it_holds_and_others_go_on() -> None:
    budget, source = Budget(BUDGET), Silent()
    limits = PipeLimits(HIGH_WATER, budget)
    hungry, done = Pipe(source, limits), Pipe(Silent(), limits)
    done.feed([bytes(2 * BUDGET)])
    done.end()
    await done.take()
    hungry.feed([b"more"])
    await hungry.take()
    waiting = asyncio.ensure_future(hungry.take())
    await asyncio.sleep(0)
    assert source.is_paused
    for _ in range(2):
        done.close()
        assert done.ended
        assert await done.take() == ()
    assert not source.is_paused
    assert budget.used == 0
    hungry.end()
    assert await waiting == ()


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_reading_all_of_a_body_leaves_nothing_counted_when_it_fails(is_cancelled: bool) -> None:
    budget = Budget(BUDGET)
    pipe = Pipe(Silent(), PipeLimits(HIGH_WATER, budget))
    reading = asyncio.ensure_future(read_all(pipe, 10))
    pipe.feed([bytes(10)])
    await asyncio.sleep(0)
    if is_cancelled:
        reading.cancel()
    pipe.feed([bytes(10)])
    with pytest.raises(asyncio.CancelledError if is_cancelled else TooLarge):
        await reading
    assert budget.used == 0


async def test_the_very_buffers_are_passed_on() -> None:
    pipe = _pipe()
    buffer = bytes(100)
    pipe.feed([buffer])
    (taken,) = await pipe.take()
    assert taken is buffer


@pytest.mark.parametrize("cut", [Cut.ABORTED, Cut.RESET, None])
async def test_an_abort_and_a_close_end_a_waiting_take(cut: Cut | None) -> None:
    pipe = _pipe()
    waiting = asyncio.ensure_future(pipe.take())
    await asyncio.sleep(0)
    if cut is None:
        pipe.close()
    else:
        pipe.abort(cut)
    with pytest.raises(BodyError) as caught:
        await waiting
    assert caught.value.cut is (cut or Cut.ABORTED)
