"""Bodies of live reads: the outcome in the closing event, and comments during silence.

Knows only enough of the event stream format (WHATWG HTML, server-sent events) to find a control event. Data events pass
by reference, however large.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType

from proxy.handlers.heartbeat import Beats, Heartbeat
from proxy.http.body import Body, BodyError, Cut
from proxy.streams.answers import StorageError
from proxy.wire.events import Buffer

__all__ = ["ClosingEvents", "EventSettings"]

_CONTROL = b"event: control\n"
_END = b"\n\n"
_ANY_END = re.compile(rb"\n\r?\n")
_KEEP_ALIVE = b": keep-alive\n\n"
_CLOSED = b"streamClosed"


class _Alarm:
    """A time-out for many waits, one after the other. A wait that takes `seconds` is left without an error.

    `asyncio.timeout` sets and cancels a timer for each wait. A stream of tokens waits for each of its events, nearly
    always for a short time, so here one timer serves many waits: it is not moved when a wait ends. When it fires, it
    compares the time with the deadline of the wait in progress, and runs again when that is later.
    """

    __slots__ = ("_cancelling", "_due", "_is_ringing", "_loop", "_seconds", "_task", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop: asyncio.AbstractEventLoop | None = None  # looked up once, because each look-up is a system call
        self._due = 0.0
        self._task: asyncio.Task[object] | None = None  # the task that waits
        self._cancelling = 0  # cancellations by others before the wait began
        self._is_ringing = False
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> None:
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        self._task = task = asyncio.current_task(loop)
        assert task is not None  # noqa: S101  # a coroutine runs in one
        self._cancelling = task.cancelling()
        self._due = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_at(self._due, self._ring)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        task, self._task = self._task, None
        if not self._is_ringing or task is None:
            return False
        self._is_ringing = False
        return task.uncancel() <= self._cancelling and kind is asyncio.CancelledError

    def _ring(self) -> None:
        self._timer = None
        loop = self._loop
        if loop is None or self._task is None:
            return  # nothing waits; the next wait sets the timer again
        if loop.time() < self._due:
            self._timer = loop.call_at(self._due, self._ring)
        else:
            self._is_ringing = True
            self._task.cancel()

    @property
    def seconds(self) -> float:
        """How long the next wait may take. Not to be changed during a wait."""
        return self._seconds

    @seconds.setter
    def seconds(self, seconds: float) -> None:
        if seconds < self._seconds:
            self.stop()  # the timer would look too late
        self._seconds = seconds

    def now(self) -> float:
        """The loop's time. Call it after a wait."""
        assert self._loop is not None  # noqa: S101  # the wait has asked for it
        return self._loop.time()

    def stop(self) -> None:
        """Have no timer until the next wait."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


@dataclass(frozen=True, slots=True)
class EventSettings:
    """Bounds of a live read by server-sent events."""

    keep_alive_seconds: float  # silence after which a comment is sent
    max_control_bytes: int  # largest control event; a longer event is passed on unchanged


class ClosingEvents:
    """Storage's events, with `upstreamOutcome` added to the control event that says `streamClosed`.

    Only a control event is held back until it is whole. After `keep_alive_seconds` of silence a comment is sent, but
    never inside an event. When storage is silent for longer than `heartbeat` allows, the read is cut: its connection
    may be deaf. Only an event whose lines end with LF, as storage writes them, is rewritten.
    """

    length: int | None = None

    def __init__(
        self, body: Body, outcome: Callable[[], Awaitable[bytes]], heartbeat: Heartbeat, settings: EventSettings
    ) -> None:
        self._body = body
        self._heartbeat = heartbeat
        self._beats = Beats(heartbeat)
        self._silent = 0.0
        self._outcome = outcome
        self._keep_alive = settings.keep_alive_seconds
        self._alarm = _Alarm(settings.keep_alive_seconds)
        self._max_control_bytes = settings.max_control_bytes
        self._held = b""  # the beginning of an event that is, or may be, a control event
        self._tail = b""  # inside another event: its last bytes, because its end may be split between two buffers
        self._is_passing = False

    @property
    def ended(self) -> bool:
        """Whether storage's body has ended and nothing is held back."""
        return self._body.ended and not self._held

    async def take(self) -> tuple[Buffer, ...]:
        """The next events, or a comment. Raises BodyError when storage's body was cut, or is silent for too long."""
        while True:
            parts: tuple[Buffer, ...] | None = None
            with self._alarm:
                parts = await self._body.take()
            if parts is None:
                self._silent += self._alarm.seconds
                left = self._heartbeat.limit - self._silent
                if left <= 0:
                    self._body.close()
                    raise BodyError(Cut.IDLE)
                self._alarm.seconds = min(self._keep_alive, left)
                if self._is_passing or self._held:
                    continue  # a comment has no place inside an event
                return (_KEEP_ALIVE,)
            self._silent = 0.0
            if not self._is_passing and not self._held:
                self._beats.came(parts, self._alarm.now())
            self._alarm.seconds = min(self._keep_alive, self._heartbeat.limit)
            if not parts:
                self._alarm.stop()
                held, self._held = self._held, b""
                return (held,) if held else ()
            out: list[Buffer] = []
            for part in parts:
                data = bytes(part)
                if self._is_passing or self._held or _CLOSED in data or not data.endswith(_END):
                    await self._pass(data, out)
                else:
                    out.append(part)  # whole events, none of them closes the stream
            if out:
                return tuple(out)

    async def _pass(self, data: bytes, out: list[Buffer]) -> None:
        while data:
            if self._is_passing:
                end = self._event_end(data)
                if end < 0:
                    out.append(data)
                    self._tail = (self._tail + data[-2:])[-2:]
                    return
                out.append(data[:end] if end < len(data) else data)
                data, self._is_passing = data[end:], False
            else:
                data, self._held = self._held + data, b""
                if not data.startswith(_CONTROL[: len(data)]):
                    self._pass_on()
                elif (end := data.find(_END)) >= 0:
                    out.append(await self._control(data[: end + 2]))
                    data = data[end + 2 :]
                else:
                    if len(data) <= self._max_control_bytes:
                        self._held = data
                        return
                    self._pass_on()

    def _pass_on(self) -> None:
        """Pass the event that begins here unchanged."""
        self._is_passing, self._tail = True, b"\n"  # a blank line ends an event even at its beginning

    def _event_end(self, data: bytes) -> int:
        """Where in `data` the event in progress ends; -1 when it goes on after `data`."""
        border = self._tail + data[:2]
        if (found := _ANY_END.search(border)) is not None:
            return found.end() - len(self._tail)
        found = _ANY_END.search(data)
        return found.end() if found is not None else -1

    async def _control(self, event: bytes) -> bytes:
        if _CLOSED not in event:
            return event
        data = b"\n".join(line[5:] for line in event.split(b"\n") if line.startswith(b"data:"))
        try:
            control = json.loads(data)
        except (ValueError, RecursionError):
            return event
        if not isinstance(control, dict) or control.get("streamClosed") is not True:
            return event
        try:
            control["upstreamOutcome"] = (await self._outcome()).decode()
        except StorageError:
            raise BodyError(Cut.RESET) from None  # the reader asks again, and then gets the outcome
        return b"%bdata:%b\n\n" % (_CONTROL, json.dumps(control, separators=(",", ":")).encode())

    def take_nowait(self) -> tuple[Buffer, ...]:
        """Nothing: waiting bytes may have to be rewritten, which only `take` does."""
        return ()

    def abort(self, cut: Cut = Cut.ABORTED) -> None:
        """Stop storage's body."""
        self._body.abort(cut)

    def close(self) -> None:
        """Close storage's body: the reader is done."""
        self._alarm.stop()
        self._body.close()
