"""The steps of the model, under the names that they have in the code, and what must hold at each.

The key's two creates run on instances 0 and 1, or both on 0; each makes a stream of its own, of two appends. A third
instance reads, finds orphans and deletes. `bugs` are planted mistakes: each must be found.
"""

from collections.abc import Iterator

from tests.model.endings import Endings
from tests.model.search import Step, Wrong
from tests.model.state import Call, Op, State, Transfer, changed
from tests.model.storage import apply

__all__ = ["Protocol"]

_LICENSED = ("resolve", "replay", "claim", "ask", "make stream", "make record", "settle", "finish")
_FINAL = ("-", "over", "dead")


class Protocol(Endings):
    """The protocol within `bounds`, with some `bugs`."""

    def steps(self, state: State) -> Iterator[Step]:
        """Every step from a state, by its name. Raises Wrong."""
        for instance in (0, 1):
            yield from self._instance(state, instance)
        for which in range(self._bounds.creates):
            for steps in (self._call, self._transfer, self._find, self._read, self._delete):
                for name, following in steps(state, which):
                    self._check(state, following)
                    yield name, following
        for op in state.late:
            following = apply(state._replace(late=state.late - {op}), op)[0]
            self._check(state, following)
            yield f"!late {op[0]}", following

    # Instances and leases

    def _instance(self, state: State, which: int) -> Iterator[Step]:
        crashes, freezes, expiries, late = state.left
        life, lease = state.life[which], state.lease[which]
        if life == "dead":
            if lease == "held":
                yield "Lease runs out", changed(state, "lease", which, "lost")
            return
        if crashes:
            yield "!crash", self._crashed(state, which)._replace(left=(crashes - 1, freezes, expiries, late))
        if life == "frozen":
            thawed = changed(state, "life", which, "up")
            # The timer of the lapse is overdue, and runs before anything else of the process.
            yield "thaw", self._lapsed(thawed, which) if lease == "lapsed" else thawed
            if lease != "lapsed":
                yield "Lease runs out", changed(state, "lease", which, "lost" if lease == "held" else "lapsed")
            return
        if freezes:
            frozen = changed(changed(state, "life", which, "frozen"), "frozen", which, True)
            yield "!freeze", frozen._replace(left=(crashes, freezes - 1, expiries, late))
        if lease == "held" and expiries:
            spent = state._replace(left=(crashes, freezes, expiries - 1, late))
            yield "!expiry", changed(spent, "lease", which, "lost")
        if lease != "held":
            yield "Lease._renew", changed(state, "lease", which, "held")
        if lease == "lost":
            yield "Member._cancel_licensed", self._lapsed(changed(state, "lease", which, "lapsed"), which)

    def _crashed(self, state: State, which: int) -> State:
        state = changed(state, "life", which, "dead")
        for number, call in enumerate(state.calls):
            if call.instance == which and call.step != "-":
                state = changed(state, "calls", number, Call("dead", which))
                state = changed(state, "transfers", number, Transfer("over", "-"))
        return state

    def _lapsed(self, state: State, which: int) -> State:
        """What is licensed is cancelled, before anybody can take the instance for dead."""
        if "a call goes on without its lease" in self._bugs:
            return state
        for number, call in enumerate(state.calls):
            if call.instance == which and call.step in _LICENSED:
                state = self._undone(state, number)
        return state

    def _is_gone(self, state: State, which: int) -> bool:
        """`is_gone`: three looks without a lease, the last of them later than one look after `held_until`."""
        if "dead at the first look" in self._bugs and state.lease[which] != "held":
            return True
        return state.lease[which] == "lapsed" or (state.lease[which] == "lost" and state.life[which] == "dead")

    # Creates under the key

    def _call(self, state: State, which: int) -> Iterator[Step]:
        call = state.calls[which]
        if call.step == "-" and (which == 0 or state.calls[which - 1].step != "-"):
            for instance in range(which + 1):  # the two are alike: the first create is on instance 0
                if state.life[instance] == "up":
                    yield "Create._make_once", changed(state, "calls", which, Call("resolve", instance))
        if call.step in _FINAL or state.life[call.instance] != "up":
            return
        yield from getattr(self, "_" + call.step.replace(" ", "_"))(state, which, call)

    def _to(self, state: State, which: int, **fields: object) -> State:
        call = state.calls[which]._replace(**fields)  # type: ignore[arg-type]  # by their names
        return changed(state, "calls", which, Call(call.step, call.instance) if call.step == "over" else call)

    def _resolve(self, state: State, which: int, call: Call) -> Iterator[Step]:
        lock = state.lock
        if lock.kind == "Settled":
            yield "Keys._found", self._to(state, which, step="replay", former=lock.token)
        elif lock.kind == "Held":
            if "a replay of a stream that is not settled" in self._bugs and state.records[lock.token] is not None:
                yield "Keys._found", self._to(state, which, step="replay", former=lock.token)
            if self._is_gone(state, state.calls[lock.token].instance):
                yield "Keys._found", self._claimed(state, which, lock.token)
        else:
            yield "Keys._found", self._claimed(state, which, -1)

    def _claimed(self, state: State, which: int, former: int) -> State:
        """`Member.owner`: a claim is made only by who holds the lease."""
        if state.lease[state.calls[which].instance] != "held":
            return self._to(state, which, step="over")
        return self._to(state, which, step="claim", known=state.lock.number, claimed=state.lock.number, former=former)

    def _replay(self, state: State, which: int, call: Call) -> Iterator[Step]:
        if state.streams[call.former] is not None and state.records[call.former] is not None:
            yield "Keys._replay", self._answered(self._to(state, which, step="over"), call.former)
        else:
            yield "Keys._replay", self._claimed(state, which, -1)

    def _claim(self, state: State, which: int, call: Call) -> Iterator[Step]:
        def then(state: State, result: str) -> State:
            if result == "taken":
                return self._to(state, which, step="resolve")
            if call.former >= 0:
                state = self._withdrawn(state, call.former)
            if "a claim is cleared too early" in self._bugs:
                state = apply(state, ("lock", which, call.known + 1, "Free"))[0]
            return self._to(state, which, step="ask", known=call.known + 1, claimed=-1, former=-1)

        op = ("lock", which, call.known, "Held")
        yield from self._send(state, "Lock.claim", op, then, lambda state: self._undone(state, which))

    def _ask(self, state: State, which: int, call: Call) -> Iterator[Step]:
        if state.transfers[which].upstream == "-":
            for other, transfer in enumerate(state.transfers):
                there = state.calls[other].instance
                if transfer.upstream == "open" and state.life[there] == "up" and not state.frozen[there]:
                    raise Wrong("I6: two calls under one key at once")
                if other in state.named and state.deletes[other] == "-":
                    raise Wrong("I6: the upstream is called again, though the key names a stream")
            yield "Upstream.ask", changed(state, "transfers", which, Transfer("-", "open"))
            return
        yield "Upstream.ask", self._to(state, which, step="make stream")
        yield "Claim.give_back", self._undone(state, which)  # the upstream has refused, or the caller has gone

    def _make_stream(self, state: State, which: int, call: Call) -> Iterator[Step]:
        yield from self._make(state, which, ("put stream", which), "make record")

    def _make_record(self, state: State, which: int, call: Call) -> Iterator[Step]:
        yield from self._make(state, which, ("put record", which), "settle")

    def _make(self, state: State, which: int, op: Op, following: str) -> Iterator[Step]:
        def then(state: State, _: str) -> State:
            if following == "settle":
                running = state.transfers[which]._replace(step="first" if self._bounds.appends else "over")
                state = changed(state, "transfers", which, running)
            return self._to(state, which, step=following)

        yield from self._send(state, "Transfer._make", op, then, lambda state: self._undone(state, which))

    def _settle(self, state: State, which: int, call: Call) -> Iterator[Step]:
        """`Claim.keep`. A caller whose request fails gets an error; the claim is settled in the background: finish."""

        def then(state: State, result: str) -> State:
            state = self._to(state, which, step="over")
            if result == "taken":
                return self._withdrawn(state, which)
            return self._answered(state, which) if call.step == "settle" else state

        op = ("lock", which, call.known, "Settled")
        yield from self._send(state, "Lock.settle", op, then, lambda state: self._to(state, which, step="finish"))

    _finish = _settle

    def _undone(self, state: State, which: int) -> State:
        """The call ends without a stream: its upstream is cut, its claim is to be given back."""
        if state.calls[which].step in ("resolve", "replay"):
            return self._to(state, which, step="over")
        if state.transfers[which].upstream == "open":
            state = changed(state, "transfers", which, state.transfers[which]._replace(upstream="cut"))
        return self._to(state, which, step="undo", known=0, former=-1)

    def _undo(self, state: State, which: int, call: Call) -> Iterator[Step]:
        """`Keys._finish` and `Keys.give_back`: look how the lock stands, then release it."""
        lock = state.lock
        if lock.kind == "Settled" and lock.token == which and "a settled stream is withdrawn" not in self._bugs:
            yield "Keys._finish", self._to(state, which, step="over")
        elif (lock.kind == "Held" and lock.token == which) or lock.number <= call.claimed:
            yield "Keys._finish", self._to(state, which, step="release", known=lock.number)
        else:
            yield "Keys._finish", self._withdrawn(self._to(state, which, step="over"), which)

    def _release(self, state: State, which: int, call: Call) -> Iterator[Step]:
        def then(state: State, result: str) -> State:
            if result == "taken":
                return self._to(state, which, step="undo")
            return self._withdrawn(self._to(state, which, step="over"), which)

        op = ("lock", which, call.known, "Free")
        yield from self._send(state, "Lock.release", op, then, lambda state: self._to(state, which, step="undo"))

    def _withdrawn(self, state: State, which: int) -> State:
        """`Transfers.withdraw`: what was made is removed, sooner or later, or never; its transfer stops."""
        target = state.lock.token if "a clean-up deletes what the key names" in self._bugs else which
        state = state._replace(late=state.late | {("remove", target)})
        if state.transfers[which].step != "over":
            state = changed(state, "transfers", which, Transfer("over", "cut"))
        return state

    def _answered(self, state: State, token: int) -> State:
        """A caller is answered with a stream."""
        if token not in state.named:
            if any(state.deletes[other] == "-" for other in state.named):
                raise Wrong("F2: a key names two streams")
            is_there = state.streams[token] is not None and state.records[token] is not None
            if not is_there and state.deletes[token] == "-":
                raise Wrong("I9: a caller is answered with a stream that is not there")
        return state._replace(named=state.named | {token})
