"""What may be appended, as a table."""

import pytest

from proxy.store.outcomes import Verdict
from proxy.store.rules import judge
from proxy.store.state import Append, Producer, Spec, Stream

TYPE = "text/plain"


def stream(*, closed: bool = False, last_seq: str | None = None) -> Stream:
    """At position 5, with a producer `p` that has stored sequence numbers up to 3 of epoch 2."""
    made = Stream(1, "/s", Spec(f"{TYPE}; charset=utf-8"), 0)
    made.next_tail = 5
    made.next_closed = closed
    made.last_seq = last_seq
    made.producers["p"] = (2, 3)
    return made


def data(producer: Producer | None = None, *, media: str = TYPE, seq: str | None = None, close: bool = False) -> Append:
    return Append([b"x"], 1, media, producer, seq, close)


def close(producer: Producer | None = None) -> Append:
    return Append([], 0, None, producer, None, close=True)


@pytest.mark.parametrize(
    ("epoch", "seq", "verdict"),
    [
        (2, 4, None), (2, 3, Verdict.DUPLICATE), (2, 0, Verdict.DUPLICATE), (2, 5, Verdict.GAP),
        (1, 4, Verdict.STALE_EPOCH), (1, 0, Verdict.STALE_EPOCH), (3, 0, None), (3, 1, Verdict.EPOCH_START),
    ],
)  # fmt: skip
def test_a_known_producer(epoch: int, seq: int, verdict: Verdict | None) -> None:
    outcome = judge(stream(), data(Producer("p", epoch, seq)))
    assert (outcome.verdict if outcome else None) == verdict
    if verdict is Verdict.DUPLICATE:
        assert outcome is not None
        assert (outcome.epoch, outcome.seq) == (2, 3)
    if verdict is Verdict.GAP:
        assert outcome is not None
        assert outcome.seq == 4


@pytest.mark.parametrize(("seq", "verdict"), [(0, None), (1, Verdict.GAP)])
def test_an_unknown_producer_starts_at_zero(seq: int, verdict: Verdict | None) -> None:
    outcome = judge(stream(), data(Producer("q", 7, seq)))
    assert (outcome.verdict if outcome else None) == verdict
    assert outcome is None or outcome.seq == 0


@pytest.mark.parametrize(
    ("append", "verdict"),
    [
        (data(), Verdict.CLOSED), (data(media="image/png"), Verdict.CLOSED), (close(), Verdict.STORED),
        (data(close=True), Verdict.CLOSED), (data(Producer("p", 2, 4)), Verdict.CLOSED),
        (close(Producer("p", 2, 4)), Verdict.CLOSED), (close(Producer("p", 3, 0)), Verdict.CLOSED),
        (data(Producer("p", 2, 3)), Verdict.DUPLICATE), (close(Producer("p", 2, 3)), Verdict.DUPLICATE),
        (data(Producer("p", 1, 9)), Verdict.STALE_EPOCH), (data(Producer("q", 0, 0)), Verdict.CLOSED),
    ],
)  # fmt: skip
def test_a_closed_stream(append: Append, verdict: Verdict) -> None:
    outcome = judge(stream(closed=True), append)
    assert outcome is not None
    assert (outcome.verdict, outcome.position, outcome.closed) == (verdict, 5, True)


@pytest.mark.parametrize(("seq", "stored"), [("09", False), ("1", False), ("10", True), ("2", True), ("a", True)])
def test_stream_seq_is_compared_as_text(seq: str, stored: bool) -> None:
    assert (judge(stream(last_seq="1"), data(seq=seq)) is None) == stored


def test_a_duplicate_is_one_whatever_its_stream_seq_says() -> None:
    outcome = judge(stream(last_seq="9"), data(Producer("p", 2, 3), seq="1"))
    assert outcome is not None
    assert outcome.verdict is Verdict.DUPLICATE


def test_another_type_is_refused_and_no_type_matters_for_a_close() -> None:
    outcome = judge(stream(), data(media="text/html"))
    assert outcome is not None
    assert outcome.verdict is Verdict.WRONG_TYPE
    assert judge(stream(), close()) is None
