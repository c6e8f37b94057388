"""Forks: a stream that shares another's first bytes. Owns where a fork may branch off and what it inherits.

A fork copies nothing: positions up to where it branches off are read from its source, and go on from there.
"""

from dataclasses import dataclass, replace

from proxy.store.outcomes import Verdict
from proxy.store.protocol.json_mode import InvalidJson, prefix_length
from proxy.store.sqlite.reading import Reader
from proxy.store.state import Fork, Segment, Spec, Stream, media_type

__all__ = ["Branch", "inherited", "inherited_spec", "refusal"]


def refusal(source: Stream, spec: Spec, fork: Fork) -> Verdict | None:
    """Why `source` cannot be forked as `spec` and its `fork` say, None when it can."""
    if source.deleted:
        return Verdict.SOURCE_GONE
    if spec.content_type is not None and media_type(spec.content_type) != source.media:
        return Verdict.SOURCE_TYPE
    if fork.offset is not None and fork.offset > source.tail:
        return Verdict.BAD_FORK
    return None


@dataclass(frozen=True, slots=True)
class Branch:
    """A place in a source: `sub` bytes, in JSON mode values, into the append at `offset`."""

    segments: tuple[Segment, ...]
    offset: int
    sub: int
    is_json: bool

    def resolve(self, reader: Reader) -> int | None:
        """The position, None when the source has no such place."""
        if self.is_json and reader.boundary(self.segments, self.offset) != self.offset:
            return None
        if not self.sub:
            return self.offset
        rest = reader.append_at(self.segments, self.offset)
        if not self.is_json:
            return self.offset + self.sub if self.sub <= len(rest) else None
        try:
            length = prefix_length(rest, self.sub)
        except InvalidJson:
            return None
        return None if length is None else self.offset + length


def inherited(source: Stream, position: int) -> tuple[Segment, ...]:
    """The segments that a fork of `source` at `position` shares."""
    shared = (Segment(each.stream, each.start, min(each.end, position)) for each in source.segments(position))
    return tuple(each for each in shared if each.start < each.end)


def inherited_spec(source: Stream, spec: Spec) -> Spec:
    """`spec` with what it leaves out taken from `source`: the content type, and when neither is given the expiry."""
    if spec.content_type is None:
        spec = replace(spec, content_type=source.content_type)
    if spec.ttl is None and spec.expires is None:
        expires = source.expires if source.ttl is None else None
        spec = replace(spec, ttl=source.ttl, expires_at=source.expires_at, expires=expires)
    return spec
