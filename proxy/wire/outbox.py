"""What an HTTP/2 connection is about to send: frames in order, and DATA that waits for the peer's credit.

Two windows bound DATA (RFC 9113 section 5.2): one of each exchange and one of the connection. An exchange whose own
window is used up waits for it and delays nobody. Those that wait for the connection's window take turns, a frame each,
so that a large body does not hold up small ones.

Buffers are passed on by reference. The owner of the socket takes `output` and writes it at once, as one vectored write
for all exchanges.
"""

from collections import deque
from collections.abc import Iterable

from proxy.wire.events import Buffer
from proxy.wire.frames import FRAME_BYTES, MAX_WINDOW, data_header
from proxy.wire.toil import Toil

__all__ = ["Outbox", "Outflow"]

_MAX_FRAME_BYTES = 65_536
"""The largest DATA frame that is sent, whatever the peer accepts: others wait behind it."""


_PROGRESS_BYTES = 256
"""A smaller frame, cut by the peer's credit, does not count as progress: windows of a few bytes are an attack."""


class Outflow:
    """One exchange's body on its way out.

    `room`: bytes of DATA that its window admits, negative when the peer has shrunk it (section 6.9.2). `queued`: bytes
    that wait for credit. `left`: bytes that the head has declared and that were not given yet, None: no length.
    """

    __slots__ = ("is_ended", "is_ending", "left", "queue", "queued", "room", "stream")

    def __init__(self, stream: int, room: int) -> None:
        self.stream = stream
        self.room = room
        self.left: int | None = None
        self.queue: deque[Buffer] = deque()
        self.queued = 0
        self.is_ending = False  # nothing comes after what is queued
        self.is_ended = False  # END_STREAM is in the output

    def drop(self) -> None:
        """Send nothing more."""
        self.is_ended = True
        self.queue.clear()
        self.queued = 0


class Outbox:
    """Frames to send, in order; `size` is their bytes. The caller frames everything but DATA."""

    def __init__(self, toil: Toil) -> None:
        self.frame_bytes = FRAME_BYTES
        """The largest payload of one DATA frame."""
        self.size = 0
        self._output: list[Buffer] = []
        self._room = 65_535  # the connection's window (section 6.9.2)
        self._toil = toil
        self._waiting: dict[Outflow, None] = {}  # for the connection's window, in their order

    def allow(self, frame_bytes: int) -> None:
        """The peer's SETTINGS_MAX_FRAME_SIZE."""
        self.frame_bytes = min(frame_bytes, _MAX_FRAME_BYTES)

    def put(self, frame: bytes) -> None:
        """Append a frame, or nothing."""
        if frame:
            self._output.append(frame)
            self.size += len(frame)

    def take(self) -> list[Buffer]:
        """Everything that is to be written now."""
        output, self._output = self._output, []
        self.size = 0
        return output

    def send(self, flow: Outflow, parts: Iterable[Buffer]) -> bool:
        """Send bytes of a body, as far as credit goes; the rest waits. Whether END_STREAM went with them.

        Raises RuntimeError for more than the head has declared: the peer would take it for an attack.
        """
        if flow.is_ended:
            return False
        pieces = list(parts)
        size = sum(map(len, pieces))
        if not size:
            return False
        if flow.left is not None:
            flow.left -= size
            if flow.left < 0:
                raise RuntimeError("a body is longer than its content-length")
            flow.is_ending = not flow.left
        if flow.queued or size > min(flow.room, self._room, self.frame_bytes):
            flow.queue.extend(pieces)
            flow.queued += size
            return self._pump(flow)
        self._frame(flow, size, pieces)
        self._toil.moved()
        return flow.is_ended

    def end(self, flow: Outflow) -> bool:
        """Nothing comes after what was sent. Whether END_STREAM is in the output now, for the first time."""
        if flow.is_ended or flow.is_ending:
            return False
        flow.is_ending = True
        if not flow.queued:
            self._frame(flow, 0, [])
        return flow.is_ended

    def widen_connection(self, count: int) -> bool:
        """WINDOW_UPDATE for the connection. False when that is too much (section 6.9.1)."""
        self._room += count
        return self._room <= MAX_WINDOW

    def widen(self, flow: Outflow, count: int) -> bool:
        """The exchange's window grows by `count`, perhaps a negative number. False when that is too much."""
        flow.room += count
        return flow.room <= MAX_WINDOW

    def go_on(self, flow: Outflow) -> bool:
        """Send what waits for the exchange's own window. Whether END_STREAM went with it."""
        return bool(flow.queued) and self._pump(flow)

    def go_round(self) -> list[Outflow]:
        """Send what waits for the connection's window, in turns. Those whose queue is empty now."""
        done = []
        while self._waiting and self._room > 0:
            flow = next(iter(self._waiting))
            del self._waiting[flow]
            self._send_frame(flow)
            if not flow.queued:
                done.append(flow)
            elif flow.room > 0:
                self._waiting[flow] = None
        return done

    def forget(self, flow: Outflow) -> None:
        """The exchange sends no more."""
        flow.drop()
        self._waiting.pop(flow, None)

    def _pump(self, flow: Outflow) -> bool:
        while flow.queued and flow.room > 0 and self._room > 0 and flow not in self._waiting:
            self._send_frame(flow)
        if flow.queued and flow.room > 0:
            self._waiting[flow] = None
        return flow.is_ended

    def _send_frame(self, flow: Outflow) -> None:
        """One frame of what waits, as large as may be."""
        count = min(flow.queued, flow.room, self._room, self.frame_bytes)
        if count <= 0:
            return
        flow.queued -= count
        pieces: list[Buffer] = []
        left = count
        while left:
            piece = flow.queue.popleft()
            if len(piece) > left:
                flow.queue.appendleft(memoryview(piece)[left:])
                piece = memoryview(piece)[:left]
            pieces.append(piece)
            left -= len(piece)
        self._frame(flow, count, pieces)
        if count >= _PROGRESS_BYTES or not flow.queued:
            self._toil.moved()

    def _frame(self, flow: Outflow, size: int, pieces: list[Buffer]) -> None:
        is_last = flow.is_ending and not flow.queued
        flow.is_ended = is_last
        flow.room -= size
        self._room -= size
        self._output.append(data_header(size, flow.stream, ended=is_last))
        self._output += pieces
        self.size += 9 + size
