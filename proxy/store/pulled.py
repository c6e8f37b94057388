"""A body whose bytes are made when they are taken: a taker that stops costs nothing, and nothing is read ahead of it.

Owns the part of the Body protocol that does not depend on where the bytes come from.
"""

from abc import ABC, abstractmethod

from proxy.http.message import BodyError, Buffer, Cut, first_bytes

__all__ = ["PulledBody"]


class PulledBody(ABC):
    """A body whose bytes `_make` makes, none at the end. A `_make` that is cancelled has used up nothing."""

    def __init__(self, length: int | None) -> None:
        self.length = length
        self._left: int | None = None
        self._cut: Cut | None = None
        self._ended = False

    @abstractmethod
    async def _make(self) -> list[Buffer]:
        """The next bytes."""

    @property
    def ended(self) -> bool:
        """Whether all has been taken."""
        return self._ended and self._cut is None

    async def take(self) -> tuple[Buffer, ...]:
        """The next bytes, () at the end. Raises BodyError when it was cut."""
        parts: list[Buffer] = []
        if not self._ended:
            parts = await self._make()
        if self._cut is not None:
            raise BodyError(self._cut)
        if self._left is not None:
            size = sum(map(len, parts))
            if size > self._left:
                self._cut = Cut.LIMIT
                parts = list(first_bytes(parts, self._left))
                if not parts:
                    raise BodyError(Cut.LIMIT)
            self._left -= min(size, self._left)
        if not parts:
            self._ended = True
        return tuple(parts)

    def limit(self, max_bytes: int) -> None:
        """Let `max_bytes` pass from now on."""
        self._left = max_bytes

    def abort(self, cut: Cut = Cut.ABORTED) -> None:
        """Make no more."""
        if not self._ended:
            self._ended = True
            self._cut = cut
