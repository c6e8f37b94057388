"""Where the bytes of a fork are stored. Owns the place at which a fork branches off, and the segments it shares.

A fork copies nothing. Positions before its own first one are read from its source, which may itself be a fork: the
segments of a chain are collected when a stream is loaded, so that a read needs no look at the sources. A source that is
deleted keeps its data, and its path, until its last fork is gone.
"""

from dataclasses import dataclass

from proxy.store.json_mode import InvalidJson, prefix_length
from proxy.store.sqlite.reading import ReadConnection
from proxy.store.sqlite.state import Entry, Segment

__all__ = ["Branch", "inherited"]


@dataclass(frozen=True, slots=True)
class Branch:
    """A place in a source: `sub` bytes, in JSON mode values, into the append at `offset`."""

    segments: tuple[Segment, ...]
    offset: int
    sub: int
    is_json: bool

    def resolve(self, connection: ReadConnection) -> int | None:
        """The position, None when the source has no such place."""
        if self.is_json and connection.boundary(self.segments, self.offset) != self.offset:
            return None
        if not self.sub:
            return self.offset
        rest = connection.append_at(self.segments, self.offset)
        if not self.is_json:
            return self.offset + self.sub if self.sub <= len(rest) else None
        try:
            length = prefix_length(rest, self.sub)
        except InvalidJson:
            return None
        return None if length is None else self.offset + length


def inherited(source: Entry, position: int) -> tuple[Segment, ...]:
    """The segments that a fork of `source` at `position` shares."""
    shared = (Segment(each.stream, each.start, min(each.end, position)) for each in source.segments(position))
    return tuple(each for each in shared if each.start < each.end)
