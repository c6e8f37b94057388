"""Live readers are bounded: places for their bodies."""

from collections.abc import Iterator
from contextlib import contextmanager

from proxy.base.errors import Code, Refusal
from proxy.http.body import Body, ReleasingBody

__all__ = ["Counted"]


class Counted:
    """At most `at_once` places."""

    def __init__(self, at_once: int) -> None:
        self._free = at_once

    @contextmanager
    def entered(self) -> "Iterator[_Place]":
        """A place for the length of the block, or of the body that keeps it. Raises Refusal when none is free."""
        if self._free <= 0:
            raise Refusal(Code.OVERLOADED, "too many live readers")
        place = _Place(self)
        try:
            yield place
        except BaseException:
            place.leave()
            raise

    def change(self, by: int) -> None:
        """Take or give back a place."""
        self._free += by


class _Place:
    """One reader's place, left once."""

    def __init__(self, counted: Counted) -> None:
        self._counted: Counted | None = counted
        counted.change(-1)

    def leave(self) -> None:
        if self._counted is not None:
            self._counted.change(1)
            self._counted = None

    def kept_by(self, body: Body) -> Body:
        """`body`, which leaves the place when it is closed, as the server does with every body when it is done."""
        return ReleasingBody(body, self.leave)
