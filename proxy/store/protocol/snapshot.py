"""The body of a catch-up read: all that was stored when the read began, fetched in steps of bounded size."""

import logging

from proxy.http.body import Cut, PulledBody
from proxy.store.model import Piece
from proxy.store.port import Engine, Reader, Unreadable
from proxy.wire.events import Buffer

__all__ = ["SnapshotBody"]

logger = logging.getLogger(__name__)


class SnapshotBody(PulledBody):
    """A stream's bytes up to `end`, in steps of about `step` bytes. `first` holds the pieces that were read already.

    The body is cut (`Cut.RESET`) when the stream is removed meanwhile.
    """

    def __init__(self, engine: Engine, reader: Reader, first: list[Piece], end: int, step: int) -> None:
        start = first[0][0]
        self._is_json = reader.view().stream.is_json
        super().__init__(end - start + 1 if self._is_json else end - start)
        self._engine = engine
        self._reader = reader
        self._pieces = first
        self._opened = False
        self._position = start
        self._end = end
        self._step = step

    async def _make(self) -> list[Buffer]:
        if self._position == self._end:
            return []
        pieces = self._pieces
        if not pieces:
            if self._engine.is_closing:
                self._cut = Cut.SHUTDOWN
                return []
            try:
                pieces = await self._reader.read(self._position, self._end, self._step)
            except Unreadable as error:
                logger.error("a catch-up read was cut: stored data cannot be read: %s", error)
        if not pieces or pieces[0][0] != self._position:
            self._cut = Cut.RESET
            return []
        self._pieces = []
        self._position = pieces[-1][0] + len(pieces[-1][1])
        parts: list[Buffer] = [data for _, data in pieces]
        if self._is_json:
            if not self._opened:
                parts.insert(0, b"[")
            if self._position == self._end:
                parts[-1] = bytes(parts[-1])[:-1] + b"]"
        self._opened = True
        return parts
