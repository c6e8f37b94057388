"""The vocabulary: bodies that are here already, reading whole ones, and what a repr shows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.http.message import BodyError, Cut, Headers, Parts, Request, TooLarge, first_bytes, read_all
from tests.kit.bodies import fed_pipe

buffers = st.lists(st.binary(max_size=20).map(lambda data: memoryview(data) if len(data) % 2 else data), max_size=6)


@given(buffers, st.integers(0, 100))
def test_the_first_bytes_of_buffers_are_those_of_the_whole(parts: list[bytes | memoryview], count: int) -> None:
    assert b"".join(first_bytes(parts, count)) == b"".join(parts)[:count]


@given(buffers, st.integers(0, 100))
def test_a_limit_on_what_is_here_lets_exactly_so_much_pass(parts: list[bytes | memoryview], limit: int) -> None:
    whole = b"".join(parts)
    body = Parts(parts)
    assert body.length == len(whole)
    body.limit(limit)
    got = b""
    try:
        while taken := _now(body):
            got += b"".join(taken)
        cut = None
    except BodyError as error:
        cut = error.cut
    assert got == whole[:limit]
    assert cut is (Cut.LIMIT if len(whole) > limit else None)
    assert body.ended == (cut is None)


def _now(body: Parts) -> tuple[bytes | memoryview, ...]:
    try:
        body.take().send(None)
    except StopIteration as done:
        taken: tuple[bytes | memoryview, ...] = done.value
        return taken
    raise AssertionError("it waits")


@given(buffers, st.sampled_from(Cut), st.booleans())
def test_what_is_here_is_dropped_when_nobody_wants_it_and_outlives_every_other_end(
    parts: list[bytes | memoryview], cut: Cut, is_taken: bool
) -> None:
    whole = b"".join(parts)
    body = Parts(parts)
    if is_taken:
        assert b"".join(_now(body)) == whole
    body.abort(cut)
    if is_taken or not whole:
        assert body.ended  # whatever came after the end
    elif cut is Cut.GONE:
        with pytest.raises(BodyError) as caught:
            _now(body)
        assert caught.value.cut is Cut.GONE
        assert not body.ended
    else:
        assert b"".join(_now(body)) == whole
        assert body.ended


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
