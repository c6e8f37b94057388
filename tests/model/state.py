"""The states of the model: what storage holds, where each instance is in its steps, and what clients have heard."""

from typing import Final, NamedTuple

__all__ = [
    "FINDER", "OWNER", "RECORD", "STREAM", "Bounds", "Call", "Lock", "Op", "Record", "State", "Stream", "Transfer",
    "changed", "initial",
]  # fmt: skip

OWNER, FINDER = 0, 1

Op = tuple[object, ...]
"""A request that changes storage: its kind, the stream's number, and more."""


class Bounds(NamedTuple):
    """How much of everything may happen in a run.

    creates: under the one key. appends: whether the answers are stored, or only their streams made.
    readers: whether the streams are read. deletes: whether they may be deleted.
    crashes, freezes: of instances. expiries: of leases of instances that run.
    late: requests that are lost, heard without an answer, or held and heard later, while their sender repeats them.
    closed_first: storage looks whether a stream is closed before it looks at the producer, as the npm server does.
    """

    creates: int = 2
    appends: bool = True
    readers: bool = True
    deletes: bool = False
    crashes: int = 1
    freezes: int = 0
    expiries: int = 0
    late: int = 0
    closed_first: bool = False


class Lock(NamedTuple):
    """The ledger of the key: how many messages it has, and what they come to. `token`: the stream's number."""

    number: int = 0
    kind: str = "Free"  # or Held, or Settled
    token: int = -1


class Stream(NamedTuple):
    """A stream in storage. `closed`: the epoch that has closed it; `epoch` and `seq`: of its producer."""

    data: str = ""
    closed: int | None = None
    epoch: int = -1
    seq: int = -1


class Record(NamedTuple):
    """A record in storage; it is closed with its outcome."""

    outcome: str = ""
    is_found: bool = False
    epoch: int = -1


class Call(NamedTuple):
    """A create: its step, the instance that it runs on, how many messages of the ledger it knows, whom it succeeds."""

    step: str = "-"
    instance: int = 0
    known: int = 0
    claimed: int = -1
    former: int = -1


class Transfer(NamedTuple):
    """The transfer of a create: its step, and its upstream's connection."""

    step: str = "-"
    upstream: str = "-"  # or open, whole, cut


STREAM: Final = Stream()
RECORD: Final = Record()


class State(NamedTuple):
    """Everything. Two instances make streams, a third reads, finds orphans and deletes."""

    life: tuple[str, ...] = ("up", "up")  # or frozen, or dead
    frozen: tuple[bool, ...] = (False, False)  # at any time
    lease: tuple[str, ...] = ("held", "held")  # or lost: storage dropped it; or lapsed: and what was licensed has ended
    lock: Lock = Lock()
    calls: tuple[Call, ...] = (Call(), Call())
    transfers: tuple[Transfer, ...] = (Transfer(), Transfer())
    streams: tuple[Stream | None, ...] = (None, None)
    records: tuple[Record | None, ...] = (None, None)
    was: tuple[bool, ...] = (False, False)  # whether the stream was there
    finders: tuple[str, ...] = ("-", "-")
    readers: tuple[str, ...] = ("-", "-")
    deletes: tuple[str, ...] = ("-", "-")
    said: tuple[frozenset[str], ...] = (frozenset(), frozenset())
    named: frozenset[int] = frozenset()  # the streams that a caller was answered with
    late: frozenset[Op] = frozenset()  # requests on their way, whose senders do not wait any more
    left: tuple[int, int, int, int] = (0, 0, 0, 0)  # crashes, freezes, expiries, late requests that may still happen
    closed_first: bool = False  # storage's order of checks


def initial(bounds: Bounds) -> State:
    """Where every run begins."""
    left = (bounds.crashes, bounds.freezes, bounds.expiries, bounds.late)
    return State(left=left, closed_first=bounds.closed_first)


def changed(state: State, field: str, index: int, value: object) -> State:
    """The state with one element of one of its tuples replaced."""
    old = getattr(state, field)
    return state._replace(**{field: (*old[:index], value, *old[index + 1 :])})  # type: ignore[arg-type]  # by its name
