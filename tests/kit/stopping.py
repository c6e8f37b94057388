"""A context manager that stops what it is: the base class of peers that run beside a test."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

__all__ = ["Stopping"]


class Stopping(ABC):
    """`with Peer() as peer:` stops the peer at the end of the block, in whatever way the block ends."""

    @abstractmethod
    def stop(self) -> None:
        """End the peer, and everything that it has started."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
