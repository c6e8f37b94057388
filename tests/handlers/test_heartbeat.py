"""What a live read learns from storage's signs of life, and when it takes storage to be silent."""

import asyncio

import pytest

from proxy.handlers.events import ClosingEvents, EventSettings
from proxy.handlers.heartbeat import Heartbeat, HeartbeatSettings
from proxy.http.body import BodyError, Cut, read_all
from tests.kit.bodies import Tap
from tests.kit.virtual_time import in_virtual_time

DATA = b"event: data\ndata: x\n\n"
CONTROL = b'event: control\ndata: {"streamNextOffset":"1"}\n\n'
CLOSING = b'event: control\ndata: {"streamNextOffset":"1","streamClosed":true}\n\n'
COMMENT = b": keep-alive\n\n"


def make_heartbeat() -> Heartbeat:
    return Heartbeat(HeartbeatSettings(storage_timeout_seconds=10.0, storage_silence_seconds=90.0, missed_beats=2.5))


async def _unused() -> bytes:
    return b"complete"


async def read(heartbeat: Heartbeat, *sent: tuple[float, bytes]) -> float:
    """Read a stream in which each of `sent` comes so many seconds after the one before; how long the silence is that
    then breaks the read off.
    """
    tap = Tap()
    events = ClosingEvents(tap.body, _unused, heartbeat, EventSettings(15.0, max_control_bytes=4096))
    loop = asyncio.get_running_loop()
    last = loop.time()

    async def send() -> None:
        nonlocal last
        for after, what in sent:
            await asyncio.sleep(after)
            tap.feed(what)
            last = loop.time()

    sending = asyncio.ensure_future(send())
    with pytest.raises(BodyError) as caught:
        await read_all(events, 1 << 20)
    await sending
    assert caught.value.cut is Cut.IDLE
    assert tap.is_cut
    return loop.time() - last


@in_virtual_time
async def test_silence_is_measured_by_the_interval_that_storage_itself_keeps() -> None:
    for what, every in ((COMMENT, 15.0), (CONTROL, 30.0), (COMMENT, 6.0)):
        heartbeat = make_heartbeat()
        silent = await read(heartbeat, (0.0, DATA), (every, what), (every, what))
        assert silent == pytest.approx(2.5 * every)
        assert await read(heartbeat, (0.0, DATA)) == pytest.approx(2.5 * every)  # every read knows


@in_virtual_time
async def test_nothing_is_learned_from_what_is_no_interval() -> None:
    for sent in (
        (DATA,),
        (DATA, DATA, DATA),
        (DATA, CONTROL, DATA, CONTROL),
        (CONTROL, CLOSING, CLOSING),
        (CONTROL, COMMENT, CONTROL),
        (COMMENT, DATA, COMMENT),
        (DATA + CONTROL, CONTROL),
    ):
        heartbeat = make_heartbeat()
        await read(heartbeat, *((5.0, what) for what in sent))
        assert heartbeat.limit == 90.0


@in_virtual_time
async def test_silence_has_bounds_whatever_storage_does() -> None:
    for every, limit in ((0.5, 10.0), (60.0, 90.0)):
        assert await read(make_heartbeat(), (0.0, COMMENT), (every, COMMENT)) == pytest.approx(limit)


@in_virtual_time
async def test_the_longest_interval_counts() -> None:
    heartbeat = make_heartbeat()
    assert await read(heartbeat, *((every, COMMENT) for every in (1.0, 8.0, 16.0, 4.0))) == pytest.approx(40.0)
