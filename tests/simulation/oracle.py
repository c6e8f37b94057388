"""What must hold in every run: I1–I10, and that nothing once said is ever contradicted.

The oracle looks at storage, at the upstream, and at what clients were answered; never into an instance.
"""

from dataclasses import dataclass, field

from tests.kit.oracle import SIZE, piece
from tests.simulation.fleet import Answer
from tests.simulation.loop import Machine
from tests.simulation.storage import ModelStorage
from tests.simulation.upstream import Call, Upstream

__all__ = ["Broken", "Known", "Oracle"]


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass
class Known:
    """A stream that some client was told of.

    name: of its create, or its key.
    said: the outcomes that anybody was told.
    since: when it was told of first, in the loop's time.
    delete_asked, deleted: whether a delete was sent, and whether one was answered 204.
    is_stopped: an abort was answered 204 or 202.
    """

    stream_id: str
    url: str
    name: str
    said: set[str] = field(default_factory=set)
    since: float = 0.0
    delete_asked: bool = False
    deleted: bool = False
    is_stopped: bool = False


class Oracle:
    """The judge of one run. Raises Broken as soon as something is wrong."""

    def __init__(self, seed: int, storage: ModelStorage, upstream: Upstream) -> None:
        self._seed = seed
        self._storage = storage
        self._upstream = upstream
        self._of_key: dict[str, Known] = {}  # what the key named last
        self.streams: dict[str, Known] = {}
        upstream.watch = self._called

    # Creates

    def _called(self, call: Call) -> None:
        """I6: one call for each create; under a key, another one only when the first can have no result."""
        earlier = [other for other in self._upstream.calls[:-1] if other.name == call.name]
        if not call.name.startswith("key"):
            self._require(not earlier, f"I6: the upstream was called twice for {call.name}")
            return
        known = self._of_key.get(call.name)
        if known is None:
            running = [other.number for other in earlier if other.runs]
            self._require(not running, f"I6: calls {running} run while {call.number} begins under one key")
        else:
            self._require(known.delete_asked, f"I6: {call.name} was called again though it names {known.stream_id}")

    def created(self, name: str, answer: Answer) -> Known:
        """A create was answered 201 or 200. I9: stream and record exist. A key names one stream (F2)."""
        url = answer["location"] or ""
        stream_id = url.partition("?")[0].rpartition("/")[2]
        known = self.streams.setdefault(stream_id, Known(stream_id, url, name, since=self._storage.now()))
        self._require(known.name == name, f"{name} was answered with the stream of {known.name}")
        for each in (stream_id, f"{stream_id}.record"):
            is_there = self._storage.lookup(each) is not None
            self._require(
                is_there or known.delete_asked, f"I9: {name} was answered {answer.status}, but {each} is not there"
            )
        if name.startswith("key"):
            former = self._of_key.get(name, known)
            is_same = former is known or former.delete_asked or known.delete_asked
            self._require(is_same, f"F2: {name} named {former.stream_id}, now {stream_id}")
            if not known.delete_asked:  # an answer that was given before the delete may come after it
                self._of_key[name] = known
        return known

    def refused(self, name: str, answer: Answer) -> None:
        """A create was refused. What says that nothing was sent upstream is right."""
        self.no_bug(answer)
        is_unavailable = b"STORAGE_UNAVAILABLE" in answer.body
        if is_unavailable:
            self._require(answer["retry-after"] is not None, "F3: a 503 has no Retry-After")
        if is_unavailable and not name.startswith("key"):
            called = any(call.name == name for call in self._upstream.calls)
            self._require(not called, f"F3: {name} was answered that nothing was sent upstream, but it was")

    def no_bug(self, answer: Answer) -> None:
        """No answer is an internal error, or a conflict where there can be none."""
        self._require(answer.status not in (409, 500), f"an answer {answer.status}: {bytes(answer.body)[:200]!r}")

    # Reads

    def was_read(self, known: Known, answer: Answer, *, was_deleted: bool) -> None:
        """A read or HEAD was answered; `was_deleted`: a delete had been answered before it was sent."""
        self.no_bug(answer)
        if answer.status == 404:
            self._require(known.delete_asked, f"{known.stream_id} is lost: 404")
        elif known.stream_id in self._storage.revived:
            return
        elif answer.status in (200, 204):
            self._require(not was_deleted, f"{known.stream_id} was deleted and is back")
        if answer["upstream-outcome"] is not None:
            self.said(known, answer["upstream-outcome"])

    def said(self, known: Known, outcome: str) -> None:
        """An outcome was said. It is final: the stream is closed, and everybody says the same."""
        if known.stream_id in self._storage.revived:
            return
        known.said.add(outcome)
        self._require(len(known.said) == 1, f"{known.stream_id} ended as {sorted(known.said)}")
        stream = self._storage.lookup(known.stream_id)
        if stream is None:
            self._require(known.delete_asked, f"{known.stream_id} is lost: an outcome, and no stream")
            return
        self._require(stream.is_closed, f"{known.stream_id}: {outcome} was said of an open stream")
        calls = self._calls_of(known, stream.data)
        if outcome == "complete":
            is_whole = any(call.is_whole and call.sent == len(stream.data) for call in calls)
            self._require(is_whole, f"I5: {known.stream_id} is no whole answer, but complete")

    def had_bytes(self, known: Known, offset: int, data: bytes) -> None:
        """A reader got bytes. I3: they are what storage has there."""
        stream = self._storage.lookup(known.stream_id)
        if stream is not None and data and known.stream_id not in self._storage.revived:
            have = stream.data[offset : offset + len(data)]
            self._require(have == data, f"I3: {known.stream_id} at {offset}: a reader got other bytes")

    def _calls_of(self, known: Known, data: bytes) -> list[Call]:
        """I1: the calls that the stream is a prefix of: one, unless it is empty."""
        found = []
        for call in self._upstream.calls:
            if call.name == known.name and len(data) <= call.sent:
                sent = b"".join(piece(self._seed, call.number, index) for index in range(len(data) // SIZE + 1))
                if sent.startswith(data):
                    found.append(call)
        if not found:
            raise Broken(
                f"I1: {known.stream_id}, of {known.name}, is no prefix of an answer: {data[:80]!r}, {len(data)}"
            )
        return found

    # Ends

    def aborted(self, known: Known, answer: Answer) -> None:
        """An abort was answered. 204: it has stopped, or can store nothing more."""
        self.no_bug(answer)
        if answer.status not in (202, 204):
            return
        known.is_stopped = True
        stream = self._storage.lookup(known.stream_id)
        if answer.status == 202 or stream is None or stream.is_closed:
            return
        calls = self._calls_of(known, stream.data)
        runs = len(calls) == 1 and calls[0].is_open
        self._require(not runs, f"F5: an abort of {known.stream_id} was answered 204, and it runs")

    def deleted(self, known: Known, answer: Answer, machine: Machine) -> None:
        """A delete was answered by `machine`. If it was the owner, it has closed the upstream's connection."""
        self.no_bug(answer)
        if answer.status == 204:
            for call in self._upstream.calls:
                runs = call.name == known.name and call.machine is machine and call.is_open and call.began < known.since
                self._require(not runs, f"I8: {known.stream_id} was deleted, and call {call.number} runs on")
        known.deleted = known.deleted or answer.status == 204

    def has_ended(self, known: Known) -> None:
        """The end of the run: every byte of the stream is right."""
        stream = self._storage.lookup(known.stream_id)
        if stream is not None and known.stream_id not in self._storage.revived:
            self._require(stream.is_closed, f"I4: {known.stream_id} is still open")
            self._calls_of(known, stream.data)
            self._require(not known.deleted, f"{known.stream_id} was deleted and is back in storage")

    def is_left(self, call: Call) -> bool:
        """I8: whether a call goes on though nobody wants its answer.

        A silent upstream of a deleted stream is let be: an owner that storage does not let hear of the delete has been
        fenced, and stops when it appends next, or as idle.
        """
        deleted = {known.name for known in self.streams.values() if known.deleted}
        return call.is_open and not (call.plan.end == "never" and call.name in deleted)

    def _require(self, holds: bool, text: str) -> None:
        if not holds:
            raise Broken(text)
