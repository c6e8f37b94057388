"""One socket under asyncio's protocol interface. Owns flow control in both directions; knows no HTTP.

Subclasses say what received bytes mean (`data_received`) and what a lost peer means (`lost`).
"""

import asyncio
from collections.abc import Iterable
from typing import cast

from proxy.wire.events import Buffer

__all__ = ["Connection"]


class Connection(asyncio.Protocol):
    """A connected socket. `write` never blocks; `drained` waits until the peer takes what was written."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self.is_lost = False
        self._writable: asyncio.Future[None] | None = None
        self.is_write_paused = False
        self._reading_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport (asyncio calls this once)."""
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone: wake a waiting writer and tell the subclass, once."""
        self.is_lost = True
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self.lost()

    def lost(self) -> None:
        """Called once when the socket is gone, whoever closed it."""

    def pause_writing(self) -> None:
        """The send buffer is over its high-water mark."""
        self.is_write_paused = True

    def resume_writing(self) -> None:
        """The send buffer is under its low-water mark."""
        self.is_write_paused = False
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def write(self, buffers: Iterable[Buffer]) -> None:
        """Queue buffers for sending, by reference: they leave as one vectored write."""
        if not self.is_lost:
            self.transport.writelines(buffers)

    async def drained(self) -> None:
        """Return when more may be written, at once if nothing is in the way. Raises ConnectionResetError."""
        if self.is_write_paused and not self.is_lost:
            self._writable = asyncio.get_running_loop().create_future()
            try:
                await self._writable
            finally:
                self._writable = None
        if self.is_lost:
            raise ConnectionResetError("the connection was lost")

    @property
    def is_stalled(self) -> bool:
        """Whether a writer waits in `drained`."""
        return self._writable is not None

    def pause(self) -> None:
        """Stop reading from the socket: the peer feels it."""
        if not self._reading_paused and not self.is_lost:
            self._reading_paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read again after `pause`."""
        if self._reading_paused and not self.is_lost:
            self._reading_paused = False
            self.transport.resume_reading()

    def close(self) -> None:
        """Send what is queued, then close."""
        self.transport.close()

    def cut(self) -> None:
        """Close at once; what is queued is dropped."""
        self.transport.abort()
