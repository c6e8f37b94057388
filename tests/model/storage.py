"""What storage does with a request in the model: Durable Streams as far as the protocol rests on it."""

from tests.model.state import FINDER, RECORD, STREAM, Lock, Op, State, changed

__all__ = ["apply"]


def apply(state: State, op: Op) -> tuple[State, str]:
    """What storage holds afterwards, and what it answers."""
    kind, which = op[0], op[1]
    assert isinstance(which, int)
    if kind == "lock":
        return _extend(state, op)
    if kind == "put stream":
        if state.was[which]:  # a name is made once: see docs/internals/model.md, what it leaves out
            return state, "stored"
        return changed(changed(state, "streams", which, STREAM), "was", which, True), "stored"
    if kind == "put record":
        if state.records[which] is None and state.deletes[which] == "-":
            state = changed(state, "records", which, RECORD)
        return state, "stored"
    if kind == "delete stream":
        return changed(changed(state, "streams", which, None), "was", which, True), "stored"
    if kind == "delete record":
        return changed(state, "records", which, None), "stored"
    if kind == "remove":  # `Desk.remove`: the one, then the other
        return changed(apply(state, ("delete stream", which))[0], "records", which, None), "stored"
    if kind == "outcome":
        return _record(state, op)
    return _append(state, op)


def _extend(state: State, op: Op) -> tuple[State, str]:
    """`Ledger.extend`: the message is stored if its writer knew all that is there."""
    _, token, known, kind = op
    lock = state.lock
    if lock.number != known:
        is_ours = known == lock.number - 1 and lock.token == token and lock.kind == kind
        return state, "stored" if is_ours else "taken"
    assert isinstance(known, int)
    assert isinstance(token, int)
    return state._replace(lock=Lock(known + 1, str(kind), token)), "stored"


def _record(state: State, op: Op) -> tuple[State, str]:
    _, which, epoch, outcome = op
    assert isinstance(which, int)
    assert isinstance(epoch, int)
    record = state.records[which]
    if record is None:
        return state, "gone"
    if record.outcome:
        return state, "stored" if epoch == record.epoch else "fenced" if epoch < record.epoch else "closed"
    stored = record._replace(outcome=str(outcome), is_found=epoch == FINDER, epoch=epoch)
    return changed(state, "records", which, stored), "stored"


def _append(state: State, op: Op) -> tuple[State, str]:
    """An append of an idempotent producer: ("append", stream, epoch, seq, data, closes)."""
    _, which, epoch, seq, data, closes = op
    assert isinstance(which, int)
    assert isinstance(epoch, int)
    assert isinstance(seq, int)
    stream = state.streams[which]
    if stream is None:
        return state, "gone"
    if state.closed_first and stream.closed is not None:
        return state, "duplicate" if (epoch, seq) == (stream.closed, stream.seq) else "closed"
    last = stream.seq if epoch <= stream.epoch else -1
    if epoch < stream.epoch:
        return state, "fenced"
    if seq <= last:
        return state, "duplicate"
    if stream.closed is not None:
        return state, "closed"
    if seq != last + 1:
        return state, "gap"
    closed = epoch if closes else None
    stored = stream._replace(data=stream.data + str(data), closed=closed, epoch=epoch, seq=seq)
    return changed(state, "streams", which, stored), "stored"
