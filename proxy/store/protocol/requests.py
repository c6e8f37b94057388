"""A request's headers and query parameters as values. Owns their syntax, and refuses what does not follow it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from urllib.parse import parse_qsl

from proxy.store.model import DEFAULT_TYPE, Append, Fork, ProducerStamp, Spec, media_type
from proxy.store.protocol.offsets import parse_offset

__all__ = ["BadRequest", "Fields", "LiveMode", "Query", "parse_append", "parse_query", "parse_spec"]

Fields = Mapping[bytes, bytes]
"""A request's header fields by name, repeated ones joined."""

_WHOLE = re.compile(rb"0|[1-9][0-9]{0,11}")  # seconds or counts; the bound keeps milliseconds within 64 bits
_LARGEST = 2**53 - 1  # the largest whole number that JavaScript counts exactly
_LONGEST_COUNT = 16  # digits of `_LARGEST`
_REMEMBERED = 64  # content types whose media type need not be parsed again
_LONGEST = 255  # bytes of a field value that is stored with a stream or with one of its producers
_TYPE = re.compile(rb"[\w-]+/[\w-]+")


class BadRequest(Exception):
    """The request cannot be understood; the message is for the caller."""


class LiveMode(Enum):
    """How a read goes on when it has everything."""

    LONG_POLL = "long-poll"
    SSE = "sse"


@dataclass(frozen=True, slots=True)
class Query:
    """A read. `position` None: the stream's end as it is now."""

    position: int | None
    live: LiveMode | None
    cursor: str | None


def parse_query(query: bytes) -> Query:
    """The parameters of a read. Unknown parameters are ignored. Raises BadRequest."""
    given: dict[str, str] = {}
    if query:
        for name, value in parse_qsl(query.decode("latin-1"), keep_blank_values=True):
            if name in given and name in ("offset", "live", "cursor"):
                raise BadRequest(f"the parameter {name} is given more than once")
            given[name] = value
    live = _live(given.get("live"))
    if live is not None and "offset" not in given:
        raise BadRequest("a live read needs an offset")
    return Query(_position(given.get("offset", "-1")), live, given.get("cursor"))


def _live(value: str | None) -> LiveMode | None:
    if value is None:
        return None
    try:
        return LiveMode(value)
    except ValueError:
        raise BadRequest("live is neither long-poll nor sse") from None


def _position(token: str) -> int | None:
    if token == "now":  # noqa: S105  # a token of a position
        return None
    position = 0 if token == "-1" else parse_offset(token)  # noqa: S105  # the same
    if position is None:
        raise BadRequest("the offset is not one of this protocol")
    return position


def parse_append(fields: Fields) -> Append:
    """What a POST asks for, without its content. Raises BadRequest."""
    content_type = fields.get(b"content-type")
    seq = _short(fields, b"stream-seq") if b"stream-seq" in fields else None
    return Append(
        None if content_type is None else _media_type(content_type),
        _producer(fields),
        None if seq is None else seq.decode("latin-1"),
        _closes(fields),
    )


def _short(fields: Fields, name: bytes) -> bytes | None:
    """The value of a field that is stored. It is bounded, because responses repeat it: readers refuse a large head."""
    value = fields.get(name)
    if value is not None and len(value) > _LONGEST:
        raise BadRequest(f"{name.decode()} is longer than {_LONGEST} bytes")
    return value


@lru_cache(maxsize=_REMEMBERED)
def _media_type(content_type: bytes) -> str:
    if len(content_type) > _LONGEST:
        raise BadRequest(f"content-type is longer than {_LONGEST} bytes")
    return media_type(content_type.decode("latin-1"))


def _closes(fields: Fields) -> bool:
    value = fields.get(b"stream-closed")
    return value is not None and value.lower() == b"true"


def _producer(fields: Fields) -> ProducerStamp | None:
    name = _short(fields, b"producer-id")
    epoch = fields.get(b"producer-epoch")
    seq = fields.get(b"producer-seq")
    if name is None and epoch is None and seq is None:
        return None
    if not name or epoch is None or seq is None:
        raise BadRequest("Producer-Id, Producer-Epoch and Producer-Seq go together, and none is empty")
    return ProducerStamp(name.decode("latin-1"), _count("Producer-Epoch", epoch), _count("Producer-Seq", seq))


def _count(name: str, value: bytes) -> int:
    if not value.isdigit() or len(value) > _LONGEST_COUNT or int(value) > _LARGEST:
        raise BadRequest(f"{name} is not a whole number")
    return int(value)


def parse_spec(fields: Fields) -> Spec:
    """What a PUT asks for. A malformed content type counts as left out. Raises BadRequest."""
    given = _short(fields, b"content-type") or b""
    fork = _fork(fields)
    content_type = given.decode("latin-1") if _TYPE.match(given) else None
    if content_type is None and fork is None:
        content_type = DEFAULT_TYPE
    ttl = fields.get(b"stream-ttl")
    expires_at = _short(fields, b"stream-expires-at")
    if ttl is not None and expires_at is not None:
        raise BadRequest("Stream-TTL and Stream-Expires-At exclude each other")
    if ttl is not None and not _WHOLE.fullmatch(ttl):
        raise BadRequest("Stream-TTL is not a number of seconds")
    text = None if expires_at is None else expires_at.decode("latin-1")
    return Spec(
        content_type=content_type,
        ttl=None if ttl is None else int(ttl),
        expires_at=text,
        expires=None if text is None else _milliseconds(text),
        closed=_closes(fields),
        fork=fork,
    )


def _milliseconds(text: str) -> int:
    """An ISO 8601 time as Unix milliseconds; without an offset it is UTC."""
    try:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return int(moment.timestamp() * 1000)
    except (ValueError, OverflowError):
        raise BadRequest("Stream-Expires-At is not a time in ISO 8601") from None


def _fork(fields: Fields) -> Fork | None:
    source = fields.get(b"stream-forked-from")
    offset = fields.get(b"stream-fork-offset")
    sub = fields.get(b"stream-fork-sub-offset")
    if source is None:
        if offset is not None or sub is not None:
            raise BadRequest("a fork offset needs Stream-Forked-From")
        return None
    if not source.startswith(b"/"):
        raise BadRequest("Stream-Forked-From is not the path of a stream")
    position = None
    if offset is not None:
        position = parse_offset(offset.decode("latin-1"))
        if position is None:
            raise BadRequest("Stream-Fork-Offset is not an offset")
    if sub is not None and not _WHOLE.fullmatch(sub):
        raise BadRequest("Stream-Fork-Sub-Offset is not a whole number")
    return Fork(source.decode("latin-1"), position, 0 if sub is None else int(sub))
