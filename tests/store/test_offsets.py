"""Tokens of positions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.store.protocol.offsets import format_offset, parse_offset

POSITIONS = st.integers(0, 10**32 - 1)


@given(POSITIONS, POSITIONS)
def test_tokens_sort_like_positions(one: int, other: int) -> None:
    assert (format_offset(one) < format_offset(other)) == (one < other)


@given(POSITIONS)
def test_a_token_names_its_position(position: int) -> None:
    assert parse_offset(format_offset(position)) == position


@pytest.mark.parametrize(
    "token", ["", "0", "-1", "now", "1_", "_1", "1_2_3", "1,2", " 1_2", "1_2 ", "+1_2", "١_٢", "1_" + "1" * 17]
)
def test_what_is_not_a_token_names_nothing(token: str) -> None:
    assert parse_offset(token) is None


@given(st.text())
def test_any_text_is_a_token_or_nothing(text: str) -> None:
    position = parse_offset(text)
    assert position is None or position >= 0
