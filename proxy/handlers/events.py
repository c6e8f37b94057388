"""Bodies of live reads: the outcome in the closing event, and comments against silence.

Owns as much of the event stream format (WHATWG HTML, server-sent events) as it takes to find a control event; data
events pass by reference, however large.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType

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
    """A context that is left without an error when the wait within takes `seconds`; for one wait after the other.

    The timer runs on from wait to wait and looks only when it rings how long the present one has lasted: an event
    stream waits for every event, and rarely long.
    """

    __slots__ = ("_cancelling", "_due", "_is_ringing", "_loop", "_seconds", "_task", "_timer")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop: asyncio.AbstractEventLoop | None = None  # asked for once: each time is a system call
        self._due = 0.0
        self._task: asyncio.Task[object] | None = None  # who waits
        self._cancelling = 0  # how many others had cancelled it before
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
            return  # nobody waits: the next who does sets it again
        if loop.time() < self._due:
            self._timer = loop.call_at(self._due, self._ring)
        else:
            self._is_ringing = True
            self._task.cancel()

    def stop(self) -> None:
        """There will be no more waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


@dataclass(frozen=True, slots=True)
class EventSettings:
    """Bounds of a live read by server-sent events."""

    keep_alive_seconds: float  # of silence, after which a comment is sent
    storage_silence_seconds: float  # after which the read is broken off
    max_control_bytes: int  # of a control event; a longer event is passed on unread


class ClosingEvents:
    """Storage's events with `upstreamOutcome` added to the control event that says `streamClosed`.

    A control event is held back until it is whole; nothing else is. After `keep_alive_seconds` of silence, between
    two events, a comment is sent. After `storage_silence_seconds` the read is broken off: a storage that works sends
    something every minute. Only lines that end as storage's own do, with LF, are rewritten.
    """

    length: int | None = None

    def __init__(self, body: Body, outcome: Callable[[], Awaitable[bytes]], settings: EventSettings) -> None:
        self._body = body
        self._silence = settings.storage_silence_seconds
        self._silent = 0.0
        self._outcome = outcome
        self._keep_alive = settings.keep_alive_seconds
        self._alarm = _Alarm(settings.keep_alive_seconds)
        self._max_control_bytes = settings.max_control_bytes
        self._held = b""  # an event's beginning that is, or may become, a control event's
        self._tail = b""  # inside another event: its last bytes, for an end split between two buffers
        self._is_passing = False

    @property
    def ended(self) -> bool:
        """Whether storage's body has ended and nothing is held back."""
        return self._body.ended and not self._held

    async def take(self) -> tuple[Buffer, ...]:
        """The next events, or a comment. Raises BodyError when storage broke off."""
        while True:
            parts: tuple[Buffer, ...] | None = None
            with self._alarm:
                parts = await self._body.take()
            if parts is None:
                self._silent += self._keep_alive
                if self._silent >= self._silence:
                    self._body.close()
                    raise BodyError(Cut.IDLE)
                if self._is_passing or self._held:
                    continue  # a comment has no place inside an event
                return (_KEEP_ALIVE,)
            self._silent = 0.0
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
                    out.append(part)  # whole events, and none that closes
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
        """The event that begins here is none of ours."""
        self._is_passing, self._tail = True, b"\n"  # a blank line is an event by itself

    def _event_end(self, data: bytes) -> int:
        """Where the event ends that `data` goes on with, -1 when it does not end in it."""
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
            raise BodyError(Cut.RESET) from None  # the reader comes again, and is then told
        return b"%bdata:%b\n\n" % (_CONTROL, json.dumps(control, separators=(",", ":")).encode())

    def take_nowait(self) -> tuple[Buffer, ...]:
        """Nothing: what waits may have to be rewritten, by `take`."""
        return ()

    def abort(self, cut: Cut = Cut.ABORTED) -> None:
        """Stop storage's body."""
        self._body.abort(cut)

    def close(self) -> None:
        """Close storage's body: the reader has gone."""
        self._alarm.stop()
        self._body.close()
