"""Where the bytes of a fork are stored. Owns the place at which a fork branches off, and the segments it shares.

A fork copies nothing. Positions before its own first one are read from its source, which may itself be a fork: the
segments of a chain are collected when a stream is loaded, so that a read needs no look at the sources. A source that is
deleted keeps its data, and its path, until its last fork is gone.
"""

from dataclasses import dataclass

from proxy.store.json_values import prefix_length
from proxy.store.sqlite.reading import ReadConnection, ReadThreads
from proxy.store.sqlite.state import Entry, Segment

__all__ = ["Branch", "inherited"]


@dataclass(frozen=True, slots=True)
class Branch:
    """A place in a source: `sub` bytes (in JSON mode: values) into the append at `offset`."""

    segments: tuple[Segment, ...]
    offset: int
    sub: int
    is_json: bool

    async def resolve(self, threads: ReadThreads) -> int | None:
        """The position, None when the source has no such place. Raises Unreadable."""
        rest = await threads.run(self._rest)
        if rest is None:
            return None
        if not self.sub:
            return self.offset
        length = await prefix_length(rest, self.sub) if self.is_json else self.sub
        return None if length is None or length > len(rest) else self.offset + length

    def _rest(self, connection: ReadConnection) -> bytes | None:
        """The append at `offset`, from there on; b"" when `sub` is 0. None when the fork would cut a JSON value."""
        if self.is_json and connection.boundary(self.segments, self.offset) != self.offset:
            return None
        return connection.append_at(self.segments, self.offset) if self.sub else b""


def inherited(source: Entry, position: int) -> tuple[Segment, ...]:
    """The segments that a fork of `source` at `position` shares."""
    shared = (Segment(each.stream, each.start, min(each.end, position)) for each in source.segments(position))
    return tuple(each for each in shared if each.start < each.end)
