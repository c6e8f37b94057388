"""The steps of the model from a stream that is made to one that has ended: transfer, finders, readers, deletes.

A transfer that is to end, whether by an abort here, by mail, or because its upstream fails, has its upstream cut: these
are one step here.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

from tests.model.search import Step, Wrong
from tests.model.state import FINDER, OWNER, Bounds, Op, Record, State, Transfer, changed
from tests.model.storage import apply

__all__ = ["Endings"]

Then = Callable[[State, str], State]
_STOPPED = ("fenced", "closed", "gone", "gap")


class Endings(ABC):
    """How streams end, within `bounds`, with some `bugs`."""

    def __init__(self, bounds: Bounds, bugs: frozenset[str] = frozenset()) -> None:
        self._bounds = bounds
        self._bugs = bugs
        self._finder = OWNER if "an orphan is not fenced" in bugs else FINDER

    def _send(self, state: State, name: str, op: Op, then: Then, given_up: Callable[[State], State]) -> Iterator[Step]:
        """A request to storage: answered; or done and not heard, or held on its way, and then repeated or given up."""
        yield name, then(*apply(state, op))
        crashes, freezes, expiries, late = state.left
        if late:
            spent = state._replace(left=(crashes, freezes, expiries, late - 1))
            held = spent._replace(late=spent.late | {op})
            yield "!answer lost", apply(spent, op)[0]
            yield "!held", held
            yield "!given up", given_up(held)

    # The owner's transfer

    def _transfer(self, state: State, which: int) -> Iterator[Step]:
        transfer, call = state.transfers[which], state.calls[which]
        if transfer.step in ("-", "over") or state.life[call.instance] != "up":
            return
        if transfer.upstream == "open" and transfer.step in ("first", "last"):
            yield "Transfer.abort", self._at(state, which, upstream="cut")
        yield from getattr(self, "_" + transfer.step.replace(" ", "_"))(state, which, transfer)

    def _at(self, state: State, which: int, **fields: str) -> State:
        transfer = state.transfers[which]._replace(**fields)
        if transfer.step == "over":
            transfer = Transfer("over", "whole" if transfer.upstream == "whole" else "cut")
        return changed(state, "transfers", which, transfer)

    def _first(self, state: State, which: int, transfer: Transfer) -> Iterator[Step]:
        """The first append. When it is given up, the stream ends; whether it was stored is in doubt."""
        op = ("append", which, OWNER, 0, "0", False)

        def then(state: State, result: str) -> State:
            return self._at(state, which, step="over" if result in _STOPPED else "last")

        def given_up(state: State) -> State:
            if "a failed append is dropped" in self._bugs:
                return self._at(state, which, step="last")
            return self._at(state, which, step="outcome in doubt of the first", upstream="cut")

        yield from self._send(state, "Producer.append", op, then, given_up)
        if "a retry has a new number" in self._bugs:
            yield "Producer.append", apply(apply(state, op)[0], ("append", which, OWNER, 1, "0", False))[0]

    def _last(self, state: State, which: int, transfer: Transfer) -> Iterator[Step]:
        """What is left, which closes the stream, if the upstream ends whole."""
        if transfer.upstream == "open":
            yield "upstream ends", self._at(state, which, upstream="whole")
            return
        if transfer.upstream == "cut":
            first = "close" if "the close comes before the outcome" in self._bugs else "outcome"
            yield "pump", self._at(state, which, step=first)
            return
        seq = 0 if "a failed append is dropped" in self._bugs and not state.streams[which] else 1

        def then(state: State, result: str) -> State:
            return self._at(state, which, step="foreign" if result == "closed" else "over")

        def given_up(state: State) -> State:
            is_bug = "a last append in doubt is forgotten" in self._bugs
            return self._at(state, which, step="outcome" if is_bug else "in doubt")

        yield from self._send(state, "Producer.append", ("append", which, OWNER, seq, "1", True), then, given_up)

    def _outcome(self, state: State, which: int, transfer: Transfer) -> Iterator[Step]:
        """`Endings.end_own`: the outcome first; a finder may have been faster."""
        if "an outcome is not recorded" in self._bugs:
            yield "Endings.end_own", self._at(state, which, step="close")
            return

        def then(state: State, result: str) -> State:
            following = "over" if "the close comes before the outcome" in self._bugs else "close"
            return self._at(state, which, step="close as finder" if result in ("fenced", "closed") else following)

        op = ("outcome", which, OWNER, "cut")
        yield from self._send(state, "Endings.end_own", op, then, lambda state: state)

    def _close(self, state: State, which: int, transfer: Transfer) -> Iterator[Step]:
        following = "outcome" if "the close comes before the outcome" in self._bugs else "over"
        op = ("append", which, OWNER, 1, "", True)
        yield from self._send(
            state, "Producer.close", op, lambda state, _: self._at(state, which, step=following), lambda state: state
        )

    def _outcome_in_doubt_of_the_first(self, state: State, which: int, transfer: Transfer) -> Iterator[Step]:
        def then(state: State, result: str) -> State:
            return self._at(state, which, step="close as finder" if result in ("fenced", "closed") else "close twice")

        op = ("outcome", which, OWNER, "cut")
        yield from self._send(state, "Endings.end_own", op, then, lambda state: state)

    def _close_twice(self, state: State, which: int, transfer: Transfer) -> Iterator[Step]:
        """`Producer.close` after an append in doubt: under its number, and, answered so, under the next one."""
        op = ("append", which, OWNER, 0, "", True)

        def then(state: State, result: str) -> State:
            return self._at(state, which, step="over" if result in _STOPPED else "close")

        yield from self._send(state, "Producer.close", op, then, lambda state: state)

    def _in_doubt(self, state: State, which: int, transfer: Transfer) -> Iterator[Step]:
        op = ("outcome", which, FINDER, "cut")
        yield from self._send(
            state, "Endings._end_in_doubt", op, lambda state, _: self._at(state, which, step="close as finder"),
            lambda state: state,
        )  # fmt: skip

    def _close_as_finder(self, state: State, which: int, transfer: Transfer) -> Iterator[Step]:
        op = ("append", which, FINDER, 0, "", True)
        yield from self._send(
            state, "Endings._close_as_finder", op, lambda state, _: self._at(state, which, step="over"),
            lambda state: state,
        )  # fmt: skip

    def _foreign(self, state: State, which: int, transfer: Transfer) -> Iterator[Step]:
        op = ("outcome", which, OWNER, "interrupted")
        yield from self._send(
            state, "Endings.record_foreign_close", op, lambda state, _: self._at(state, which, step="over"),
            lambda state: state,
        )  # fmt: skip

    # Finders, who may give up after each request, as one that dies does

    @abstractmethod
    def _is_gone(self, state: State, which: int) -> bool:
        """Whether a finder counts the owner `which` as dead."""

    def _find(self, state: State, which: int) -> Iterator[Step]:
        step, stream = state.finders[which], state.streams[which]
        if which not in state.named:  # nobody knows it, so that nobody asks for it
            return
        if step == "-":
            call = state.calls[which]
            is_fence = state.deletes[which] == "fence"
            is_open = stream is not None and stream.closed is None
            if is_open and call.step != "-" and (is_fence or self._is_gone(state, call.instance)):
                yield "Endings.take_over", changed(state, "finders", which, "record")
            elif is_fence:
                yield "Fleet.discard", changed(state, "deletes", which, "delete stream")
        elif step == "record":
            recording = ("outcome", which, self._finder, "interrupted")
            yield from self._found(state, which, "Records.append", recording, "close")
        elif step == "close":
            closing = ("append", which, self._finder, 0, "", True)
            yield from self._found(state, which, "Endings._close_as_finder", closing, "-")

    def _found(self, state: State, which: int, name: str, op: Op, following: str) -> Iterator[Step]:
        yield from self._send(
            state, name, op, lambda state, _: changed(state, "finders", which, following),
            lambda state: changed(state, "finders", which, "-"),
        )  # fmt: skip

    # Readers

    def _read(self, state: State, which: int) -> Iterator[Step]:
        if not self._bounds.readers or which not in state.named:
            return
        step, stream, record = state.readers[which], state.streams[which], state.records[which]
        if step == "-":
            if stream is not None and (stream.closed is not None or "an outcome is said early" in self._bugs):
                yield "?Storage.read", changed(state, "readers", which, "closed")
        elif step == "closed":
            yield from self._told(state, which, record)
        else:
            op = ("append", which, FINDER, 0, "", True)
            after, result = apply(state, op)
            if result == "gone":
                yield "?Endings._final", changed(after, "readers", which, "-")
            else:
                yield "?Endings._final", self._said(after, which, "complete" if result == "closed" else step)

    def _told(self, state: State, which: int, record: Record | None) -> Iterator[Step]:
        stream = state.streams[which]
        if record is None:
            if stream is None:
                yield "?Endings.record", changed(state, "readers", which, "-")
            else:
                yield "?Endings.record", self._said(state, which, "interrupted")
        elif record.is_found and "a finder's outcome is believed" not in self._bugs:
            yield "?Endings.record", changed(state, "readers", which, record.outcome)
        elif record.outcome or "an outcome is said early" not in self._bugs:
            yield "?Endings.record", self._said(state, which, record.outcome or "complete")
        else:
            yield "?Endings.record", changed(state, "readers", which, "-")

    def _said(self, state: State, which: int, outcome: str) -> State:
        """A reader gets an outcome. It must be the one that every other reader got, and true."""
        said, stream = state.said[which] | {outcome}, state.streams[which]
        if len(said) > 1:
            raise Wrong(f"contradiction: {' and '.join(sorted(said))}")
        if stream is not None and stream.closed is None:
            raise Wrong(f"{outcome} was said of an open stream")
        if outcome == "complete" and stream is not None and stream.data != "01":
            raise Wrong("I5: complete was said of a stream that is not whole")
        if outcome == "interrupted" and stream is None and state.deletes[which] != "-" and not state.records[which]:
            raise Wrong("F10: an outcome was made up for a stream that is deleted")
        return changed(changed(state, "readers", which, "-"), "said", which, said)

    # Deletes

    def _delete(self, state: State, which: int) -> Iterator[Step]:
        step = state.deletes[which]
        order = ["delete stream", "delete record"]
        if "a record is deleted before its stream" in self._bugs:
            order.reverse()
        if step == "-" and which in state.named and self._bounds.deletes:
            yield "Fleet.discard", changed(state, "deletes", which, "fence")
        elif step == "delete stream":
            yield "Delete", apply(changed(state, "deletes", which, "delete record"), (order[0], which))[0]
        elif step == "delete record":
            yield "Delete", apply(changed(state, "deletes", which, "deleted"), (order[1], which))[0]

    # What holds in every state

    def _check(self, state: State, following: State) -> None:
        """I1, I3, F1: bytes are a prefix, and final once an outcome was said; a stream that is known stays."""
        if following.streams is state.streams and following.records is state.records:
            return
        for which, stream in enumerate(following.streams):
            before = state.streams[which]
            if stream is not None and stream.data not in ("", "0", "01"):
                raise Wrong(f"I1: a stream holds {stream.data}")
            if stream is not None and before is not None and state.said[which] and stream != before:
                raise Wrong("I3: a stream is changed after its outcome was said")
            if stream is None and which in following.named and following.deletes[which] == "-":
                raise Wrong("F1: a stream that a caller was answered with is removed")

    def at_rest(self, state: State) -> str:
        """I4 and I8: what must not be so when nothing happens any more."""
        for which, stream in enumerate(state.streams):
            call, transfer = state.calls[which], state.transfers[which]
            if self._bounds.appends and which in state.named and stream is not None and stream.closed is None:
                return "I4: a stream that a caller knows has no end"
            if call.step not in ("-", "over", "dead"):
                return f"I4: a create waits for ever: {call.step}"
            if self._bounds.appends and transfer.upstream == "open":
                return "I8: an upstream is called for nobody"
        lock = state.lock
        if lock.kind == "Held" and state.life[state.calls[lock.token].instance] == "up":
            return "I4: a key is blocked"
        return ""
