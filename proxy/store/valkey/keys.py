"""How a stream is spelled in Redis: the names of its keys, and the fields of its hash.

Everything of a stream is in one slot of a cluster, because its keys share a hash tag. For the stream at `/a`, with the
prefix `ds`:

- `ds:{/a}:m`, a hash: the state, one field for each producer (`p:` and its id: epoch, number, last write).
- `ds:{/a}:d`, a stream: the bytes. An entry's id is the position at which it ends, and 1 when it continues the append
  of the entry before it, else 0.
- `ds:{/a}:f`, a sorted set: the paths of its forks, each with the time until which it needs the bytes.
- `ds:{/a}:c`, a channel of sharded publish/subscribe: its news.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from proxy.store.model import Fork, ProducerStamp, Spec, Stream, Verdict
from proxy.store.rules import AppendState
from proxy.store.shared.backend import Creation, News, Ref, SharedSegment, StoredState
from proxy.store.valkey.resp import Reply

__all__ = [
    "Namer",
    "StreamKeys",
    "creation_fields",
    "encoded_command",
    "news_of",
    "producer_field",
    "producer_value",
    "source_of",
    "state_of",
]  # fmt: skip

_REMEMBERED = 10_000  # paths whose keys need not be spelled again


class StreamKeys(NamedTuple):
    """The keys of one stream."""

    state: bytes
    data: bytes
    forks: bytes
    channel: bytes
    encoded: bytes  # all of them as arguments of a script


class Namer:
    """Keys of streams, all of which begin with `prefix`."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.encode("latin-1")
        self.of = lru_cache(maxsize=_REMEMBERED)(self._of)

    def _of(self, path: str) -> StreamKeys:
        base = b"%b:{%b}:" % (self._prefix, path.encode("latin-1"))
        state, data, forks, channel = base + b"m", base + b"d", base + b"f", base + b"c"
        encoded = b"".join([b"$%d\r\n%b\r\n" % (len(key), key) for key in (state, data, forks, channel)])
        return StreamKeys(state, data, forks, channel, encoded)

    def path_of(self, channel: bytes) -> str:
        """The path of the stream whose channel it is."""
        return channel[len(self._prefix) + 2 : -3].decode("latin-1")


def encoded_command(sha: bytes, keys: StreamKeys, arguments: Sequence[bytes]) -> bytes:
    """The call of the script `sha` on one stream."""
    parts = [b"*%d\r\n$7\r\nEVALSHA\r\n$40\r\n%b\r\n$1\r\n4\r\n%b" % (len(arguments) + 7, sha, keys.encoded)]
    parts += [b"$%d\r\n%b\r\n" % (len(argument), argument) for argument in arguments]
    return b"".join(parts)


def source_of(reply: Sequence[Reply]) -> Ref | None:
    """The source of a fork from two fields of its hash, its path and what `creation_fields` wrote beside it."""
    match reply:
        case [bytes() as path, bytes() as shared]:
            return Ref(path.decode("latin-1"), json.loads(shared)[0])
    return None


def creation_fields(creation: Creation) -> list[bytes]:
    """The fields of a new stream's hash, flat, but for those that the script adds."""
    spec, fork = creation.spec, creation.spec.fork
    fields: dict[bytes, str | int] = {}
    if spec.content_type is not None:
        fields[b"y"] = spec.content_type
    if spec.closed:
        fields[b"c"] = 1
    if spec.ttl is not None:
        fields[b"l"] = spec.ttl
    if spec.expires_at is not None:
        fields[b"a"] = spec.expires_at
    if spec.expires is not None:
        fields[b"e"] = spec.expires
    if fork is not None and fork.offset is not None:
        shared = [[each.ref.path, each.ref.id, each.start, each.end] for each in creation.inherited]
        source = creation.source
        fields |= {b"k": fork.path, b"o": fork.offset, b"u": fork.sub, b"b": creation.start}
        fields[b"h"] = json.dumps([source.id if source else 0, shared])
    return [part for name, value in fields.items() for part in (name, str(value).encode("latin-1"))]


def producer_field(producer: str) -> bytes:
    """The field of a producer."""
    return b"p:%b" % producer.encode("latin-1")


def producer_value(producer: ProducerStamp, revision: int) -> bytes:
    """What is remembered of a producer: the last write says who was silent for longest."""
    return b"%d %d %d" % (producer.epoch, producer.seq, revision)


def state_of(path: str, reply: Reply) -> StoredState | None:
    """The state that a script gives: the time, and if there is a stream, whether it is over, and its hash, flat."""
    if not isinstance(reply, list) or len(reply) == 1:
        return None
    _, over, hash_ = reply
    if not isinstance(hash_, list):
        raise TypeError(hash_)
    texts = [each.decode("latin-1") for each in hash_ if isinstance(each, bytes)]
    fields = dict(zip(texts[::2], texts[1::2], strict=True))
    number = int(fields["i"])
    start = int(fields.get("b", 0))
    fork = source = None
    inherited: tuple[SharedSegment, ...] = ()
    if "k" in fields:
        fork = Fork(fields["k"], int(fields["o"]), int(fields["u"]))
        source_id, shared = json.loads(fields["h"])
        source = Ref(fork.path, source_id)
        inherited = tuple(SharedSegment(Ref(each, of), first, end) for each, of, first, end in shared)
    ttl = fields.get("l")
    expires = fields.get("e")
    spec = Spec(fields.get("y"), None if ttl is None else int(ttl), fields.get("a"), fork=fork)
    stream = Stream.of(number, path, spec, number // 1000)
    _, revision, tail, *_ = fields["s"].split(" ")
    judged = AppendState(stream.media, int(tail), "c" in fields, fields.get("q"), _producers(fields))
    absence = Verdict.GONE if over else None
    kept = None if expires is None else int(expires)
    return StoredState(stream, int(revision), fields["n"], judged, start, inherited, source, kept, absence)


def _producers(fields: dict[str, str]) -> dict[str, tuple[int, int]]:
    """The producers, the one that was silent for longest first."""
    found: list[tuple[int, str, int, int]] = []
    for name, value in fields.items():
        if name.startswith("p:"):
            epoch, seq, revision = map(int, value.split(" "))
            found.append((revision, name[2:], epoch, seq))
    if len(found) > 1:
        found.sort()
    return {name: (epoch, seq) for _, name, epoch, seq in found}


def news_of(message: bytes) -> News:
    """A push: `id revision tail flags lengths`, a line feed, and the bytes.

    Flags are c for closed and x for removed; lengths are those of the pieces, or - when they are not pushed.
    """
    head, _, data = message.partition(b"\n")
    number, revision, tail, flags, lengths = head.split(b" ")
    pieces: list[bytes] = []
    start = 0
    for length in lengths.split(b",") if lengths != b"-" else ():
        pieces.append(data[start : start + int(length)])
        start += int(length)
    return News(int(number), int(revision), int(tail), b"c" in flags, b"x" in flags, pieces)
