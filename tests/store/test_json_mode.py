"""JSON mode: what is stored of a body, and how it reads back."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.store.json_mode import InvalidJson, as_array, flatten, prefix_length, split_values

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def read_back(stored: list[bytes]) -> object:
    return json.loads(b"".join(as_array(stored)))


@given(st.lists(VALUES, min_size=1), st.sampled_from([None, 1]), st.integers(1, 50))
def test_an_array_is_stored_as_its_values(values: list[object], indent: int | None, size: int) -> None:
    body = json.dumps(values, indent=indent).encode()
    assert read_back(split_values(flatten(body), size)) == values


@given(VALUES.filter(lambda value: not isinstance(value, list)))
def test_a_single_value_is_stored_as_one(value: object) -> None:
    assert read_back(list(flatten(b" " + json.dumps(value, ensure_ascii=False).encode() + b"\n"))) == [value]


@given(st.lists(VALUES, min_size=1), st.data())
def test_the_first_values_are_a_prefix_of_what_is_stored(values: list[object], data: st.DataObject) -> None:
    stored = b"".join(flatten(json.dumps(values).encode()))
    count = data.draw(st.integers(1, len(values)))
    length = prefix_length(stored, count)
    assert length is not None
    assert read_back([stored[:length]]) == values[:count]
    assert prefix_length(stored, len(values) + 1) is None


def test_an_empty_array_has_no_values() -> None:
    assert list(flatten(b" [ ] ")) == []


def test_only_the_outer_array_is_taken_apart() -> None:
    assert list(flatten(b"[[1,2],[]]")) == [b"[1,2],", b"[],"]


def test_numbers_keep_their_text() -> None:
    text = b"[1e400,0.10," + b"9" * 5000 + b"]"
    assert b"".join(as_array(list(flatten(text)))) == text


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"{", b"[", b"[1", b"[1,", b"[1,]", b"[,1]", b"[1 2]", b"1 2", b"[1]]", b"[1],", b"NaN",
        b"[Infinity]", b"-Infinity", b"nul", b"'a'", b'"\n"', b'"a', b"01", b"1.", b"\xff", b'"\xed\xa0\x80"',
        b"\xef\xbb\xbf1", b"[" * 100_000,
        b'{"a":1,}', b"\x0c1",
    ],
)  # fmt: skip
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidJson):
        list(flatten(body))


def no_constant(name: str) -> None:
    raise ValueError(name)


def is_stored_as_json_or_refused(body: bytes) -> None:
    """Python's own parser, kept from its extensions, is the oracle."""
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=no_constant)
    except ValueError:
        with pytest.raises(InvalidJson):
            list(flatten(body))
    else:
        assert read_back(list(flatten(body))) == (value if isinstance(value, list) else [value])


@given(st.binary())
def test_any_body_is_stored_as_json_or_refused(body: bytes) -> None:
    is_stored_as_json_or_refused(body)


@given(st.text(alphabet='[]{},:"0a1 .eE-\\\n'))
def test_any_text_near_json_is_stored_as_json_or_refused(text: str) -> None:
    is_stored_as_json_or_refused(text.encode())
