"""Events from bytes: the standard's rules, and the same events for every split of the same bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.client.events import Event, EventDecoder, EventTooLarge


def decoded(*pieces: bytes, max_bytes: int = 1 << 20) -> list[Event]:
    decoder = EventDecoder(max_bytes)
    return [event for piece in pieces for event in decoder.feed(piece)]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_every_line_end_of_the_standard_ends_a_line(end: bytes) -> None:
    text = end.join([b": comment", b"event: data", b"data: one", b"data:two", b"id: 7", b"retry: 3", b"", b""])
    # a CR at the very end might still be half of a CRLF: the event is there all the same
    assert decoded(text) == [Event(b"data", b"one\ntwo")]


def test_a_blank_line_without_data_gives_no_event() -> None:
    assert decoded(b"\n\nevent: x\n\ndata: y\n\n") == [Event(b"message", b"y")]


def test_a_byte_order_mark_is_dropped_once() -> None:
    assert decoded(b"\xef\xbb\xbfdata: a\n\n\xef\xbb\xbfdata: b\n\n") == [Event(b"message", b"a")]


def test_an_event_whose_blank_line_has_not_come_is_not_given() -> None:
    assert decoded(b"event: data\ndata: abc\n") == []


def test_one_space_after_the_colon_is_dropped_and_no_more() -> None:
    assert decoded(b"data:  x \n\n") == [Event(b"message", b" x ")]


def test_a_line_without_a_colon_is_a_field_without_a_value() -> None:
    assert decoded(b"data\ndata\n\n") == [Event(b"message", b"\n")]


@pytest.mark.parametrize("text", [b"data: " + b"x" * 200, b"data: xxxxxxxxxx\n" * 20])
def test_more_than_the_limit_is_refused_whether_in_one_line_or_many(text: bytes) -> None:
    with pytest.raises(EventTooLarge):
        decoded(text, max_bytes=100)


def test_many_events_that_are_each_within_the_limit_pass() -> None:
    assert len(decoded(b"data: xxxxxxxxxx\n\n" * 50, max_bytes=1000)) == 50


lines = st.lists(
    st.sampled_from(
        [b"data: a", b"data:", b"data", b"event: control", b"event:", b": c", b"", b"id: 1", b"x: y", b"\xff"]
    )
)
ends = st.sampled_from([b"\n", b"\r\n", b"\r"])


@given(st.lists(st.tuples(st.one_of(lines.map(b"\n".join), st.binary(max_size=12)), ends)), st.data())
def test_any_split_of_the_same_bytes_gives_the_same_events(
    parts: list[tuple[bytes, bytes]], data: st.DataObject
) -> None:
    text = b"".join(line + end for line, end in parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    single = [text[at : at + 1] for at in range(len(text))]
    assert decoded(text) == decoded(*pieces) == decoded(*single)
