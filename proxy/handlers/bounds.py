"""Bounds the number of live readers: in all, and of each stream."""

from collections.abc import Iterator
from contextlib import contextmanager

from proxy.base.errors import Code, Refusal
from proxy.http.body import Body, ReleasingBody

__all__ = ["Counted"]


class Counted:
    """At most `total` places, and at most `each` for one stream, so that one URL cannot take all places."""

    def __init__(self, *, total: int, each: int) -> None:
        self._free = total
        self._each = each
        self._taken: dict[str, int] = {}  # by stream; only streams that have a place

    @contextmanager
    def entered(self, stream_id: str) -> "Iterator[_Place]":
        """Take a place. It is left when the block raises, or when the body that `kept_by` returned is closed.

        Raises Refusal when no place is free.
        """
        if self._free <= 0:
            raise Refusal(Code.OVERLOADED, "too many live readers")
        if self._taken.get(stream_id, 0) >= self._each:
            raise Refusal(Code.OVERLOADED, "too many live readers of this stream")
        place = _Place(self, stream_id)
        try:
            yield place
        except BaseException:
            place.leave()
            raise

    def take(self, stream_id: str) -> None:
        """Take a place."""
        self._free -= 1
        self._taken[stream_id] = self._taken.get(stream_id, 0) + 1

    def give_back(self, stream_id: str) -> None:
        """Give a place back."""
        self._free += 1
        self._taken[stream_id] -= 1
        if not self._taken[stream_id]:
            del self._taken[stream_id]


class _Place:
    """One reader's place, left once."""

    __slots__ = ("_counted", "_stream_id")

    def __init__(self, counted: Counted, stream_id: str) -> None:
        self._counted: Counted | None = counted
        self._stream_id = stream_id
        counted.take(stream_id)

    def leave(self) -> None:
        if self._counted is not None:
            self._counted.give_back(self._stream_id)
            self._counted = None

    def kept_by(self, body: Body) -> Body:
        """`body`, which leaves the place when it is closed. The server closes every body when it is done with it."""
        return ReleasingBody(body, self.leave)
