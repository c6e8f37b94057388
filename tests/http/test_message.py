"""The vocabulary: bodies that are here already, reading whole ones, and what a repr shows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.body import BodyError, BytesBody, Cut, TooLarge, read_all
from proxy.http.message import Request
from proxy.wire.events import first_bytes
from proxy.wire.headers import Headers
from tests.kit.bodies import fed_pipe

buffers = st.lists(st.binary(max_size=20).map(lambda data: memoryview(data) if len(data) % 2 else data), max_size=6)


@given(buffers, st.integers(0, 100))
def test_the_first_bytes_of_buffers_are_those_of_the_whole(parts: list[bytes | memoryview], count: int) -> None:
    assert b"".join(first_bytes(parts, count)) == b"".join(parts)[:count]


@given(buffers, st.sampled_from(Cut), st.booleans())
def test_bytes_in_memory_outlive_an_abort(parts: list[bytes | memoryview], cut: Cut, is_taken: bool) -> None:
    whole = b"".join(parts)
    body = BytesBody(parts)
    assert body.length == len(whole)
    if is_taken:
        assert b"".join(body.take_nowait()) == whole
    body.abort(cut)
    assert b"".join(body.take_nowait()) == (b"" if is_taken else whole)
    assert body.ended


@given(buffers, st.booleans())
def test_bytes_in_memory_are_dropped_by_close(parts: list[bytes | memoryview], is_taken: bool) -> None:
    body = BytesBody(parts)
    if is_taken:
        body.take_nowait()
    for _ in range(2):
        body.close()
    if is_taken or not b"".join(parts):
        assert body.ended
        assert body.take_nowait() == ()
    else:
        assert not body.ended
        with pytest.raises(BodyError) as caught:
            body.take_nowait()
        assert caught.value.cut is Cut.ABORTED


async def test_reading_all_stops_at_its_bound_and_cuts_the_source() -> None:
    assert await read_all(fed_pipe(b"12345", b"67890"), 10) == b"1234567890"
    body = fed_pipe(b"12345", b"678901", is_open=True)
    with pytest.raises(TooLarge):
        await read_all(body, 10)
    with pytest.raises(BodyError):
        await body.take()


async def test_reading_all_of_a_cut_body_says_why() -> None:
    with pytest.raises(BodyError) as caught:
        await read_all(fed_pipe(b"some", cut=Cut.RESET), 10)
    assert caught.value.cut is Cut.RESET


def test_the_repr_of_a_request_shows_no_credential() -> None:
    request = Request(b"GET", b"/path?signature=s3cret", Headers([(b"authorization", b"Bearer s3cret")]))
    assert "/path" in repr(request)
    assert "s3cret" not in repr(request) + repr(request.headers)
