"""Request bodies in memory: what has come counts, each and in sum, until it is dropped, and it has to come in time."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.base.errors import Code, Refusal
from proxy.handlers.uploads import UploadLimits, Uploads
from proxy.http.body import BodyError, BytesBody, Cut, TooLarge
from proxy.http.pipe import Pipe
from tests.kit.bodies import Tap, fed_pipe
from tests.kit.virtual_time import in_virtual_time


def uploads_of(*, each: int, total: int, grace: float = 30.0, rate: int = 1024) -> Uploads:
    return Uploads(UploadLimits(each, total, grace, rate))


async def test_a_body_is_collected_whole_and_its_room_is_free_once_it_is_dropped() -> None:
    uploads = uploads_of(each=6, total=6)
    async with uploads.collected(fed_pipe(b"one", b"two")) as first:
        assert bytes(first.content) == b"onetwo"
        with pytest.raises(Refusal) as refused:
            async with uploads.collected(BytesBody([b"x"])):
                pass
        assert refused.value.code is Code.OVERLOADED
        async with uploads.collected(BytesBody()) as nothing:
            assert bytes(nothing.content) == b""
        first.drop()
        assert bytes(first.content) == b""
        async with uploads.collected(BytesBody([b"second"])) as second:
            assert bytes(second.content) == b"second"
    assert uploads._free == 6


async def test_what_is_sent_keeps_its_room_beyond_the_block_until_its_sender_lets_go() -> None:
    uploads = uploads_of(each=6, total=6)
    async with uploads.collected(BytesBody([b"upload"])) as upload:
        body = upload.outgoing()
        assert body.take_nowait() == (b"upload",)
        upload.answered()
    assert uploads._free == 0
    body.abort(Cut.IDLE)
    assert uploads._free == 0
    for _ in range(2):
        body.close()
        assert uploads._free == 6
    async with uploads.collected(BytesBody([b"upload"])) as upload:
        body = upload.outgoing()
        body.close()
        assert uploads._free == 0  # it counts until there is an answer
        upload.answered()
        assert uploads._free == 6
    async with uploads.collected(BytesBody([b"upload"])) as upload:
        body = upload.outgoing()  # and no answer
    assert uploads._free == 6
    body.close()
    assert uploads._free == 6


async def test_what_is_announced_and_does_not_come_holds_nothing() -> None:
    uploads = uploads_of(each=6, total=10)

    async def collect(announced: Pipe) -> None:
        async with uploads.collected(announced):
            pass

    collecting = [asyncio.ensure_future(collect(fed_pipe(b"o", length=6, is_open=True))) for _ in range(8)]
    await asyncio.sleep(0)
    assert uploads._free == 2  # eight times six were announced, and one byte of each has come
    async with uploads.collected(BytesBody([b"xy"])) as upload:
        assert bytes(upload.content) == b"xy"
    for each in collecting:
        each.cancel()
    await asyncio.wait(collecting)
    assert uploads._free == 10


@in_virtual_time
async def test_a_body_that_drips_is_refused_and_gives_its_room_back() -> None:
    uploads = uploads_of(each=1 << 20, total=1 << 20, grace=30.0, rate=1024)
    tap = Tap()

    async def drip() -> None:
        while True:
            tap.feed(b"x")
            await asyncio.sleep(20)  # which is soon enough for the server

    dripping = asyncio.ensure_future(drip())
    with pytest.raises(Refusal) as refused:
        async with uploads.collected(tap.body):
            pass
    assert refused.value.code is Code.REQUEST_TIMEOUT
    assert 30 <= asyncio.get_running_loop().time() < 31
    assert uploads._free == 1 << 20
    dripping.cancel()
    await asyncio.wait([dripping])


@in_virtual_time
async def test_a_body_that_comes_slowly_but_fast_enough_is_collected() -> None:
    uploads = uploads_of(each=1 << 20, total=1 << 20, grace=30.0, rate=1024)
    tap = Tap()

    async def send() -> None:
        for _ in range(100):
            tap.feed(b"x" * 2048)
            await asyncio.sleep(1.9)
        tap.body.end()

    sending = asyncio.ensure_future(send())
    async with uploads.collected(tap.body) as upload:
        assert len(upload.content) == 204_800
    assert asyncio.get_running_loop().time() > 180
    await sending


async def test_what_is_not_announced_is_counted_as_it_comes() -> None:
    uploads = uploads_of(each=10, total=10)
    tap = Tap()

    async def collect() -> None:
        async with uploads.collected(tap.body):
            pass

    collecting = asyncio.ensure_future(collect())
    await asyncio.sleep(0)
    tap.feed(b"1234")
    async with uploads.collected(BytesBody([b"123456"])):
        await asyncio.sleep(0)
        assert uploads._free == 0
        tap.feed(b"5")
        with pytest.raises(Refusal):
            await collecting
        assert uploads._free == 4


async def test_a_body_too_large_by_itself_is_no_overload() -> None:
    uploads = uploads_of(each=6, total=100)
    for body in (fed_pipe(length=7, is_open=True), fed_pipe(b"1234", b"567"), BytesBody([b"1234567"])):
        with pytest.raises(TooLarge):
            async with uploads.collected(body):
                pass
    assert uploads._free == 100


@given(st.lists(st.binary(max_size=9)), st.booleans(), st.integers(0, 30), st.integers(0, 30), st.booleans())
def test_whatever_comes_is_whole_or_refused_and_leaves_all_room(
    parts: list[bytes], announced: bool, each: int, total: int, is_cut: bool
) -> None:
    async def main() -> None:
        uploads = uploads_of(each=each, total=total)
        whole = b"".join(parts)
        body = fed_pipe(*parts, length=len(whole) if announced else None, cut=Cut.RESET if is_cut else None)
        try:
            async with uploads.collected(body) as upload:
                assert not is_cut
                assert len(whole) <= min(each, total)
                assert bytes(upload.content) == whole
        except TooLarge:
            assert len(whole) > each
        except Refusal:
            assert len(whole) > total
        except BodyError:
            assert is_cut
        assert uploads._free == total

    asyncio.run(main())
