"""Cursors of live readers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.store.protocol.cursors import next_cursor

NOW = 1_800_000_000.0


def test_a_reader_without_a_cursor_gets_the_interval_of_now() -> None:
    assert next_cursor(None, 1_728_432_000 + 45, 20) == "2"


def test_an_older_cursor_is_answered_with_now() -> None:
    assert next_cursor("1", NOW, 20) == next_cursor(None, NOW, 20)


@given(st.integers(0, 10**17), st.integers(1, 100))
def test_a_cursor_only_goes_forward(sent: int, interval: int) -> None:
    assert int(next_cursor(str(sent), NOW, interval)) > sent


@pytest.mark.parametrize("sent", ["", "abc", "-5", "1.5", "9" * 30, "٣"])
def test_what_is_no_cursor_counts_as_none(sent: str) -> None:
    assert next_cursor(sent, NOW, 20) == next_cursor(None, NOW, 20)
