"""The pump: what each end of a body makes of the stream, and when the last append closes it."""

import asyncio

import pytest

from proxy.http.body import EMPTY, Body, BytesBody, Cut
from proxy.http.message import Request, Response
from proxy.http.pipe import Budget, PipeLimits
from proxy.relay.pump import Pace, Stopped, Waiting, pump
from proxy.streams.answers import AppendResult, StorageError
from proxy.streams.names import Outcome
from proxy.streams.producer import Producer
from tests.kit.bodies import Scripted, Tap
from tests.kit.handlers import Failing, Recording, answer
from tests.kit.memory_storage import MemoryStorage, Stored
from tests.kit.virtual_time import in_virtual_time, run_in_virtual_time
from tests.relay.kit import ID, RETRY, Relay

PACE = Pace(append_interval_seconds=0.005, batch_bytes=100)
OCTETS = b"application/octet-stream"


def stored() -> tuple[MemoryStorage, Stored]:
    memory = MemoryStorage()
    stream = memory.streams[f"/v1/streams/{ID}"] = Stored(OCTETS)
    return memory, stream


@pytest.mark.parametrize(
    ("cut", "outcome"),
    [
        (Cut.RESET, Outcome.UPSTREAM_ERROR),
        (Cut.FRAMING, Outcome.UPSTREAM_ERROR),
        (Cut.LIMIT, Outcome.TRUNCATED),
        (Cut.IDLE, Outcome.TIMEOUT),
        (Cut.ABORTED, Outcome.ABORTED),
        (Cut.SHUTDOWN, Outcome.INTERRUPTED),
    ],
)
@pytest.mark.parametrize("batches", [[], [b"one", b"two"]])
@in_virtual_time
async def test_a_cut_body_leaves_the_stream_open_with_all_that_came(
    cut: Cut, outcome: Outcome, batches: list[bytes]
) -> None:
    memory, stream = stored()
    producer = Producer(Relay.over(memory).storage, ID, OCTETS, RETRY)
    assert await pump(Scripted(batches, cut), producer, PACE, Waiting()) is outcome
    assert (stream.data, stream.is_closed) == (b"".join(batches), False)


@in_virtual_time
async def test_every_cut_has_an_outcome() -> None:
    for cut in Cut:
        memory, _ = stored()
        producer = Producer(Relay.over(memory).storage, ID, OCTETS, RETRY)
        assert await pump(Scripted([b"x"], cut), producer, PACE, Waiting()) is not Outcome.COMPLETE


@pytest.mark.parametrize(
    ("body", "appends"),
    [
        (Scripted([b"one", b"two"]), 2),  # the last append closes
        (Scripted([b"one", b"two"], knows_end=False), 3),  # the end comes after the last byte
        (Scripted([]), 1),
        (EMPTY, 1),
        (BytesBody([b"one", b"two"]), 1),
    ],
)
@in_virtual_time
async def test_a_whole_body_closes_the_stream(body: Body, appends: int) -> None:
    memory, stream = stored()
    recording = Recording(memory)
    producer = Producer(Relay.over(recording).storage, ID, OCTETS, RETRY)
    assert await pump(body, producer, PACE, Waiting()) is Outcome.COMPLETE
    assert stream.is_closed
    assert stream.data in (b"onetwo", b"")
    assert len(recording.seen) == appends
    assert [seen.headers.get(b"producer-seq") for seen in recording.seen] == [b"%d" % n for n in range(appends)]


@in_virtual_time
async def test_what_arrives_during_an_append_is_the_next_append() -> None:
    memory, stream = stored()
    tap = Tap()
    started, go_on = asyncio.Event(), asyncio.Event()
    recording = Recording(memory)

    async def slow(request: Request) -> Response:
        started.set()
        await go_on.wait()
        return await recording(request)

    producer = Producer(Relay.over(slow).storage, ID, OCTETS, RETRY)
    task = asyncio.ensure_future(pump(tap.body, producer, PACE, Waiting()))
    tap.feed(b"1")
    await started.wait()
    for piece in (b"2", b"3", b"4"):
        tap.feed(piece)
    tap.body.end()
    go_on.set()
    assert await task is Outcome.COMPLETE
    assert [seen.body for seen in recording.seen] == [b"1", b"234"]
    assert stream.is_closed


@pytest.mark.parametrize("is_cancelled", [False, True])
@in_virtual_time
async def test_what_storage_has_not_taken_yet_is_counted_and_nothing_afterwards(is_cancelled: bool) -> None:
    memory, _ = stored()
    started, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: Request) -> Response:
        started.set()
        await go_on.wait()
        return await memory(request)

    budget = Budget(1000)
    tap = Tap(PipeLimits(1000, budget))
    task = asyncio.ensure_future(pump(tap.body, Producer(Relay.over(slow).storage, ID, OCTETS, RETRY), PACE, Waiting()))
    tap.feed(bytes(500))
    tap.body.end()  # the first append is the last
    await started.wait()
    assert budget.used >= 500
    if is_cancelled:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        go_on.set()
        assert await task is Outcome.COMPLETE
    assert budget.used == 0


@in_virtual_time
async def test_appends_of_a_trickle_are_an_interval_apart_and_a_large_one_is_followed_at_once() -> None:
    memory, _ = stored()
    times: list[float] = []
    loop = asyncio.get_running_loop()

    async def timed(request: Request) -> Response:
        times.append(loop.time())
        return await memory(request)

    producer = Producer(Relay.over(timed).storage, ID, OCTETS, RETRY)
    await pump(Scripted([b"a", b"b", b"c" * 100, b"d"]), producer, PACE, Waiting())
    assert times == pytest.approx([0.0, 0.005, 0.01, 0.01])


@in_virtual_time
async def test_the_clock_runs_only_while_the_upstream_is_waited_for() -> None:
    memory, _ = stored()
    waiting = Waiting()
    seen: list[float | None] = []

    async def looking(request: Request) -> Response:
        seen.append(waiting.since)
        return await memory(request)

    tap = Tap()
    producer = Producer(Relay.over(looking).storage, ID, OCTETS, RETRY)
    task = asyncio.ensure_future(pump(tap.body, producer, PACE, waiting))
    await asyncio.sleep(7)
    assert waiting.since == 0.0
    tap.feed(b"x")
    await asyncio.sleep(3)
    assert waiting.since is not None
    assert 7.0 <= waiting.since < 7.1
    tap.body.end()
    await task
    assert waiting.since is None
    assert seen[0] is None


@pytest.mark.parametrize("result", [AppendResult.GONE, AppendResult.CLOSED, AppendResult.FENCED, AppendResult.GAP])
def test_what_stops_the_producer_stops_the_pump(result: AppendResult) -> None:
    faults = {
        AppendResult.GONE: answer(404),
        AppendResult.CLOSED: answer(409, (b"stream-closed", b"true")),
        AppendResult.FENCED: answer(403, (b"producer-epoch", b"1")),
        AppendResult.GAP: answer(409, (b"producer-expected-seq", b"0")),
    }

    async def main() -> None:
        memory, stream = stored()
        failing = Failing(memory)
        failing.always = faults[result]
        for body in (Scripted([b"a", b"b"], Cut.RESET), Scripted([])):
            producer = Producer(Relay.over(failing).storage, ID, OCTETS, RETRY)
            with pytest.raises(Stopped) as caught:
                await pump(body, producer, PACE, Waiting())
            assert caught.value.result is result
        assert (stream.data, failing.met) == (b"", 2)

    run_in_virtual_time(main())


@in_virtual_time
async def test_storage_that_stays_away_is_an_error_and_the_upstream_was_paused_meanwhile() -> None:
    memory, _ = stored()
    failing = Failing(memory)
    failing.always = answer(503)
    tap = Tap()
    producer = Producer(Relay.over(failing).storage, ID, OCTETS, RETRY)
    task = asyncio.ensure_future(pump(tap.body, producer, PACE, Waiting()))
    for _ in range(100):
        if not tap.is_paused:
            tap.feed(b"x" * 65536)
        await asyncio.sleep(0.1)
    assert tap.is_paused
    with pytest.raises(StorageError):
        await task
