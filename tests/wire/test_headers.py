"""Header fields: what is valid, how they are derived and encoded, and that their values stay out of sight."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.headers import Headers


@pytest.mark.parametrize("name", [b"", b" ", b"a b", b"a:", b"a\r\n", "é".encode(), b"a\x00", b"(a)", b'"a"', b"a/b"])
def test_a_bad_name_is_refused(name: bytes) -> None:
    with pytest.raises(ValueError, match="not a header name"):
        Headers([(name, b"value")])


@pytest.mark.parametrize(
    "value", [b"a\r\nb: c", b"a\nb", b"a\rb", b"\x00", b"a\x01", b"\x7f", b" a", b"a ", b"\ta", b"a\t", b" "]
)
def test_a_bad_value_is_refused_without_being_told(value: bytes) -> None:
    with pytest.raises(ValueError, match=r"not a header value: secret-name$"):
        Headers([(b"Secret-Name", value)])


@pytest.mark.parametrize("value", [b"", b"a", b"a b", b"a\tb", b"\xff\x80", "é".encode(), b'a: b, c; d="e"'])
def test_a_good_value_is_kept_as_it_is(value: bytes) -> None:
    assert list(Headers([(b"A", value)])) == [(b"a", value)]


def test_names_become_lower_case_and_order_and_repetition_are_kept() -> None:
    headers = Headers([(b"B", b"1"), (b"A", b"2"), (b"b", b"3")])
    assert list(headers) == [(b"b", b"1"), (b"a", b"2"), (b"b", b"3")]
    assert len(headers) == 3
    assert headers.get(b"b") == b"1"
    assert headers.get_all(b"b") == [b"1", b"3"]
    assert headers.get(b"c") is None
    assert headers.get_all(b"c") == []
    assert b"a" in headers
    assert b"c" not in headers


def test_an_empty_value_is_a_value() -> None:
    headers = Headers([(b"a", b"")])
    assert b"a" in headers
    assert headers.get(b"a") == b""
    assert headers.encode() == b"a: \r\n"


def test_fields_added_stand_after_the_others_which_stay_as_they_were() -> None:
    base = Headers([(b"a", b"1"), (b"b", b"2")])
    more = base.plus((b"a", b"3"), (b"c", b"4"))
    assert list(more) == [(b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"c", b"4")]
    assert len(more) == 4
    assert more.get(b"a") == b"1"
    assert more.get(b"c") == b"4"
    assert more.get_all(b"a") == [b"1", b"3"]
    assert list(base) == [(b"a", b"1"), (b"b", b"2")]
    assert more == Headers(list(more))
    assert more != base


def test_the_encoding_of_what_repeats_is_made_once_and_shared() -> None:
    base = Headers([(b"a", b"1")])
    first = base.encode()
    assert base.encode() is first
    assert base.plus((b"b", b"2")).encode() == b"a: 1\r\nb: 2\r\n"
    assert base.plus((b"b", b"2")).plus((b"c", b"3")).encode() == b"a: 1\r\nb: 2\r\nc: 3\r\n"
    assert base.encode() is first


def test_without_leaves_out_every_field_of_the_names_also_inherited_ones() -> None:
    headers = Headers([(b"a", b"1"), (b"b", b"2")]).plus((b"a", b"3"), (b"c", b"4"))
    assert list(headers.without({b"a", b"x"})) == [(b"b", b"2"), (b"c", b"4")]
    assert headers.without({b"a"}).encode() == b"b: 2\r\nc: 4\r\n"
    assert headers.get_all(b"a") == [b"1", b"3"]


def test_joined_gives_each_name_once_with_the_values_of_repeated_ones_in_order() -> None:
    headers = Headers([(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]).plus((b"a", b"4"), (b"c", b""))
    assert dict(headers.joined()) == {b"a": b"1, 3, 4", b"b": b"2", b"c": b""}
    assert list(headers.joined()) == [b"a", b"b", b"c"]
    assert dict(Headers.unread(b"B: 1\r\nA: 2\r\n").joined()) == {b"b": b"1", b"a": b"2"}
    assert not Headers().joined()


def test_the_repr_shows_names_and_no_values() -> None:
    headers = Headers([(b"Authorization", b"Bearer s3cret")]).plus((b"x", b"hidden"))
    assert repr(headers) == "<Headers authorization, x>"


def test_fields_of_a_parser_are_taken_as_they_are() -> None:
    fields = [(b"a", b"1")]
    assert list(Headers.trusted(fields)) == fields


NAMES = st.text("abcXYZ019-_!~", min_size=1, max_size=8).map(str.encode)
VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=12).map(str.encode)
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=6)


@given(FIELDS, FIELDS)
def test_what_is_built_in_steps_equals_what_is_built_at_once(
    one: list[tuple[bytes, bytes]], other: list[tuple[bytes, bytes]]
) -> None:
    lower = [(name.lower(), value) for name, value in other]
    stepwise = Headers(one).plus(*lower)
    at_once = Headers(one + other)
    assert stepwise == at_once
    assert stepwise.encode() == at_once.encode()
    assert len(stepwise) == len(at_once) == len(one) + len(other)


@given(st.binary(max_size=6), st.binary(max_size=6))
def test_whatever_is_taken_stays_one_line_each(name: bytes, value: bytes) -> None:
    try:
        headers = Headers([(name, value)])
    except ValueError:
        return
    assert headers.encode().count(b"\n") == headers.encode().count(b"\r") == 1
    assert headers.encode().partition(b": ")[::2] == (name.lower(), value + b"\r\n")


@given(FIELDS, FIELDS)
def test_names_are_found_in_lower_case_and_written_as_they_were_spelled(
    one: list[tuple[bytes, bytes]], other: list[tuple[bytes, bytes]]
) -> None:
    lines = b"".join(b"%b: %b\r\n" % field for field in one)
    lower = [(name.lower(), value) for name, value in other]
    for headers in (Headers.spelled(one), Headers.unread(lines)):
        for _ in range(2):  # before and after it was read
            assert headers.as_spelled() == one
            assert headers.encode() == lines
            assert list(headers) == [(name.lower(), value) for name, value in one]
        assert headers.plus(*lower).as_spelled() == one + lower
        assert headers.plus(*lower).encode().startswith(lines)
    assert Headers(one).as_spelled() == list(Headers(one))


_NAMES = st.sampled_from([b"a", b"A", b"b", b"a-b", b"b-a", b"A-b"])
_VALUES = st.sampled_from([b"", b"1", b"a: 2", b"b: x", b"x a: 3", b"\xff"])


@given(st.lists(st.tuples(_NAMES, _VALUES)))
def test_a_field_is_found_in_unread_lines_as_in_read_ones(fields: list[tuple[bytes, bytes]]) -> None:
    lines = b"".join(b"%b: %b\r\n" % field for field in fields)
    read = Headers(fields)
    for name in (b"a", b"b", b"a-b", b"b-a", b"c"):
        assert Headers.unread(lines).get(name) == read.get(name)
        assert Headers.unread(lines).plus((b"c", b"4")).get(name) == read.plus((b"c", b"4")).get(name)
