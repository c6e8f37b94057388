"""A body in pieces, which never ends quietly unless the answer was whole."""

from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Self

from proxy.client.flavours import async_loses_nothing

__all__ = ["AsyncPieces"]


class AsyncPieces:
    """Pieces of a body from one source. Leaving a loop over it ends nothing: the next loop goes on.

    It stops without an error only when the body did. After an error it raises that error again, after `stop` it raises
    RuntimeError: so a caller never mistakes a body that was left early for a whole one.

    `restartable`: a source made again goes on where the last one was. Then an interruption that lost no byte is
    followed by a fresh source instead of an error.
    """

    def __init__(self, make: Callable[[], AsyncGenerator[bytes]], *, restartable: bool) -> None:
        self._make = make
        self._restartable = restartable
        self._source = make()
        self._error: Exception | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._error is not None:
            raise self._error
        try:
            return await anext(self._source)
        except StopAsyncIteration:
            raise
        except Exception as error:
            self._error = error
            raise
        except BaseException as interruption:
            if self._restartable and async_loses_nothing(interruption):
                self._source = self._make()
            else:
                self._error = RuntimeError("reading was interrupted")
            raise

    async def stop(self) -> None:
        """Close the source. Later calls for a piece raise RuntimeError, or the error that was raised before."""
        self._error = self._error or RuntimeError("the response is closed")
        with suppress(RuntimeError, ValueError):  # another task or thread runs it, and will see its connection close
            await self._source.aclose()
