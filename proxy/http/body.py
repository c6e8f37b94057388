"""Bodies: the bytes of a message, pulled by one consumer. Owns the `Body` protocol and the bodies that wrap others.

What a connection feeds is a `Pipe`, in `http.pipe`.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Protocol

from proxy.wire.events import Buffer

__all__ = [
    "EMPTY", "READING_TURNS", "Body", "BodyError", "BodyWrapper", "BytesBody", "Cut", "PulledBody", "ReleasingBody",
    "TimeoutBody", "TooLarge", "read_all",
]  # fmt: skip

READING_TURNS = 2
"""Turns of the event loop after which it has read what had arrived before them."""


class Cut(Enum):
    """Why a body ended before its framing said so."""

    RESET = "the connection was lost"
    FRAMING = "the framing was broken"
    LIMIT = "the limit on its size was reached"
    IDLE = "no byte came in time"
    ABORTED = "it was aborted"
    SHUTDOWN = "the server stopped"


class BodyError(Exception):
    """Raised by `take` when the body was cut, after every good byte was taken. `cut` says why."""

    def __init__(self, cut: Cut) -> None:
        super().__init__(cut.value)
        self.cut = cut


class TooLarge(Exception):
    """A body was larger than its reader accepts."""


class Body(Protocol):
    """The bytes of a message, pulled by one consumer.

    A consumer calls `take` until it returns (), or until `ended`. Then, or earlier, it must call `close` once. Buffers
    are passed by reference. What the last `take` returned counts as in memory until the next `take` begins, or until
    `close`.
    """

    @property
    def length(self) -> int | None:
        """Bytes of the whole body, None when unknown."""

    @property
    def ended(self) -> bool:
        """Whether the body is whole and all of it was taken: the next `take` returns () at once."""

    async def take(self) -> tuple[Buffer, ...]:
        """All buffers that have arrived since the last take. Waits for the first; () at the end.

        Raises BodyError when the body was cut and everything before the cut was taken. A cancelled call loses
        nothing: the next call returns the same buffers.
        """

    def take_nowait(self) -> tuple[Buffer, ...]:
        """All buffers that have arrived, without waiting. () does not mean the end: see `ended`.

        Raises BodyError as `take` does.
        """

    def abort(self, cut: Cut = Cut.ABORTED) -> None:
        """Stop the source. Buffered bytes can still be taken; after them `take` raises BodyError(cut).

        The first cut wins. Harmless after the end.
        """

    def close(self) -> None:
        """The consumer is done: stop the source, drop what is buffered, return its memory.

        A `take` that is waiting, or that comes later, raises BodyError(Cut.ABORTED), unless all was taken before.
        Harmless when repeated.
        """


class BytesBody:
    """A body in memory. The first `take` returns all of its buffers, uncopied."""

    __slots__ = ("_is_dropped", "_parts", "length")

    length: int | None

    def __init__(self, parts: Iterable[Buffer] = ()) -> None:
        self._parts = tuple(filter(len, parts))
        self.length = sum(map(len, self._parts))
        self._is_dropped = False

    @property
    def ended(self) -> bool:
        """Whether the buffers were taken."""
        return not self._parts and not self._is_dropped

    async def take(self) -> tuple[Buffer, ...]:
        """All the buffers, then ()."""
        return self.take_nowait()

    def take_nowait(self) -> tuple[Buffer, ...]:
        """All the buffers, then ()."""
        if self._is_dropped:
            raise BodyError(Cut.ABORTED)
        parts, self._parts = self._parts, ()
        return parts

    def abort(self, cut: Cut = Cut.ABORTED) -> None:
        """Do nothing: there is no source to stop."""

    def close(self) -> None:
        """Drop the buffers that were not taken, so that they leave memory before this object does."""
        if self._parts:
            self._parts, self._is_dropped = (), True


EMPTY = BytesBody()


class PulledBody(ABC):
    """A body whose bytes are made by `take`: nothing is read ahead of its consumer.

    `_make` returns the next bytes, none at the end. It may also set `_cut`. A cancelled `_make` must lose no bytes.
    """

    def __init__(self, length: int | None) -> None:
        self.length = length
        self._cut: Cut | None = None
        self._ended = False

    @abstractmethod
    async def _make(self) -> list[Buffer]:
        """The next bytes."""

    @property
    def ended(self) -> bool:
        """Whether everything was taken."""
        return self._ended and self._cut is None

    async def take(self) -> tuple[Buffer, ...]:
        """The next bytes, () at the end. Raises BodyError when it was cut."""
        parts = [] if self._ended else await self._make()
        if self._cut is not None:
            raise BodyError(self._cut)
        if not parts:
            self._ended = True
        return tuple(parts)

    def take_nowait(self) -> tuple[Buffer, ...]:
        """Nothing: bytes are made by `take`. Raises BodyError when it was cut."""
        if self._cut is not None:
            raise BodyError(self._cut)
        return ()

    def abort(self, cut: Cut = Cut.ABORTED) -> None:
        """Make no more bytes."""
        if not self._ended:
            self._ended = True
            self._cut = cut

    def close(self) -> None:
        """Make no more bytes. None are buffered."""
        self.abort()


class BodyWrapper:
    """A body that passes another body on. A subclass overrides what it changes."""

    __slots__ = ("_body",)

    def __init__(self, body: Body) -> None:
        self._body = body

    @property
    def length(self) -> int | None:
        """The length of the body within."""
        return self._body.length

    @property
    def ended(self) -> bool:
        """Whether the body within has ended."""
        return self._body.ended

    async def take(self) -> tuple[Buffer, ...]:
        """Take from the body within."""
        return await self._body.take()

    def take_nowait(self) -> tuple[Buffer, ...]:
        """Take what has arrived from the body within."""
        return self._body.take_nowait()

    def abort(self, cut: Cut = Cut.ABORTED) -> None:
        """Abort the body within."""
        self._body.abort(cut)

    def close(self) -> None:
        """Close the body within."""
        self._body.close()


class TimeoutBody(BodyWrapper):
    """A body with a time-out in seconds for each `take`. When it passes, the body within is closed."""

    __slots__ = ("_timeout",)

    def __init__(self, body: Body, timeout: float) -> None:
        super().__init__(body)
        self._timeout = timeout

    async def take(self) -> tuple[Buffer, ...]:
        """The next buffers. Raises BodyError(Cut.IDLE) when none came in time.

        In a process that was stopped for a while, the time-out passes while bytes wait in the socket. So the loop first
        gets the turns that it needs to read them.
        """
        try:
            async with asyncio.timeout(self._timeout):
                return await super().take()
        except TimeoutError:
            for _ in range(READING_TURNS):
                await asyncio.sleep(0)
            if (parts := self.take_nowait()) or self.ended:
                return parts
            self.close()
            raise BodyError(Cut.IDLE) from None


class ReleasingBody(BodyWrapper):
    """A body that calls `release` at every call of `close`, so `release` must allow repetition."""

    __slots__ = ("_release",)

    def __init__(self, body: Body, release: Callable[[], None]) -> None:
        super().__init__(body)
        self._release = release

    def close(self) -> None:
        """Close the body within, and release."""
        super().close()
        self._release()


async def read_all(body: Body, max_bytes: int) -> bytes:
    """The whole body, joined. Always closes `body`.

    Raises TooLarge when it has more than `max_bytes`, BodyError when it was cut.
    """
    collected: list[Buffer] = []
    size = 0
    try:
        while parts := await body.take():
            size += sum(map(len, parts))
            if size > max_bytes:
                raise TooLarge
            collected += parts
    finally:
        body.close()
    return b"".join(collected)
