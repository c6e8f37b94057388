"""What may be appended, as a table."""

import pytest

from proxy.store.model import NOTHING, Append, ProducerStamp, Verdict
from proxy.store.rules import AppendState, accept, judge

TYPE = "text/plain"


class Text:
    """Content of one byte."""

    size = 1

    async def cut(self, *, is_json: bool) -> list[bytes]:
        return [b"x"]


def state(*, closed: bool = False, last_seq: str | None = None) -> AppendState:
    """At position 5, with a producer `p` that has stored sequence numbers up to 3 of epoch 2."""
    return AppendState(TYPE, 5, closed, last_seq, {"p": (2, 3)})


def data(
    producer: ProducerStamp | None = None, *, media: str = TYPE, seq: str | None = None, close: bool = False
) -> Append:
    return Append(media, producer, seq, close, Text())


def close(producer: ProducerStamp | None = None) -> Append:
    return Append(None, producer, None, close=True, content=NOTHING)


@pytest.mark.parametrize(
    ("epoch", "seq", "verdict"),
    [
        (2, 4, None), (2, 3, Verdict.DUPLICATE), (2, 0, Verdict.DUPLICATE), (2, 5, Verdict.GAP),
        (1, 4, Verdict.STALE_EPOCH), (1, 0, Verdict.STALE_EPOCH), (3, 0, None), (3, 1, Verdict.EPOCH_START),
    ],
)  # fmt: skip
def test_a_known_producer(epoch: int, seq: int, verdict: Verdict | None) -> None:
    result = judge(state(), data(ProducerStamp("p", epoch, seq)))
    assert (result.verdict if result else None) == verdict
    if verdict is Verdict.DUPLICATE:
        assert result is not None
        assert (result.epoch, result.seq) == (2, 3)
    if verdict is Verdict.GAP:
        assert result is not None
        assert result.seq == 4


@pytest.mark.parametrize(("seq", "verdict"), [(0, None), (1, Verdict.GAP)])
def test_an_unknown_producer_starts_at_zero(seq: int, verdict: Verdict | None) -> None:
    result = judge(state(), data(ProducerStamp("q", 7, seq)))
    assert (result.verdict if result else None) == verdict
    assert result is None or result.seq == 0


@pytest.mark.parametrize(
    ("append", "verdict"),
    [
        (data(), Verdict.CLOSED), (data(media="image/png"), Verdict.CLOSED), (close(), Verdict.STORED),
        (data(close=True), Verdict.CLOSED), (data(ProducerStamp("p", 2, 4)), Verdict.CLOSED),
        (close(ProducerStamp("p", 2, 4)), Verdict.CLOSED), (close(ProducerStamp("p", 3, 0)), Verdict.CLOSED),
        (data(ProducerStamp("p", 2, 3)), Verdict.DUPLICATE), (close(ProducerStamp("p", 2, 3)), Verdict.DUPLICATE),
        (data(ProducerStamp("p", 1, 9)), Verdict.STALE_EPOCH), (data(ProducerStamp("q", 0, 0)), Verdict.CLOSED),
    ],
)  # fmt: skip
def test_a_closed_stream(append: Append, verdict: Verdict) -> None:
    result = judge(state(closed=True), append)
    assert result is not None
    assert (result.verdict, result.position, result.closed) == (verdict, 5, True)


@pytest.mark.parametrize(("seq", "stored"), [("09", False), ("1", False), ("10", True), ("2", True), ("a", True)])
def test_stream_seq_is_compared_as_text(seq: str, stored: bool) -> None:
    assert (judge(state(last_seq="1"), data(seq=seq)) is None) == stored


def test_a_duplicate_is_one_whatever_its_stream_seq_says() -> None:
    result = judge(state(last_seq="9"), data(ProducerStamp("p", 2, 3), seq="1"))
    assert result is not None
    assert result.verdict is Verdict.DUPLICATE


def test_another_type_is_refused_and_no_type_matters_for_a_close() -> None:
    result = judge(state(), data(media="text/html"))
    assert result is not None
    assert result.verdict is Verdict.WRONG_TYPE
    assert judge(state(), close()) is None


def test_what_was_accepted_is_what_the_next_append_is_judged_by() -> None:
    made = state()
    assert accept(made, data(ProducerStamp("p", 3, 0), seq="7", close=True), 10, producers=5) is None
    assert made == AppendState(TYPE, 15, closed=True, last_seq="7", producers={"p": (3, 0)})


def test_the_producer_that_was_silent_for_longest_makes_room_for_a_new_one() -> None:
    made = state()
    assert accept(made, data(ProducerStamp("q", 0, 0)), 1, producers=2) is None
    assert accept(made, data(ProducerStamp("p", 2, 4)), 1, producers=2) is None
    assert accept(made, data(ProducerStamp("r", 0, 0)), 1, producers=2) == "q"
    assert list(made.producers) == ["p", "r"]
