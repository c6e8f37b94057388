"""SSE rewriting: the outcome in the closing control event, everything else as it came, however it was split."""

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.base.errors import Code, Refusal
from proxy.handlers.bounds import Counted
from proxy.handlers.events import ClosingEvents, EventSettings
from proxy.handlers.heartbeat import Heartbeat, HeartbeatSettings
from proxy.http.body import Body, BodyError, BytesBody, Cut
from proxy.streams.answers import StorageError
from proxy.wire.events import Buffer
from tests.kit.bodies import Scripted, Tap
from tests.kit.virtual_time import in_virtual_time, run_in_virtual_time

CLOSING = b'event: control\ndata: {"streamNextOffset":"9","streamClosed":true}\n\n'
CLOSED = b'event: control\ndata:{"streamNextOffset":"9","streamClosed":true,"upstreamOutcome":"aborted"}\n\n'

ID = "00000000-0000-4000-8000-000000000000"


SETTINGS = EventSettings(keep_alive_seconds=15.0, max_control_bytes=4096)


def heartbeat(silence: float = 1e9) -> Heartbeat:
    return Heartbeat(HeartbeatSettings(10.0, silence, missed_beats=2.5))


async def aborted() -> bytes:
    return b"aborted"


async def whole(body: Body) -> bytes:
    out: list[Buffer] = []
    while parts := await body.take():
        out += parts
    return b"".join(out)


def rewritten(pieces: list[bytes]) -> bytes:
    return run_in_virtual_time(whole(ClosingEvents(Scripted(pieces), aborted, heartbeat(), SETTINGS)))


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    borders = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(borders)]


LINES = st.sampled_from(
    [b"event: data", b"event: contro", b"event: controls", b"event:control", b"event: control\r", b"data: x", b"data:",
     b"data: event: control", b'data:{"streamClosed":true}', b": comment", b":", b"id: 7", b"e", b"event: c", b"x" * 50]
)  # fmt: skip
EVENTS = st.one_of(
    st.lists(LINES, min_size=1, max_size=4).map(lambda lines: b"\n".join(lines) + b"\n\n"),
    st.lists(LINES, min_size=1, max_size=4).map(lambda lines: b"\r\n".join(lines) + b"\r\n\r\n"),
    st.sampled_from(
        [
            b'event: control\ndata: {"streamNextOffset":"1","upToDate":true}\n\n',
            b'event: control\ndata:{"streamClosed":false}\n\n',
            b'event: control\ndata:{"streamClosed":"true"}\n\n',
            b"event: control\ndata: nonsense streamClosed\n\n",
            b'event: control\ndata:["streamClosed"]\n\n',
            b"event: control\ndata:" + b"[" * 4000 + b"streamClosed\n\n",
            b"event: control\ndata:" + b'"streamClosed' + b"x" * 9000 + b"\n\n",
            b"event: control\n\n",
            b"\n",
            b"\r\n",
        ]
    ),
)


@given(st.lists(EVENTS, max_size=6), st.lists(st.integers(0, 1 << 16), max_size=12), st.booleans())
@example([b"event: data\ndata: x\n\n"], list(range(100)), True)
@example([b"event: data\r\ndata: x\r\n\r\n", b"event: control\r\ndata: {}\r\n\r\n"], list(range(100)), True)
@example([b"\n"], [0], True)
def test_any_split_gives_the_same_and_only_the_closing_event_is_changed(
    events: list[bytes], cuts: list[int], closes: bool
) -> None:
    before = b"".join(events)
    data = before + (CLOSING if closes else b"")
    expected = before + (CLOSED if closes else b"")
    if before.endswith(b"\r\n") and not before.endswith(b"\n\r\n"):
        return  # the blank line of an event that has not ended: the generator's own loose end
    assert rewritten([data]) == rewritten(split(data, cuts)) == expected


@given(st.binary(), st.lists(st.integers(0, 1 << 16), max_size=8))
def test_any_bytes_pass_whatever_they_are(data: bytes, cuts: list[int]) -> None:
    assert rewritten(split(data, cuts)) == data


@pytest.mark.parametrize("size", [1, 2, 3, 7, 10_000])
def test_every_split_of_a_whole_read(size: int) -> None:
    data = b"event: data\ndata: one\n\n" + b'event: control\ndata: {"streamNextOffset":"1"}\n\n' + CLOSING
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert rewritten(pieces) == data[: -len(CLOSING)] + CLOSED


@in_virtual_time
async def test_the_outcome_is_asked_for_once_and_only_at_the_end() -> None:
    asked: list[int] = []

    async def outcome() -> bytes:
        asked.append(1)
        return b"complete"

    tap = Tap()
    events = ClosingEvents(tap.body, outcome, heartbeat(), SETTINGS)
    tap.feed(b'event: control\ndata: {"streamNextOffset":"1"}\n\n')
    assert await events.take()
    assert not asked
    tap.feed(CLOSING)
    (event,) = await events.take()
    assert json.loads(bytes(event).split(b"data:")[1])["upstreamOutcome"] == "complete"
    tap.body.end()
    assert await events.take() == ()
    assert asked == [1]
    assert events.ended


@in_virtual_time
async def test_data_is_not_held_back_and_a_control_event_is_until_it_is_whole() -> None:
    tap = Tap()
    events = ClosingEvents(tap.body, aborted, heartbeat(), EventSettings(1000.0, 4096))
    tap.feed(b"event: data\ndata: half")
    assert b"".join(await events.take()) == b"event: data\ndata: half"
    tap.feed(b" done\n\nevent: con")
    assert b"".join(await events.take()) == b" done\n\n"
    taking = asyncio.ensure_future(events.take())
    tap.feed(b"trol\ndata: {}")
    await asyncio.sleep(1)
    assert not taking.done()
    tap.feed(b"\n\n")
    assert b"".join(await taking) == b"event: control\ndata: {}\n\n"
    tap.feed(b"event: control\ndata: never en")
    tap.body.end()
    assert not events.ended
    assert await whole(events) == b"event: control\ndata: never en"


def test_silence_gets_a_comment_between_events_and_none_inside_one() -> None:
    async def main() -> None:
        tap = Tap()
        events = ClosingEvents(tap.body, aborted, heartbeat(), SETTINGS)
        loop = asyncio.get_running_loop()
        for number in (1, 2):
            assert await events.take() == (b": keep-alive\n\n",)
            assert loop.time() == pytest.approx(15.0 * number)
        for beginning, rest in ((b"event: data\n", b"data: x\n\n"), (b"event: con", b"trol\ndata: {}\n\n")):
            tap.feed(beginning)
            taking = asyncio.ensure_future(whole_event(events))
            await asyncio.sleep(50)
            tap.feed(rest)
            assert await taking == beginning + rest
        assert await events.take() == (b": keep-alive\n\n",)

    async def whole_event(events: ClosingEvents) -> bytes:
        data = b""
        while not data.endswith(b"\n\n"):
            data += b"".join(await events.take())
        return data

    run_in_virtual_time(main())


@in_virtual_time
async def test_silence_counts_from_the_last_wait_and_costs_one_timer_however_many_events_come() -> None:
    tap = Tap()
    events = ClosingEvents(tap.body, aborted, heartbeat(40.0), SETTINGS)
    loop = asyncio.get_running_loop()
    timers = 0
    call_at = loop.call_at

    def counting(*args: Any, **more: Any) -> asyncio.TimerHandle:
        nonlocal timers
        timers += 1
        return call_at(*args, **more)

    loop.call_at = counting  # type: ignore[method-assign, assignment]  # this test's own loop
    for _ in range(1000):
        taking = asyncio.ensure_future(events.take())
        await asyncio.sleep(0.04)  # a timer of the test's
        tap.feed(b"event: data\ndata: x\n\n")
        assert await taking == (b"event: data\ndata: x\n\n",)
    assert timers - 1000 <= 40 / 15 + 1
    last = loop.time()
    await asyncio.sleep(20)  # the reader is slow: that is no silence of storage's
    for number in (1, 2):
        assert await events.take() == (b": keep-alive\n\n",)
        assert loop.time() == pytest.approx(last + 20 + 15 * number)
    with pytest.raises(BodyError) as caught:
        await events.take()
    assert loop.time() == pytest.approx(last + 20 + 40)
    assert caught.value.cut is Cut.IDLE
    assert tap.is_cut


def test_a_cancellation_in_the_moment_of_silence_is_none_of_silence_s() -> None:
    async def main(at: float) -> None:
        tap = Tap()
        events = ClosingEvents(tap.body, aborted, heartbeat(), SETTINGS)
        taking = asyncio.ensure_future(events.take())
        asyncio.get_running_loop().call_at(at, taking.cancel)
        with pytest.raises(asyncio.CancelledError):
            await taking
        tap.feed(b": kept\n\n")
        assert await events.take() == (b": kept\n\n",)

    async def cut_short() -> None:
        events = ClosingEvents(Tap().body, aborted, heartbeat(), SETTINGS)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(14):
                await events.take()
        async with asyncio.timeout(16):
            assert await events.take() == (b": keep-alive\n\n",)
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    async def arrives_as_it_rings() -> None:
        tap = Tap()
        events = ClosingEvents(tap.body, aborted, heartbeat(), SETTINGS)
        taking = asyncio.ensure_future(events.take())
        asyncio.get_running_loop().call_at(15.0, tap.feed, b": late\n\n")
        first = await taking
        assert first in [(b": keep-alive\n\n",), (b": late\n\n",)]
        if first != (b": late\n\n",):
            assert await events.take() == (b": late\n\n",)

    for at in (14.0, 15.0):
        run_in_virtual_time(main(at))
    run_in_virtual_time(cut_short())
    run_in_virtual_time(arrives_as_it_rings())


def test_a_reader_who_has_gone_leaves_no_timer() -> None:
    async def main(*, aborts: bool) -> None:
        tap = Tap()
        events = ClosingEvents(tap.body, aborted, heartbeat(), SETTINGS)
        tap.feed(b"event: data\ndata: x\n\n")
        assert await events.take()
        if aborts:
            events.close()
        else:
            tap.body.end()
            assert await events.take() == ()
        assert events._alarm._timer is None

    for aborts in (True, False):
        run_in_virtual_time(main(aborts=aborts))


@in_virtual_time
async def test_whole_events_pass_in_the_buffer_they_came_in() -> None:
    tap = Tap()
    events = ClosingEvents(tap.body, aborted, heartbeat(), SETTINGS)
    whole_ones = b'event: data\ndata: x\n\nevent: control\ndata: {"streamNextOffset":"1"}\n\n' * 100
    for buffer in (whole_ones, memoryview(whole_ones)):
        tap.feed(buffer)
        (passed,) = await events.take()
        assert passed is buffer


@in_virtual_time
async def test_a_body_that_breaks_off_breaks_off() -> None:
    events = ClosingEvents(Scripted([b"event: data\ndata: x"], Cut.RESET), aborted, heartbeat(), SETTINGS)
    assert b"".join(await events.take()) == b"event: data\ndata: x"
    with pytest.raises(BodyError):
        await events.take()


@in_virtual_time
async def test_an_outcome_that_storage_cannot_tell_breaks_the_read_off() -> None:
    async def fails() -> bytes:
        raise StorageError("down")

    events = ClosingEvents(Scripted([b"event: data\ndata: x\n\n", CLOSING]), fails, heartbeat(), SETTINGS)
    assert b"".join(await events.take()) == b"event: data\ndata: x\n\n"
    with pytest.raises(BodyError) as caught:
        await events.take()
    assert caught.value.cut is Cut.RESET


@in_virtual_time
async def test_a_cancelled_take_loses_nothing_and_an_abort_reaches_storage() -> None:
    tap = Tap()
    events = ClosingEvents(tap.body, aborted, heartbeat(), SETTINGS)
    taking = asyncio.ensure_future(events.take())
    await asyncio.sleep(1)
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    tap.feed(b": kept\n\n")
    assert await events.take() == (b": kept\n\n",)
    events.close()
    assert tap.is_cut


@in_virtual_time
async def test_a_large_event_passes_in_the_buffers_it_came_in() -> None:
    big = b"event: data\ndata:" + b"x" * 100_000
    tap = Tap()
    events = ClosingEvents(tap.body, aborted, heartbeat(), SETTINGS)
    tap.feed(big)
    assert (await events.take())[0] is big
    more = b"y" * 100_000
    tap.feed(more, b"z\n\n")
    assert (await events.take())[0] is more


def test_a_place_is_left_once_however_it_is_left() -> None:
    counted = Counted(total=1, each=1)
    with pytest.raises(KeyError), counted.entered(ID):
        raise KeyError
    with counted.entered(ID) as place:
        body = place.kept_by(BytesBody([b"x"]))
    with pytest.raises(Refusal) as caught, counted.entered(ID):
        pass
    assert caught.value.code is Code.OVERLOADED
    assert (body.length, body.ended) == (1, False)
    body.abort()
    body.close()
    with counted.entered(ID) as place:
        place.kept_by(BytesBody())
    with pytest.raises(Refusal), counted.entered(ID):
        pass


def test_one_stream_cannot_take_everybody_s_places() -> None:
    counted = Counted(total=3, each=2)
    with counted.entered(ID), counted.entered(ID):
        with pytest.raises(Refusal) as caught, counted.entered(ID):
            pass
        assert caught.value.code is Code.OVERLOADED
        with counted.entered("other"), pytest.raises(Refusal), counted.entered("a third"):
            pass
    assert counted._taken == {ID: 2, "other": 1}  # nobody's body has been closed


def test_places_of_a_stream_are_forgotten_with_its_last_reader() -> None:
    counted = Counted(total=3, each=2)
    bodies = []
    for _ in range(2):
        with counted.entered(ID) as place:
            bodies.append(place.kept_by(BytesBody()))
    for body in bodies:
        body.close()
    assert (counted._taken, counted._free) == ({}, 3)
