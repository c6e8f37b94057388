"""The tails in memory."""

from hypothesis import given
from hypothesis import strategies as st

from proxy.store.recent import RecentPieces, Tail


@given(st.lists(st.tuples(st.integers(0, 2), st.binary(min_size=1, max_size=300)), max_size=40), st.data())
def test_what_is_found_is_what_was_written_and_the_bounds_hold(
    appends: list[tuple[int, bytes]], data: st.DataObject
) -> None:
    recent = RecentPieces(1000, 2000)
    made = [Tail() for _ in range(3)]
    written = [b"", b"", b""]
    for number, piece in appends:
        recent.add(made[number], [(len(written[number]), piece)])
        written[number] += piece
        if data.draw(st.booleans()):
            recent.drop(made[data.draw(st.integers(0, 2))])
    assert sum(tail.size for tail in made) <= 2000
    for tail, whole in zip(made, written, strict=True):
        assert tail.size <= 1000
        if not whole:
            continue
        position = data.draw(st.integers(0, len(whole) - 1))
        size = data.draw(st.integers(1, 500))
        found = tail.find(position, size)
        if found is not None:
            start = found[0][0]
            read = b"".join(piece for _, piece in found)
            assert start <= position
            assert read == whole[start : start + len(read)]
            assert len(read) >= min(size, len(whole) - position)


def test_the_tail_written_least_recently_gives_way() -> None:
    recent = RecentPieces(10_000, 3000)
    first, second, third = Tail(), Tail(), Tail()
    for tail in (first, second, first, third):
        recent.add(tail, [(tail.size, b"x" * 700)])
    assert second.find(0, 1) is None
    assert first.find(0, 1) is not None
    assert third.find(0, 1) is not None


def test_a_piece_larger_than_the_bound_leaves_nothing() -> None:
    recent = RecentPieces(100, 1000)
    tail = Tail()
    recent.add(tail, [(0, b"x" * 101)])
    assert tail.find(0, 1) is None
    assert tail.size == 0
