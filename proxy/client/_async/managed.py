"""Context managers of the drivers: leaving the block closes."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

__all__ = ["AsyncManaged"]


class AsyncManaged(ABC):
    """A context manager that is closed when its block ends, however it ends."""

    @abstractmethod
    async def aclose(self) -> None:
        """Close. Repeating it does no harm."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
