"""What a read costs is bounded: bodies that lose patience with their source, and places for readers."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from proxy.base.errors import Code, Refusal
from proxy.http.message import Body, BodyError, Buffer, Cut

__all__ = ["Counted", "Impatient"]


class _Around:
    """A body that passes another one on."""

    def __init__(self, body: Body) -> None:
        self._body = body

    @property
    def length(self) -> int | None:
        """As of the body within."""
        return self._body.length

    @property
    def ended(self) -> bool:
        """As of the body within."""
        return self._body.ended

    async def take(self) -> tuple[Buffer, ...]:
        """As of the body within."""
        return await self._body.take()

    def limit(self, max_bytes: int) -> None:
        """As of the body within."""
        self._body.limit(max_bytes)

    def abort(self, cut: Cut = Cut.ABORTED) -> None:
        """As of the body within."""
        self._body.abort(cut)


class Impatient(_Around):
    """A body whose source gets `patience` seconds for each part; then it is cut."""

    def __init__(self, body: Body, patience: float) -> None:
        super().__init__(body)
        self._patience = patience

    async def take(self) -> tuple[Buffer, ...]:
        """The next part. Raises BodyError when none came in time."""
        try:
            async with asyncio.timeout(self._patience):
                return await super().take()
        except TimeoutError:
            self.abort(Cut.GONE)
            raise BodyError(Cut.IDLE) from None


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
        return _Placed(body, self)


class _Placed(_Around):
    """A body that holds a place until it is aborted, as the server does with every body when it is done."""

    def __init__(self, body: Body, place: _Place) -> None:
        super().__init__(body)
        self._place = place

    def abort(self, cut: Cut = Cut.ABORTED) -> None:
        """As of the body within; the place is free again."""
        self._place.leave()
        super().abort(cut)
