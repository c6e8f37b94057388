"""The body of a live read: server-sent events as the stream grows (protocol section on SSE).

Each data event is followed by a control event. A reader that has everything does not poll: a commit wakes
it. Readers of one stream share their events: what follows a position is read and encoded once, for the first of the
readers that a commit has woken there, and the others pass the same buffers on.
"""

import asyncio
import logging
from collections import OrderedDict
from dataclasses import dataclass

from proxy.http.body import Cut, PulledBody
from proxy.store.model import Piece, View
from proxy.store.port import Engine, Reader, Unreadable
from proxy.store.protocol.cursors import next_cursor
from proxy.store.protocol.offsets import format_offset
from proxy.store.protocol.sse import (
    KEEP_ALIVE,
    LONGEST_CHARACTER,
    Encoding,
    control_event,
    data_event,
    encoding_of,
    whole_characters,
)
from proxy.wire.events import Buffer

__all__ = ["LiveBody", "LiveLimits", "SharedSteps", "Step"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LiveLimits:
    """Bounds of one live response."""

    keep_alive: float
    """Seconds of silence after which a comment is sent."""
    whole: float
    """Seconds after which the response ends; the reader then asks again."""
    cursor: int
    """Seconds of the interval that one cursor stands for."""
    event_bytes: int
    """About how many bytes one data event carries."""


@dataclass(slots=True)
class Step:
    """What comes next for every reader that stands at `start`, sees `view` and is to send `cursor` back."""

    view: View
    start: int
    cursor: str
    events: list[Buffer]
    """At least one."""
    size: int
    """Bytes of all events."""
    position: int
    """Where the reader stands after them."""
    is_end: bool
    """The reader then has all that `view` shows."""
    is_last: bool
    """The stream ends with them."""


class SharedSteps:
    """The last step of each stream, for the other readers that the same commit has woken at the same place.

    `most`: bytes of all events that are kept. Beyond them, the oldest step is forgotten first.
    """

    def __init__(self, most: int) -> None:
        self._left = most
        self._steps: OrderedDict[int, Step] = OrderedDict()  # by stream number

    def find(self, view: View, start: int, cursor: str) -> Step | None:
        """The step for a reader at `start` that sees `view`, None when it has to be made."""
        step = self._steps.get(view.stream.id)
        # The very view, which is never modified: a stream's number may be another's once it is removed.
        is_its = step is not None and step.view is view and step.start == start and step.cursor == cursor
        return step if is_its else None

    def keep(self, step: Step) -> None:
        """Keep `step` in place of the last one of its stream."""
        number = step.view.stream.id
        if (last := self._steps.pop(number, None)) is not None:
            self._left += last.size
        self._steps[number] = step
        self._left -= step.size
        while self._left < 0:
            self._left += self._steps.popitem(last=False)[1].size


class LiveBody(PulledBody):
    """Events from `position` on, until the stream is closed or removed or the response has lasted `limits.whole`."""

    def __init__(
        self, engine: Engine, reader: Reader, start: tuple[int, str | None], steps: SharedSteps, limits: LiveLimits
    ) -> None:
        """`start`: the first position, and the cursor that the reader sent. `steps` are those of all live reads."""
        super().__init__(None)
        self._engine = engine
        self._reader = reader
        self._position, self._cursor = start
        self._limits = limits
        self._steps = steps
        self._encoding = encoding_of(reader.view().stream.media)
        most = limits.event_bytes // 4 * 3 if self._encoding is Encoding.BASE64 else limits.event_bytes
        self._carried = max(most, LONGEST_CHARACTER)  # by one event; with less it could hold nothing whole
        self._clock = asyncio.get_running_loop().time  # kept: asking for the loop is a system call
        self._until = self._clock() + limits.whole
        self._seen: int | None = None  # the end of the stream up to which the reader has all that can be sent
        self._is_last = False

    def abort(self, cut: Cut = Cut.ABORTED) -> None:
        """Make no more events. A `take` in progress ends."""
        super().abort(cut)
        self._reader.close()

    async def _make(self) -> list[Buffer]:
        reader = self._reader
        silent_until = self._clock() + self._limits.keep_alive
        while not self._is_last and self._cut is None:
            now, view = self._clock(), reader.view()
            if view.absence is not None or self._engine.is_closing or now >= self._until:
                break
            if self._seen != view.tail or view.closed:
                reader.touch()
                if events := await self._events(view):
                    return events
                continue
            if now >= silent_until:
                reader.touch()
                return [KEEP_ALIVE]
            await reader.changed(min(silent_until, self._until) - now)
        return []

    async def _events(self, view: View) -> list[Buffer]:
        """The events for what `view` shows and the last call did not send; none when there is nothing to send."""
        cursor = next_cursor(self._cursor, self._engine.now() / 1000, self._limits.cursor)
        start = min(self._position, view.tail)
        step = self._steps.find(view, start, cursor)
        if step is None:
            try:
                step = await self._step(view, start, cursor)
            except Unreadable as error:
                logger.error("a live read was cut: stored data cannot be read: %s", error)
                self._cut = Cut.RESET
                return []
            if step is None:
                self._is_last = True  # the stream was removed
                return []
            self._steps.keep(step)
        is_news = self._seen is None or step.is_last or step.position > self._position
        self._position, self._is_last = step.position, step.is_last
        self._seen = view.tail if step.is_end else None
        return step.events if is_news else []  # no news: only the first bytes of a character have come

    async def _step(self, view: View, start: int, cursor: str) -> Step | None:
        """The step from `start`, None when the stream was removed. Raises Unreadable."""
        tail = view.tail
        payload, pieces = b"", list[Piece]()
        first = position = reached = start
        if position < tail:
            pieces = await self._reader.read(position, tail, self._carried)
            if not pieces:
                return None
            first = pieces[0][0]
            payload = pieces[0][1] if len(pieces) == 1 else b"".join([data for _, data in pieces])
            reached = pieces[-1][0] + len(pieces[-1][1])
        is_end = reached == tail
        is_last = is_end and view.closed
        if self._encoding is Encoding.TEXT and not is_last:
            payload = payload[: whole_characters(payload)]
            position += len(payload)
        else:
            position = reached
        events: list[Buffer] = []
        runs = [payload] if len(payload) <= self._carried else self._runs(payload, pieces)
        for run in runs:
            if run:
                events.append(data_event(run, self._encoding))
            first += len(run)
            at_end = first >= position
            offset = format_offset(position if at_end else first)
            events.append(control_event(offset, cursor, up_to_date=is_end and at_end, closed=is_last and at_end))
        size = sum(map(len, events))
        return Step(view, start, cursor, events, size, position, is_end, is_last)

    def _runs(self, payload: bytes, pieces: list[Piece]) -> list[bytes]:
        """The payloads of the next data events: each as large as allowed, but no value or character is cut.

        Each data event is followed by a control event with its own offset. So a reader makes progress even over a
        connection that is cut again and again.
        """
        most = self._carried
        runs: list[bytes] = []
        if self._encoding is Encoding.JSON:
            for _, data in pieces:
                if runs and len(runs[-1]) + len(data) <= most:
                    runs[-1] += data
                else:
                    runs.append(data)
            return runs
        at = 0
        while at < len(payload):
            run = payload[at : at + most]
            if self._encoding is Encoding.TEXT and at + most < len(payload):
                run = run[: whole_characters(run)]
            runs.append(run)
            at += len(run)
        return runs
