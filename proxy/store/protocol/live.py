"""The body of a live read: server-sent events as the stream grows (protocol section on SSE).

Each data event is followed by a control event. A reader that has everything does not poll: a commit wakes
it.
"""

import asyncio
import logging
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

__all__ = ["LiveBody", "LiveLimits"]

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


class LiveBody(PulledBody):
    """Events from `position` on, until the stream is closed or removed or the response has lasted `limits.whole`."""

    def __init__(self, engine: Engine, reader: Reader, position: int, cursor: str | None, limits: LiveLimits) -> None:
        super().__init__(None)
        self._engine = engine
        self._reader = reader
        self._position = position
        self._cursor = cursor
        self._limits = limits
        self._encoding = encoding_of(reader.view().stream.media)
        most = limits.event_bytes // 4 * 3 if self._encoding is Encoding.BASE64 else limits.event_bytes
        self._carried = max(most, LONGEST_CHARACTER)  # by one event; with less it could hold nothing whole
        self._until = asyncio.get_running_loop().time() + limits.whole
        self._seen: int | None = None  # the end of the stream up to which the reader has all that can be sent
        self._is_last = False

    def abort(self, cut: Cut = Cut.ABORTED) -> None:
        """Make no more events. A `take` in progress ends."""
        super().abort(cut)
        self._reader.close()

    async def _make(self) -> list[Buffer]:
        reader = self._reader
        loop = asyncio.get_running_loop()
        silent_until = loop.time() + self._limits.keep_alive
        while not self._is_last and self._cut is None:
            now, view = loop.time(), reader.view()
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
        tail = view.tail
        payload, pieces = b"", list[Piece]()
        start = position = reached = min(self._position, tail)
        if position < tail:
            try:
                pieces = await self._reader.read(position, tail, self._carried)
            except Unreadable as error:
                logger.error("a live read was cut: stored data cannot be read: %s", error)
                self._cut = Cut.RESET
                return []
            if not pieces:
                self._is_last = True  # the stream was removed
                return []
            start = pieces[0][0]
            payload = pieces[0][1] if len(pieces) == 1 else b"".join([data for _, data in pieces])
            reached = pieces[-1][0] + len(pieces[-1][1])
        is_end = reached == tail
        is_last = is_end and view.closed
        if self._encoding is Encoding.TEXT and not is_last:
            payload = payload[: whole_characters(payload)]
            position += len(payload)
        else:
            position = reached
        is_news = self._seen is None or is_last or position > self._position
        self._position = position
        self._seen = reached if is_end else None
        self._is_last = is_last
        if not is_news:
            return []  # only the first bytes of a character have come
        cursor = next_cursor(self._cursor, self._engine.now() / 1000, self._limits.cursor)
        if len(payload) <= self._carried:
            control = control_event(format_offset(position), cursor, up_to_date=is_end, closed=is_last)
            return [data_event(payload, self._encoding), control] if payload else [control]
        events: list[Buffer] = []
        for run in self._runs(payload, pieces):
            events.append(data_event(run, self._encoding))
            start += len(run)
            at_end = start >= position
            offset = format_offset(position if at_end else start)
            events.append(control_event(offset, cursor, up_to_date=is_end and at_end, closed=is_last and at_end))
        return events

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
