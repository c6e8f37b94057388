"""Transfers from create to recorded outcome: faults of storage, races between ways to end one, what is left."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from proxy.base.errors import Code, Refusal
from proxy.http.body import EMPTY, Cut
from proxy.http.message import Request, Response
from proxy.http.pipe import Budget, PipeLimits
from proxy.relay.takeover import OWNER
from proxy.streams.answers import StorageError
from proxy.streams.names import Outcome
from tests.kit.bodies import Tap
from tests.kit.handlers import Failing, Failure, Recording, Slow, answer, bug, lost
from tests.kit.memory_storage import Forgetting, MemoryStorage
from tests.kit.virtual_time import in_virtual_time, run_in_virtual_time
from tests.relay.kit import ID, RECORD, Relay, ending, is_append

OTHER = ID.replace("8", "9")


async def ended(relay: Relay, stream_id: str = ID) -> None:
    """Return when the transfer is over."""
    transfer = relay.transfers.get(stream_id)
    if transfer is not None:
        await transfer.ended.wait()


@in_virtual_time
async def test_stream_and_record_exist_before_start_returns_and_the_end_needs_no_more() -> None:
    memory = MemoryStorage()
    relay = Relay.over(memory)
    tap = Tap()
    await relay.start(tap)
    assert sorted(memory.log) == [f"PUT {ID}", f"PUT {ID}.record"]
    tap.feed(b"one")
    tap.body.end()
    await ended(relay)
    assert ending(memory) == (b"one", True, None)
    assert memory.log[2:] == [f"POST {ID}"]
    assert len(relay.transfers) == 0
    await relay.aclose()


@in_virtual_time
async def test_an_upstream_without_a_body_makes_an_empty_closed_stream() -> None:
    memory = MemoryStorage()
    relay = Relay.over(memory)
    for _ in range(2):  # EMPTY is shared: the first must leave it as it was
        memory.streams.clear()
        await relay.transfers.start(ID, EMPTY, RECORD)
        await ended(relay)
        assert ending(memory) == (b"", True, None)
    await relay.aclose()


@pytest.mark.parametrize(
    ("cut", "outcome"),
    [
        (Cut.RESET, "upstream_error"),
        (Cut.FRAMING, "upstream_error"),
        (Cut.IDLE, "timeout"),
        (Cut.ABORTED, "aborted"),
        (Cut.SHUTDOWN, "interrupted"),
    ],
)
@in_virtual_time
async def test_a_cut_is_recorded_before_the_stream_is_closed(cut: Cut, outcome: str) -> None:
    memory = MemoryStorage()
    relay = Relay.over(memory)
    tap = Tap()
    await relay.start(tap)
    tap.feed(b"one")
    tap.body.fail(cut)
    await ended(relay)
    assert ending(memory) == (b"one", True, outcome)
    assert memory.log[2:] == [f"POST {ID}", f"POST {ID}.record", f"POST {ID}"]
    record = await relay.endings.record(ID, is_closed=True)
    assert record is not None
    assert record.outcome is Outcome(outcome)
    await relay.aclose()


@pytest.mark.parametrize("fed", [[5], [9], [10], [3, 3, 3, 1], [3, 8]])
@in_virtual_time
async def test_exactly_the_limit_is_stored_and_one_byte_more_cuts_the_upstream(fed: list[int]) -> None:
    memory = MemoryStorage()
    relay = Relay.over(memory)
    tap = Tap(max_bytes=9)
    await relay.start(tap)
    for size in fed:
        tap.feed(b"x" * size)
    over = sum(fed) > 9
    assert tap.is_cut is over
    tap.body.end()
    await ended(relay)
    assert ending(memory) == (b"x" * min(9, sum(fed)), True, "truncated" if over else None)
    await relay.aclose()


@in_virtual_time
async def test_deadlines_count_from_the_last_byte_and_from_the_beginning() -> None:
    memory = MemoryStorage()
    relay = Relay.over(memory, inactivity_timeout_seconds=10.0, max_transfer_seconds=60.0)
    relay.transfers.open()
    loop = asyncio.get_running_loop()
    quiet, busy = Tap(), Tap()
    await relay.start(quiet)
    await relay.start(busy, OTHER)

    async def feed() -> None:
        while not busy.is_cut:
            busy.feed(b"x")
            await asyncio.sleep(5)

    feeding = asyncio.ensure_future(feed())
    await asyncio.sleep(6)
    quiet.feed(b"late")
    await ended(relay)
    assert 16.0 <= loop.time() <= 16.5
    await ended(relay, OTHER)
    assert 60.0 <= loop.time() <= 60.5
    assert (quiet.is_cut, busy.is_cut) == (True, True)
    assert (ending(memory)[2], ending(memory, OTHER)[2]) == ("timeout", "timeout")
    await feeding
    await relay.aclose()


@in_virtual_time
async def test_bytes_that_came_while_the_process_was_stopped_are_taken_before_a_deadline_counts() -> None:
    memory = MemoryStorage()
    relay = Relay.over(memory, inactivity_timeout_seconds=5.0)
    relay.transfers.open()
    loop = asyncio.get_running_loop()
    tap = Tap()
    await relay.start(tap)
    # The loop reads sockets one turn after the timers that are due with them.
    loop.call_at(loop.time() + 5.0, loop.call_soon, tap.feed, b"one")
    await asyncio.sleep(9)
    assert not tap.is_cut
    tap.body.end()
    await ended(relay)
    assert ending(memory) == (b"one", True, None)
    await relay.aclose()


@in_virtual_time
async def test_slow_storage_does_not_count_as_a_silent_upstream() -> None:
    memory = MemoryStorage()
    slow = Slow(memory, when=is_append)
    relay = Relay.over(slow, inactivity_timeout_seconds=5.0)
    relay.transfers.open()
    tap = Tap()
    await relay.start(tap)
    tap.feed(b"one")
    await asyncio.sleep(50)
    assert not tap.is_cut
    slow.open()
    tap.body.end()
    await ended(relay)
    assert ending(memory) == (b"one", True, None)
    await relay.aclose()


# Storage fails when the stream is made

CREATE_FAULTS: list[Failure] = [
    answer(500), answer(503), answer(507), answer(401), lost(), lost(sent=False)
]  # fmt: skip


@pytest.mark.parametrize("which", ["", ".record"])
@pytest.mark.parametrize("fault", CREATE_FAULTS)
@in_virtual_time
async def test_what_cannot_be_made_leaves_nothing_and_cuts_the_upstream(which: str, fault: Failure) -> None:
    memory = MemoryStorage()
    failing = Failing(memory, when=lambda r: r.method == b"PUT" and r.target.decode().endswith(ID + which))
    failing.always = fault
    relay = Relay.over(failing)
    tap = Tap()
    with pytest.raises(StorageError):
        await relay.start(tap)
    await asyncio.sleep(0)
    assert tap.is_cut
    await ended(relay)
    assert memory.streams == {}
    assert len(relay.transfers) == 0
    await relay.aclose()


@pytest.mark.parametrize("which", ["", ".record"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("fault", [answer(503), answer(500), lost()])
@in_virtual_time
async def test_a_create_that_storage_refuses_for_a_while_is_tried_again(
    which: str, after: bool, fault: Failure
) -> None:
    memory = MemoryStorage()
    failing = Failing(memory, when=lambda r: r.method == b"PUT" and r.target.decode().endswith(ID + which))
    relay = Relay.over(failing.then(fault, times=3, after=after))
    tap = Tap()
    await relay.start(tap)
    tap.feed(b"one")
    tap.body.end()
    await ended(relay)
    assert ending(memory) == (b"one", True, None)
    await relay.aclose()


@in_virtual_time
async def test_the_caller_is_answered_before_what_was_half_made_is_removed() -> None:
    memory = MemoryStorage()
    failing = Failing(memory, when=lambda r: r.method == b"PUT" and r.target.endswith(b".record"))
    failing.always = answer(400)
    slow = Slow(failing, when=lambda r: r.method == b"DELETE")
    relay = Relay.over(slow)
    with pytest.raises(StorageError):
        await relay.start(Tap())
    assert asyncio.get_running_loop().time() < 1
    assert memory.named(ID) is not None
    slow.open()
    await ended(relay)
    assert memory.streams == {}
    await relay.aclose()


@pytest.mark.parametrize("which", ["", ".record"])
def test_a_fault_of_ours_before_the_start_is_no_success(which: str, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        memory = MemoryStorage()
        failing = Failing(memory, when=lambda r: r.method == b"PUT" and r.target.decode().endswith(ID + which))
        relay = Relay.over(failing.then(bug()))
        tap = Tap()
        with pytest.raises(StorageError):
            await relay.start(tap)
        await ended(relay)
        assert tap.is_cut
        assert memory.streams == {}
        await relay.aclose()

    run_in_virtual_time(main())
    assert "a fault of ours" in caplog.text


def test_a_fault_of_ours_in_mid_stream_still_ends_it_with_an_outcome(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        memory = MemoryStorage()
        failing = Failing(memory, when=lambda r: r.method == b"POST")
        relay = Relay.over(failing)
        tap = Tap()
        await relay.start(tap)
        tap.feed(b"one")
        await asyncio.sleep(1)
        failing.then(bug())
        tap.feed(b"two")
        await ended(relay)
        assert tap.is_cut
        assert ending(memory) == (b"one", True, "interrupted")
        await relay.aclose()

    run_in_virtual_time(main())
    assert "a fault of ours" in caplog.text


@in_virtual_time
async def test_a_caller_who_leaves_before_the_answer_leaves_nothing() -> None:
    memory = MemoryStorage()
    slow = Slow(memory, when=lambda r: r.method == b"PUT")
    relay = Relay.over(slow)
    tap = Tap()
    tap.feed(b"one")
    start = asyncio.ensure_future(relay.start(tap))
    await slow.arrived.wait()
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert tap.is_cut
    slow.open()
    await ended(relay)
    assert memory.log.count(f"DELETE {ID}") == 1
    assert memory.streams == {}
    await relay.aclose()


def test_a_caller_who_leaves_in_the_moment_of_success_leaves_nothing() -> None:
    async def main(steps: int) -> bool:
        memory = MemoryStorage()
        relay = Relay.over(memory)
        tap = Tap()
        tap.feed(b"one")
        start = asyncio.ensure_future(relay.start(tap))
        for _ in range(steps):
            await asyncio.sleep(0)
        if start.done():
            tap.body.end()
            await ended(relay)
            await relay.aclose()
            return False
        start.cancel()
        with pytest.raises(asyncio.CancelledError):
            await start
        await ended(relay)
        assert tap.is_cut
        assert memory.streams == {}
        relay.transfers.reserve()  # the place came back
        relay.transfers.release()
        await relay.aclose()
        return True

    steps = 1
    while run_in_virtual_time(main(steps)):
        steps += 1
    assert steps > 3


# Storage fails in the middle


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (answer(503), "storage_error"),
        (lost(), "storage_error"),
        (answer(400), "storage_error"),
        (answer(401), "storage_error"),
        (answer(409, (b"producer-expected-seq", b"0")), "storage_error"),
    ],
)
@pytest.mark.parametrize("after", [False, True])
@in_virtual_time
async def test_storage_that_refuses_for_too_long_ends_the_stream_with_what_it_acknowledged(
    fault: Failure, outcome: str, after: bool
) -> None:
    memory = MemoryStorage()
    failing = Failing(memory, when=is_append)
    relay = Relay.over(failing)
    tap = Tap()
    await relay.start(tap)
    tap.feed(b"one")
    await asyncio.sleep(1)
    failing.then(fault, after=after)
    failing.always = fault
    tap.feed(b"two")
    await asyncio.sleep(61)
    assert tap.is_cut
    assert relay.transfers.get(ID) is not None
    failing.always = None
    await ended(relay)
    data, is_closed, found = ending(memory)
    assert (is_closed, found) == (True, outcome)
    assert data == (b"onetwo" if after else b"one")
    await relay.aclose()


def fails_from_now_on(failing: Failing, fault: Failure, *, after: bool) -> None:
    failing.then(fault, after=after)
    failing.always = fault


@pytest.mark.parametrize("fault", [answer(503), lost(), answer(400)])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("which", ["both", "record", "stream"])
@in_virtual_time
async def test_an_end_that_storage_does_not_take_for_hours_is_taken_once_it_works(
    fault: Failure, after: bool, which: str, caplog: pytest.LogCaptureFixture
) -> None:
    memory = MemoryStorage()
    kinds = {"both": (True, False), "record": (True,), "stream": (False,)}[which]
    failing = Failing(memory, when=lambda r: r.method == b"POST" and r.target.endswith(b".record") in kinds)
    relay = Relay.over(failing, max_transfers=1)
    tap = Tap()
    await relay.start(tap)
    tap.feed(b"one")
    await asyncio.sleep(1)
    fails_from_now_on(failing, fault, after=after)
    tap.body.fail(Cut.RESET)
    await asyncio.sleep(700)
    assert len(relay.transfers) == 0  # it keeps no place
    relay.transfers.reserve()
    relay.transfers.release()
    await relay.transfers.drain(1000.0)  # and nobody waits for it
    assert asyncio.get_running_loop().time() < 702
    before = failing.met
    await asyncio.sleep(7200)
    assert 100 <= failing.met - before <= 300
    failing.always = None
    mended = asyncio.get_running_loop().time()
    await ended(relay)
    assert asyncio.get_running_loop().time() - mended <= 60
    assert ending(memory) == (b"one", True, "upstream_error")
    assert memory.streams[f"/v1/streams/{ID}.record"].data.count(b"outcome") == 1
    assert len(caplog.records) == 2
    assert len(relay.transfers) == 0
    await relay.aclose()


@in_virtual_time
async def test_a_start_cancelled_at_its_last_moment_is_removed_though_storage_takes_no_end() -> None:
    memory = MemoryStorage()
    failing = Failing(memory, when=lambda r: r.method == b"POST")
    failing.always = answer(503)
    relay = Relay.over(failing)
    starting = asyncio.ensure_future(relay.start(Tap()))
    while (transfer := relay.transfers.get(ID)) is None or not transfer.established.is_set():  # noqa: ASYNC110  # that very turn
        await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    await asyncio.sleep(1000)
    assert relay.transfers.get(ID) is None
    assert not memory.streams
    await relay.aclose()


@in_virtual_time
async def test_streams_that_are_left_open_are_bounded_too() -> None:
    memory = MemoryStorage()
    failing = Failing(memory, when=lambda r: r.method == b"POST")
    failing.always = answer(400)
    relay = Relay.over(failing, max_transfers=2)
    for number in range(4):
        tap = Tap()
        await relay.start(tap, f"{number}")
        tap.feed(b"one")
        await asyncio.sleep(1)
        assert len(relay.transfers) == 0
    with pytest.raises(Refusal) as refused:
        relay.transfers.reserve()
    assert refused.value.code is Code.OVERLOADED
    failing.always = None
    await asyncio.sleep(100)
    relay.transfers.reserve()
    relay.transfers.release()
    for number in range(4):
        assert ending(memory, f"{number}") == (b"", True, "storage_error")
    await relay.aclose()


@pytest.mark.parametrize("at", [100, 700, 5000])
@in_virtual_time
async def test_a_stream_that_another_closed_is_recorded_once_storage_works(at: int) -> None:
    memory = MemoryStorage()
    failing = Failing(memory, when=lambda r: r.target.partition(b"?")[0].endswith(b".record"))
    relay, other = Relay.over(failing), Relay.over(memory)
    tap = Tap()
    await relay.start(tap)
    tap.feed(b"one")
    await asyncio.sleep(1)
    stream = memory.named(ID)
    assert stream is not None
    stream.is_closed = True
    failing.always = answer(503)
    tap.feed(b"two")
    await asyncio.sleep(at)
    assert relay.transfers.get(ID) is not None
    failing.always = None
    await ended(relay)
    assert ending(memory) == (b"one", True, "interrupted")
    for each in (relay, other):
        record = await each.endings.record(ID, is_closed=True)
        assert record is not None
        assert record.outcome is Outcome.INTERRUPTED
    await relay.aclose()


@pytest.mark.parametrize("who", ["delete", "stop"])
@in_virtual_time
async def test_a_stream_that_is_left_open_delays_no_one(who: str) -> None:
    memory = MemoryStorage()
    failing = Failing(memory, when=lambda r: r.method == b"POST")
    relay = Relay.over(failing)
    tap = Tap()
    await relay.start(tap)
    failing.always = answer(400)
    tap.feed(b"one")
    await asyncio.sleep(1000)
    began = asyncio.get_running_loop().time()
    assert not await relay.transfers.end(ID, discard=False, wait=2.0)
    if who == "delete":
        assert await relay.transfers.end(ID, discard=True, wait=2.0)
        assert relay.transfers.get(ID) is None
    await relay.aclose()
    assert asyncio.get_running_loop().time() - began < 3


@in_virtual_time
async def test_storage_that_lost_an_append_gets_its_stream_closed_all_the_same() -> None:
    memory = MemoryStorage()
    relay = Relay.over(memory)
    tap = Tap()
    await relay.start(tap)
    for piece in (b"one", b"two"):
        tap.feed(piece)
        await asyncio.sleep(1)
    stream = memory.named(ID)
    assert stream is not None
    stream.producers.clear()
    tap.feed(b"three")
    await ended(relay)
    assert tap.is_cut
    assert ending(memory) == (b"onetwo", True, "storage_error")
    await relay.aclose()


@in_virtual_time
async def test_a_stream_that_is_deleted_under_the_pump_is_never_made_again() -> None:
    memory = MemoryStorage()
    relay = Relay.over(memory)
    tap = Tap()
    await relay.start(tap)
    tap.feed(b"one")
    await asyncio.sleep(1)
    memory.streams.clear()
    tap.feed(b"two")
    await ended(relay)
    assert tap.is_cut
    assert memory.streams == {}
    await relay.aclose()


@in_virtual_time
async def test_a_fenced_pump_stops_at_once_and_leaves_the_end_to_the_finder() -> None:
    memory = MemoryStorage()
    relay = Relay.over(memory)
    tap = Tap()
    await relay.start(tap)
    tap.feed(b"one")
    await asyncio.sleep(1)
    stream = memory.named(ID)
    assert stream is not None
    stream.producers[ID.encode()] = (1, 0)
    tap.feed(b"two")
    await ended(relay)
    assert tap.is_cut
    assert ending(memory) == (b"one", False, None)
    await relay.aclose()


@pytest.mark.parametrize("recorded", [None, Outcome.ABORTED])
@in_virtual_time
async def test_a_stream_that_another_closed_never_looks_complete(recorded: Outcome | None) -> None:
    memory = MemoryStorage()
    relay, other = Relay.over(memory), Relay.over(memory)
    tap = Tap()
    await relay.start(tap)
    tap.feed(b"one")
    await asyncio.sleep(1)
    if recorded is not None:
        await other.records.append(ID, recorded, epoch=OWNER, is_found=False)
    stream = memory.named(ID)
    assert stream is not None
    stream.is_closed = True
    tap.feed(b"two")
    await ended(relay)
    assert tap.is_cut
    assert ending(memory) == (b"one", True, recorded.value if recorded else "interrupted")
    record = await relay.endings.record(ID, is_closed=True)
    assert record is not None
    assert record.outcome is (recorded or Outcome.INTERRUPTED)
    await relay.aclose()


@in_virtual_time
async def test_a_lost_answer_to_the_last_append_is_still_complete() -> None:
    memory = MemoryStorage()
    failing = Failing(memory, when=is_append).then(lost(), times=3, after=True)
    relay = Relay.over(failing)
    tap = Tap()
    await relay.start(tap)
    tap.feed(b"one")
    tap.body.end()
    await ended(relay)
    assert ending(memory) == (b"one", True, None)
    await relay.aclose()


# Who ends it

ENDERS: dict[str, Callable[[Relay, Tap], Awaitable[object]]] = {
    "abort": lambda relay, tap: relay.transfers.end(ID, discard=False, wait=100.0),
    "delete": lambda relay, tap: delete(relay),
    "end": lambda relay, tap: finish(tap),
    "reset": lambda relay, tap: reset(tap),
    "drain": lambda relay, tap: relay.transfers.aclose(100.0),
    "expiry": lambda relay, tap: relay.storage.delete(ID),
}


async def delete(relay: Relay) -> None:
    """As the delete operation does."""
    await relay.transfers.end(ID, discard=False, wait=100.0)
    await relay.storage.delete(ID)
    await relay.records.delete(ID)


async def finish(tap: Tap) -> None:
    tap.body.end()


async def reset(tap: Tap) -> None:
    tap.body.fail(Cut.RESET)


@pytest.mark.parametrize("first", ENDERS)
@pytest.mark.parametrize("second", ENDERS)
@pytest.mark.parametrize("steps", [0, 1, 2, 4])
@in_virtual_time
async def test_of_two_ways_to_end_it_one_wins_and_nothing_is_left(first: str, second: str, steps: int) -> None:
    memory = MemoryStorage()
    relay = Relay.over(memory)
    relay.transfers.open()
    tap = Tap()
    await relay.start(tap)
    tap.feed(b"one")
    await asyncio.sleep(1)
    tap.feed(b"two")
    one = asyncio.ensure_future(ENDERS[first](relay, tap))
    for _ in range(steps):
        await asyncio.sleep(0)
    two = asyncio.ensure_future(ENDERS[second](relay, tap))
    await asyncio.gather(one, two)
    if (first, second) == ("expiry", "expiry"):
        tap.feed(b"three")
    await ended(relay)
    assert len(relay.transfers) == 0
    if {"delete", "expiry"} & {first, second}:
        assert memory.named(ID) is None
    else:
        data, is_closed, outcome = ending(memory)
        assert (data, is_closed) == (b"onetwo", True)
        words = {"abort": "aborted", "end": None, "reset": "upstream_error", "drain": "interrupted"}
        assert outcome in (words[first], words[second])
        if steps:
            assert outcome == words[first]
        assert memory.log.count(f"POST {ID}.record") == (0 if outcome is None else 1)
    await relay.aclose()


@in_virtual_time
async def test_an_end_that_takes_too_long_is_not_waited_for() -> None:
    slow = Slow(MemoryStorage(), when=is_append)
    relay = Relay.over(slow)
    tap = Tap()
    await relay.start(tap)
    tap.feed(b"one")
    await slow.arrived.wait()
    await relay.transfers.end(ID, discard=False, wait=2.0)
    assert asyncio.get_running_loop().time() == pytest.approx(2.0)
    assert tap.is_cut
    assert relay.transfers.get(ID) is not None
    slow.open()
    await relay.aclose()


# Places


@in_virtual_time
async def test_a_place_is_held_once_from_the_reservation_to_the_end() -> None:
    slow = Slow(MemoryStorage(), when=lambda r: r.method == b"PUT")
    relay = Relay.over(slow, max_transfers=2)
    first, second = Tap(), Tap()
    starting = asyncio.ensure_future(relay.start(first))
    await slow.arrived.wait()
    relay.transfers.reserve()  # while the first is half made there is room for one more, and no second
    with pytest.raises(Refusal) as caught:
        relay.transfers.reserve()
    assert caught.value.code is Code.OVERLOADED
    relay.transfers.release()
    slow.open()
    await starting
    await relay.start(second, OTHER)
    with pytest.raises(Refusal):
        await relay.start(Tap(), "third")
    first.body.end()
    await ended(relay)
    await relay.start(Tap(), "third")
    await relay.aclose()
    assert len(relay.transfers) == 0


@in_virtual_time
async def test_while_draining_nothing_new_begins_and_what_runs_goes_on() -> None:
    memory = MemoryStorage()
    relay = Relay.over(memory)
    tap = Tap()
    await relay.start(tap)
    relay.transfers.reserve()  # a create that waits for its upstream
    draining = asyncio.ensure_future(relay.transfers.drain(30.0))
    await asyncio.sleep(1)
    with pytest.raises(Refusal) as caught:
        relay.transfers.reserve()
    assert caught.value.code is Code.DRAINING
    tap.feed(b"still")
    await asyncio.sleep(1)
    late = Tap()
    await relay.transfers.start(OTHER, late.body, RECORD)  # it was let in before
    relay.transfers.release()
    late.body.end()
    tap.body.end()
    await draining
    assert asyncio.get_running_loop().time() < 3
    assert ending(memory) == (b"still", True, None)
    await relay.aclose()
    relay.transfers._expected += 1
    with pytest.raises(Refusal):
        await relay.transfers.start("too late", Tap().body, RECORD)


@in_virtual_time
async def test_a_stop_that_storage_does_not_let_finish_leaves_no_task() -> None:
    slow = Slow(MemoryStorage(), when=is_append)
    relay = Relay.over(slow)
    tap = Tap()
    await relay.start(tap)
    tap.feed(b"one")
    await slow.arrived.wait()
    await relay.transfers.aclose(5.0)
    assert asyncio.get_running_loop().time() == pytest.approx(5.0)
    assert len(relay.transfers) == 0
    assert tap.is_cut


@in_virtual_time
async def test_memory_of_a_stream_is_bounded_while_storage_is_slow() -> None:
    budget = Budget(1 << 20)
    slow = Slow(MemoryStorage(), when=is_append)
    relay = Relay.over(slow)
    taps = [Tap(PipeLimits(1 << 16, budget)) for _ in range(4)]
    for number, tap in enumerate(taps):
        await relay.start(tap, f"stream-{number}")
    for _ in range(100):
        for tap in taps:
            if not tap.is_paused:
                tap.feed(b"x" * 8192)
        await asyncio.sleep(0.01)
    assert all(tap.is_paused for tap in taps)
    assert budget.used <= 4 * ((1 << 16) + 2 * (8192 + 64))  # the append in hand counts, too
    slow.open()
    for tap in taps:
        tap.body.end()
    await relay.transfers._desk.tasks.wait()
    assert budget.used == 0
    await relay.aclose()


@in_virtual_time
async def test_one_writer_per_stream_even_when_answers_overtake_each_other() -> None:
    memory = MemoryStorage()
    recording = Recording(memory)
    in_flight = 0
    most = 0

    async def counting(request: Request) -> Response:
        nonlocal in_flight, most
        if not is_append(request):
            return await recording(request)
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(0.01)
        in_flight -= 1
        return await recording(request)

    relay = Relay.over(counting)
    tap = Tap()
    await relay.start(tap)
    for number in range(50):
        tap.feed(b"%d" % number)
        await asyncio.sleep(0.003)
    await relay.transfers.end(ID, discard=False, wait=10.0)
    assert most == 1
    assert ending(memory)[0] == b"".join(b"%d" % number for number in range(50))
    await relay.aclose()


@in_virtual_time
async def test_a_storage_that_loses_what_it_acknowledged_is_noticed_and_nothing_is_called_complete() -> None:
    memory = Forgetting()
    relay = Relay.over(memory)
    tap = Tap()
    await relay.start(tap)
    tap.feed(b"one")
    await asyncio.sleep(1)
    memory.keeps = 0
    tap.feed(b"two")
    tap.body.end()
    await asyncio.sleep(1)
    assert relay.transfers.get(ID) is None
    fresh = await Relay.over(memory).endings.record(ID, is_closed=True)
    assert fresh is not None
    assert fresh.outcome is Outcome.STORAGE_ERROR
    assert ending(memory)[1:] == (True, "storage_error")
