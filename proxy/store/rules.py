"""The protocol's decisions: may this append be stored, is this create the same as the one before. No I/O, no clock."""

from proxy.store.outcomes import Outcome, Verdict
from proxy.store.state import Append, Producer, Spec, Stream, media_type

__all__ = ["is_same", "judge"]


def judge(stream: Stream, append: Append) -> Outcome | None:
    """Why `append` is not stored, None when it is to be (protocol sections on append, close and producers).

    Judged by the state after all writes that are on their way. What a producer had stored before stays a duplicate
    when the stream has been closed since, and one that was fenced learns that before it learns of the closure.
    """
    verdict = seq = epoch = None
    if append.producer is not None:
        known = stream.producers.get(append.producer.id)
        verdict = _judge_producer(known, append.producer)
        epoch, seq = known or (0, -1)
        if verdict is Verdict.GAP:
            seq += 1
    if stream.next_closed and verdict not in (Verdict.DUPLICATE, Verdict.STALE_EPOCH):
        is_again = append.producer is None and append.close and not append.pieces
        return _at_end(stream, Verdict.STORED if is_again else Verdict.CLOSED)
    if not stream.next_closed and append.pieces and append.media != stream.media:
        return _at_end(stream, Verdict.WRONG_TYPE)
    if verdict is not None:
        return Outcome(verdict, stream.next_tail, stream.next_closed, epoch or 0, seq or 0)
    if append.seq is not None and stream.last_seq is not None and append.seq <= stream.last_seq:
        return _at_end(stream, Verdict.OUT_OF_ORDER)
    return None


def _at_end(stream: Stream, verdict: Verdict) -> Outcome:
    return Outcome(verdict, stream.next_tail, stream.next_closed)


def _judge_producer(known: tuple[int, int] | None, producer: Producer) -> Verdict | None:
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


def is_same(stream: Stream, spec: Spec) -> bool:
    """Whether creating `stream` with `spec` again asks for what is on disk. A fork may leave out what it inherits."""
    fork = spec.fork
    if (fork is None) != (stream.fork is None) or spec.closed != stream.closed:
        return False
    if spec.content_type is not None and media_type(spec.content_type) != stream.media:
        return False
    inherits_life = fork is not None and spec.ttl is None and spec.expires is None
    if not inherits_life and (spec.ttl, spec.expires_at) != (stream.ttl, stream.expires_at):
        return False
    if fork is None or stream.fork is None:
        return True
    return (
        fork.path == stream.fork.path
        and fork.sub == stream.fork.sub
        and (fork.offset is None or fork.offset == stream.fork.offset)
    )
