"""One socket under asyncio's protocol interface. Owns flow control in both directions; knows no HTTP.

Subclasses say what an open socket (`opened`), received bytes (`data_received`) and a lost socket (`lost`) mean. The
transport stays in here: what the rooms above want of it is a method.
"""

import asyncio
import os
import select
import socket
import ssl
import struct
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import cast

try:
    import fcntl
    import termios
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # looked at before use

from proxy.wire.events import Buffer

__all__ = ["READ_BYTES", "Connection"]

READ_BYTES = 256_000
"""The most that one read from a socket brings: uvloop's buffer; that of asyncio's own loop is 2 % larger."""

_PEER_LEFT = getattr(select, "POLLRDHUP", 0)  # POLLHUP and POLLERR are always reported

_LAST_READ_BYTES = 1 << 18  # what a loop's read brings, too

_BYTES_ACKED = 120  # where tcpi_bytes_acked, of 8 bytes, stands in Linux's tcp_info

_RECORD_BYTES = 1 << 14  # of data in one TLS record (RFC 8446 section 5.1)

# Since 3.12 the writelines of asyncio's own socket transport has had faults that its write has not. Up to 3.12.8 and
# 3.13.1 it never calls pause_writing (CVE-2024-12254). On a transport that was aborted, or that met an error in this
# turn of the loop, it registers the socket again, and the number of the closed socket stays in the selector.
_WRITELINES_IS_FAULTY = sys.version_info >= (3, 12)


class Connection(asyncio.Protocol):
    """A connected socket. `write` never blocks; `drained` waits until the peer takes what was written.

    `is_closing`: closed or cut, by us or by the peer; nothing more is sent. `is_lost`: the socket is gone. `is_tls`:
    the socket carries TLS; then the end of the peer's input ends the connection, because the loop closes its transport.
    `is_write_paused`: more than the high-water mark is unsent. `is_reading_paused`: `pause` was called.
    """

    # An instance's dict of more than 30 names takes five times the memory of one that shares its names with others.
    __slots__ = (
        "_loop", "_loss", "_writelines", "_writers", "is_closing", "is_lost", "is_reading_paused", "is_tls",
        "is_write_paused", "transport",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()  # kept: asking for it costs a system call each time
        self.is_tls = False
        self.is_lost = False
        self.is_closing = False
        self.is_write_paused = False
        self.is_reading_paused = False
        self._loss: Exception | None = None  # why the socket was lost, None: closed in order, or by us
        self._writers: list[asyncio.Future[None]] = []  # waiting in `drained`; only the first may be woken

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport (asyncio calls this once)."""
        self.transport = cast(asyncio.Transport, transport)
        self._writelines: Callable[[Iterable[Buffer]], None] = self.transport.writelines
        self.is_tls = transport.get_extra_info("sslcontext") is not None
        if self.is_tls:
            self._writelines = self._write_records
        elif _WRITELINES_IS_FAULTY and type(transport).__module__.startswith("asyncio."):
            self._writelines = self._write_with_care
        self.opened()

    def opened(self) -> None:
        """Called once when the socket is there, before anything is received."""

    def _write_with_care(self, buffers: Iterable[Buffer]) -> None:
        """Write without the faults of asyncio's writelines."""
        if not self.transport.is_closing():
            self.transport.writelines(buffers)
            low, high = self.transport.get_write_buffer_limits()
            self.transport.set_write_buffer_limits(high, low)  # pauses the writer if the buffer is over its mark

    def _write_records(self, buffers: Iterable[Buffer]) -> None:
        """Write over TLS. The transport makes a record of each buffer, or several of a long one: join short ones."""
        if not self.transport.is_closing():
            self.transport.writelines(list(_joined(buffers)))

    def data_received(self, data: bytes) -> None:
        """Bytes came from the peer, never none."""

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone: wake every waiting writer, then call `lost`, once."""
        if self.is_lost:
            return
        self.is_lost = self.is_closing = True
        self._loss = exc
        for writer in self._writers:
            _wake(writer)
        self.lost()

    def abandoned(self) -> None:
        """Call `lost` after a cancelled connect or accept: uvloop then closes the socket without a callback."""
        if hasattr(self, "transport"):
            self.connection_lost(None)

    def lost(self) -> None:
        """Called once when the socket is gone, closed by either side."""

    def unread(self) -> bytes:
        """What the peer had sent before the socket was lost to an error, as far as one read brings it.

        To be called by `lost`: the socket is closed after it. An error of writing comes before what can still be read:
        a peer that answers early and closes is then heard all the same. Over TLS nothing can be read any more.
        """
        if self._loss is None or self.is_tls:
            return b""
        try:
            return os.read(self.transport.get_extra_info("socket").fileno(), _LAST_READ_BYTES)
        except OSError:
            return b""

    def pause_writing(self) -> None:
        """The send buffer is over its high-water mark."""
        self.is_write_paused = True

    def resume_writing(self) -> None:
        """The send buffer is under its low-water mark."""
        self.is_write_paused = False
        self._wake_first_writer()

    def _wake_first_writer(self) -> None:
        if self._writers and not self.is_write_paused:
            _wake(self._writers[0])

    @property
    def agreed_protocol(self) -> str | None:
        """The protocol that the TLS handshake agreed on (ALPN, RFC 7301); None without TLS or without an agreement."""
        tls: ssl.SSLObject | None = self.transport.get_extra_info("ssl_object")
        return None if tls is None else tls.selected_alpn_protocol()

    def hand_over(self, successor: "Connection") -> None:
        """Give the open socket to `successor`: from now on the loop calls it, and no longer this connection."""
        self.transport.set_protocol(successor)
        successor.connection_made(self.transport)

    def set_high_water(self, count: int) -> None:
        """Pause writers while more than `count` bytes are unsent."""
        self.transport.set_write_buffer_limits(high=count)

    def write(self, buffers: Iterable[Buffer]) -> None:
        """Queue buffers for sending, by reference: they leave as one vectored write. Dropped once it is closing."""
        if not self.is_closing:
            self._writelines(buffers)

    async def drained(self) -> None:
        """Return when more may be written, at once if nothing is in the way. Raises ConnectionResetError.

        Any number of writers may wait. They go on in the order in which they came, one in each turn of the loop: the
        one before has then written, and the buffer may be full again, so the rest waits on. A cancelled call gives
        its turn to the next.
        """
        if (self.is_write_paused or self._writers) and not self.is_lost:
            writer = self._loop.create_future()
            self._writers.append(writer)
            try:
                await writer
                while self.is_write_paused and not self.is_lost:  # paused again before this writer's turn came
                    self._writers[0] = writer = self._loop.create_future()
                    await writer
            finally:
                self._writers.remove(writer)
                if self._writers:
                    self._loop.call_soon(self._wake_first_writer)
        if self.is_lost:
            raise ConnectionResetError("the connection was lost")

    def is_end_said(self) -> bool:
        """Whether the end of input (`eof_received` is running) is the peer's own word.

        Over TLS anybody can forge a FIN; the peer sends an alert before it (RFC 8446 section 6.1). uvloop reports no
        end of input without the alert, asyncio's own loop does.
        """
        tls = self.transport.get_extra_info("ssl_object")
        try:
            return tls is None or tls.read(1) == b""
        except ssl.SSLError:
            return False

    def has_peer_left(self) -> bool:
        """Whether a FIN or RST has come, even behind unread bytes: while reading is paused, the loop reports neither.

        Known on Linux only.
        """
        return self.transport.is_closing() or self._polls(_PEER_LEFT)

    def is_quiet(self) -> bool:
        """Whether the connection is open and its socket has nothing to read: no byte, no FIN, no RST.

        A system call. It sees what the loop has not reported yet.
        """
        # Over TLS the loop reports the loss of a socket one turn after it has closed the transport.
        return not self.transport.is_closing() and not self._polls(select.POLLIN)

    def has_unread(self) -> bool:
        """Whether the loop is about to report something: bytes, an end, a loss. False while reading is paused."""
        return not self.is_reading_paused and not self.is_quiet()

    def _polls(self, events: int) -> bool:
        poller = select.poll()
        poller.register(self.transport.get_extra_info("socket").fileno(), events)
        return bool(poller.poll(0))

    @property
    def has_unsent(self) -> bool:
        """Whether bytes that were written wait in this process; those in the system's buffers do not count."""
        return self._waiting() > 0

    def _waiting(self) -> int:
        try:
            return self.transport.get_write_buffer_size()
        except AttributeError:  # asyncio's TLS transport, after its socket was closed
            return 0

    @property
    def is_flushed(self) -> bool:
        """Whether nothing that was written waits in this process, so that closing at once destroys nothing.

        Over TLS the loop does not say what waits below its TLS layer; but nothing waits if the system would take more.
        """
        return not self.has_unsent and (not self.is_tls or self._polls(select.POLLOUT))

    @property
    def unsent(self) -> int:
        """Bytes written that the peer has not acknowledged: in this process, and in the system's buffers on Unix.

        The system's may be megabytes, which a slow peer takes while this process's buffer does not shrink. Over TLS the
        loop does not say what waits between its TLS layer and the system; nothing does when this is 0.
        """
        ours = self._waiting()
        if fcntl is None or self.is_lost or (self.transport.is_closing() and not self.is_tls):
            return ours
        try:
            descriptor = self.transport.get_extra_info("socket").fileno()
            return ours + int(struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)))[0])
        except (AttributeError, OSError, ValueError):  # closed just now; the first one: asyncio's TLS transport
            return ours

    @property
    def taken(self) -> int:
        """A number that has grown when the peer has taken something since it was last asked for.

        Over TLS it is what the peer has acknowledged in all, where the system counts it: `unsent` need not shrink while
        bytes move on that the loop does not count.
        """
        if self.is_tls and not self.is_lost:
            with suppress(AttributeError, OSError, ValueError):
                info = self.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 128)
                return int.from_bytes(info[_BYTES_ACKED:], sys.byteorder)
        return -self.unsent

    def pause(self) -> None:
        """Stop reading from the socket, so that the peer has to stop sending."""
        if not self.is_reading_paused and not self.transport.is_closing():
            self.is_reading_paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read again after `pause`."""
        if self.is_reading_paused and not self.transport.is_closing():
            self.is_reading_paused = False
            self.transport.resume_reading()

    def half_close(self) -> bool:
        """Send what is queued, then FIN, and go on receiving. False, and nothing is done, over TLS: it has no FIN."""
        if not self.transport.can_write_eof():
            return False
        self.transport.write_eof()
        return True

    def close(self) -> None:
        """Send what is queued, then close."""
        self.is_closing = True
        self.transport.close()

    def leave(self) -> None:
        """Close; over TLS without the peer's answer to the end of TLS. For a peer that has nothing left to take."""
        self.close()
        if self.is_tls:
            self._loop.call_soon(self.cut)  # in the loop's next turn, when the end of TLS has been sent

    def cut(self) -> None:
        """Close at once; what is queued is dropped."""
        self.is_closing = True
        self.transport.abort()

    def reset(self) -> None:
        """Close at once by RST, so that the peer cannot take what it has received for the whole."""
        if not self.transport.is_closing():
            linger_for_no_time = struct.pack("ii", 1, 0)
            with suppress(OSError):  # a Unix socket knows no RST
                self.transport.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, linger_for_no_time
                )
            self.cut()


def _joined(buffers: Iterable[Buffer]) -> Iterator[Buffer]:
    """`buffers` with neighbours joined as long as they fit into one TLS record."""
    short: list[Buffer] = []
    size = 0
    for buffer in buffers:
        if short and size + len(buffer) > _RECORD_BYTES:
            yield short[0] if len(short) == 1 else b"".join(short)
            short, size = [], 0
        short.append(buffer)
        size += len(buffer)
    if short:
        yield short[0] if len(short) == 1 else b"".join(short)


def _wake(writer: "asyncio.Future[None]") -> None:
    if not writer.done():
        writer.set_result(None)
