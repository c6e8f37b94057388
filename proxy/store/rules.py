"""The protocol's decisions, the same for every engine: is an append stored, is a create a repetition, may a fork be
made. No I/O, no clock.
"""

from dataclasses import dataclass, field, replace

from proxy.store.model import Append, Fork, ProducerStamp, Result, Spec, Stream, Verdict, View, media_type

__all__ = ["AppendState", "accept", "fork_offset", "inherited_spec", "is_same", "judge"]


@dataclass(slots=True)
class AppendState:
    """The state by which the next append to a stream is judged: its end, its last `Stream-Seq`, and its producers.

    `producers` maps an id to (epoch, last sequence number); the producer that has been silent for longest is first. An
    engine may have appends on their way to the disk. It judges by the state after them, so `tail` may be ahead of what
    readers see.
    """

    media: str
    tail: int = 0
    closed: bool = False
    last_seq: str | None = None
    producers: dict[str, tuple[int, int]] = field(default_factory=dict)


def judge(state: AppendState, append: Append) -> Result | None:
    """Why `append` must not be stored; None when it may be (protocol sections on append, close and producers).

    The order of the checks matters to producers. An append that was stored before stays a duplicate when the stream
    has been closed since: a producer whose answer was lost must learn that it succeeded. And a producer that has been
    replaced (its epoch is too low) learns that before it learns of the closure.
    """
    verdict = seq = epoch = None
    if append.producer is not None:
        known = state.producers.get(append.producer.id)
        verdict = _judge_producer(known, append.producer)
        epoch, seq = known or (0, -1)
        if verdict is Verdict.GAP:
            seq += 1
    has_content = append.content.size > 0
    if state.closed and verdict not in (Verdict.DUPLICATE, Verdict.STALE_EPOCH):
        is_again = append.producer is None and append.close and not has_content
        return _at_end(state, Verdict.STORED if is_again else Verdict.CLOSED)
    if not state.closed and has_content and append.media != state.media:
        return _at_end(state, Verdict.WRONG_TYPE)
    if verdict is not None:
        return Result(verdict, state.tail, state.closed, epoch or 0, seq or 0)
    if append.seq is not None and state.last_seq is not None and append.seq <= state.last_seq:
        return _at_end(state, Verdict.OUT_OF_ORDER)
    return None


def _at_end(state: AppendState, verdict: Verdict) -> Result:
    return Result(verdict, state.tail, state.closed)


def _judge_producer(known: tuple[int, int] | None, producer: ProducerStamp) -> Verdict | None:
    """The verdict on a producer whose last accepted (epoch, seq) is `known`; None accepts."""
    if known is None:
        return None if producer.seq == 0 else Verdict.GAP
    epoch, last = known
    if producer.epoch < epoch:
        return Verdict.STALE_EPOCH
    if producer.epoch > epoch:
        return None if producer.seq == 0 else Verdict.EPOCH_START
    if producer.seq <= last:
        return Verdict.DUPLICATE
    return None if producer.seq == last + 1 else Verdict.GAP


def accept(state: AppendState, append: Append, size: int, producers: int) -> str | None:
    """Change `state` to the state after `append`, which `judge` accepted and which adds `size` stored bytes.

    At most `producers` are remembered. Returns the id of the producer that was forgotten to make room, if any.
    """
    forgotten = None
    state.tail += size
    if append.close:
        state.closed = True
    if append.seq is not None:
        state.last_seq = append.seq
    if (producer := append.producer) is not None:
        known = state.producers
        if known.pop(producer.id, None) is None and len(known) >= producers:
            forgotten = next(iter(known))
            del known[forgotten]
        known[producer.id] = (producer.epoch, producer.seq)
    return forgotten


def is_same(view: View, spec: Spec) -> bool:
    """Whether a create with `spec` asks for the stream that exists. A fork may leave out what it inherits."""
    stream, fork = view.stream, spec.fork
    if (fork is None) != (stream.fork is None) or spec.closed != view.closed:
        return False
    if spec.content_type is not None and media_type(spec.content_type) != stream.media:
        return False
    inherits_expiry = fork is not None and spec.ttl is None and spec.expires is None
    if not inherits_expiry and (spec.ttl, spec.expires_at) != (stream.ttl, stream.expires_at):
        return False
    if fork is None or stream.fork is None:
        return True
    return (
        fork.path == stream.fork.path
        and fork.sub == stream.fork.sub
        and (fork.offset is None or fork.offset == stream.fork.offset)
    )


def fork_offset(source: View, spec: Spec, fork: Fork) -> int | Verdict:
    """The offset at which a fork of `source` with `spec` begins; or why it cannot be made."""
    if source.absence is not None:
        return Verdict.SOURCE_GONE
    if spec.content_type is not None and media_type(spec.content_type) != source.stream.media:
        return Verdict.SOURCE_TYPE
    if fork.offset is not None and fork.offset > source.tail:
        return Verdict.BAD_FORK
    return source.tail if fork.offset is None else fork.offset


def inherited_spec(source: Stream, expires: int | None, spec: Spec) -> Spec:
    """`spec`, with the settings that it leaves out taken from `source`, which expires at `expires`.

    These are the content type, and the TTL or fixed time of expiry when `spec` has neither.
    """
    if spec.content_type is None:
        spec = replace(spec, content_type=source.content_type)
    if spec.ttl is None and spec.expires is None:
        fixed = expires if source.ttl is None else None
        spec = replace(spec, ttl=source.ttl, expires_at=source.expires_at, expires=fixed)
    return spec
