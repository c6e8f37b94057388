"""One socket under asyncio's protocol interface. Owns flow control in both directions; knows no HTTP.

Subclasses say what received bytes mean (`data_received`) and what a lost peer means (`lost`).
"""

import asyncio
import select
import socket
import ssl
import struct
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import cast

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # looked at before use

from proxy.wire.events import Buffer

__all__ = ["Connection"]

_PEER_LEFT = getattr(select, "POLLRDHUP", 0)  # POLLHUP and POLLERR are always told

# In these versions the writelines of asyncio's own socket transport never calls pause_writing (CVE-2024-12254).
_WRITELINES_NEVER_PAUSES = (3, 12) <= sys.version_info < (3, 12, 9) or (3, 13) <= sys.version_info < (3, 13, 2)


class Connection(asyncio.Protocol):
    """A connected socket. `write` never blocks; `drained` waits until the peer takes what was written."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()  # kept: asking for it costs a system call each time
        self.is_lost = False
        self.is_closing = False  # closed or cut: by us, or by the peer as far as we were told
        self._writable: asyncio.Future[None] | None = None
        self.is_write_paused = False
        self.is_reading_paused = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport (asyncio calls this once)."""
        self.transport = cast(asyncio.Transport, transport)
        self._writelines: Callable[[Iterable[Buffer]], None] = self.transport.writelines
        if _WRITELINES_NEVER_PAUSES and type(transport).__module__.startswith("asyncio."):
            self._writelines = self._writelines_then_look

    def _writelines_then_look(self, buffers: Iterable[Buffer]) -> None:
        """Write, then have the transport compare its buffer with its marks: setting the marks does that."""
        self.transport.writelines(buffers)
        low, high = self.transport.get_write_buffer_limits()
        self.transport.set_write_buffer_limits(high, low)

    def data_received(self, data: bytes) -> None:
        """Bytes came from the peer, never none."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone: wake a waiting writer and tell the subclass, once."""
        if self.is_lost:
            return
        self.is_lost = self.is_closing = True
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)
        self.lost()

    def abandoned(self) -> None:
        """Whoever opened it was cancelled at the last moment: uvloop then closes the socket and tells nobody."""
        if hasattr(self, "transport"):
            self.connection_lost(None)

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
        """Queue buffers for sending, by reference: they leave as one vectored write. Dropped once it is closing."""
        if not self.is_closing:
            self._writelines(buffers)

    async def drained(self) -> None:
        """Return when more may be written, at once if nothing is in the way. Raises ConnectionResetError."""
        if self.is_write_paused and not self.is_lost:
            self._writable = self._loop.create_future()
            try:
                await self._writable
            finally:
                self._writable = None
        if self.is_lost:
            raise ConnectionResetError("the connection was lost")

    def is_end_said(self) -> bool:
        """Whether the end of input, just told, is the peer's own word.

        Over TLS a FIN may be anybody's; the peer sends an alert before it (RFC 8446 section 6.1). uvloop tells no end
        of input without one, asyncio's own loop does.
        """
        tls = self.transport.get_extra_info("ssl_object")
        try:
            return tls is None or tls.read(1) == b""
        except ssl.SSLError:
            return False

    def has_peer_left(self) -> bool:
        """Whether a FIN or RST has come, also behind bytes that are not read: a paused socket tells of neither.

        Known on Linux only.
        """
        if self.transport.is_closing():
            return True
        poller = select.poll()
        poller.register(self.transport.get_extra_info("socket").fileno(), _PEER_LEFT)
        return bool(poller.poll(0))

    @property
    def unsent(self) -> int:
        """Bytes written that the peer has not acknowledged: ours, and the system's where it tells them.

        The system's may be megabytes, which a slow peer takes while ours stand still.
        """
        ours = self.transport.get_write_buffer_size()
        if fcntl is None or self.transport.is_closing():
            return ours
        descriptor = self.transport.get_extra_info("socket").fileno()
        try:
            return ours + int(struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)))[0])
        except OSError:
            return ours

    def pause(self) -> None:
        """Stop reading from the socket: the peer feels it."""
        if not self.is_reading_paused and not self.transport.is_closing():
            self.is_reading_paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read again after `pause`."""
        if self.is_reading_paused and not self.transport.is_closing():
            self.is_reading_paused = False
            self.transport.resume_reading()

    def close(self) -> None:
        """Send what is queued, then close."""
        self.is_closing = True
        self.transport.close()

    def cut(self) -> None:
        """Close at once; what is queued is dropped."""
        self.is_closing = True
        self.transport.abort()

    def reset(self) -> None:
        """Close at once by RST, so that the peer cannot take what it has for all."""
        if not self.transport.is_closing():
            linger_for_no_time = struct.pack("ii", 1, 0)
            with suppress(OSError):  # a Unix socket knows no RST
                self.transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, linger_for_no_time
                )
            self.cut()
