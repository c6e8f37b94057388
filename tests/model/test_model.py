"""Every state of the model keeps the invariants, every planted mistake breaks one; its steps are those of the code."""

import functools
import importlib
import re

import pytest

from tests.doc_tables import ROOT
from tests.model.protocol import Protocol
from tests.model.search import Found, search
from tests.model.state import Bounds, initial

CLAIMS = Bounds(appends=False, readers=False)  # the key alone: streams are made, and stay as they are
ENDING = Bounds(creates=1)  # one stream, from its create to its end
ALL = {
    "a claim, when a lease runs out and a request is late": CLAIMS._replace(crashes=0, late=1, expiries=1),
    "a claim, when an instance dies and a request is late": CLAIMS._replace(late=1),
    "an ending, when two requests are late": ENDING._replace(late=2),
    "an ending on storage of another kind": ENDING._replace(crashes=0, expiries=1, late=1, closed_first=True),
    "an ending and a delete, when a request is late": ENDING._replace(late=1, deletes=True),
    "two creates to their ends, when an instance dies": Bounds(),
    "two creates to their ends, when an instance freezes": Bounds(crashes=0, freezes=1),
    "two creates to their ends, when a lease runs out": Bounds(crashes=0, expiries=1),
}
LARGE = {
    "a claim, when a lease runs out, an instance dies and a request is late": CLAIMS._replace(late=1, expiries=1),
    "a claim, when an instance freezes and a request is late": CLAIMS._replace(late=1, freezes=1),
    "a claim, when two requests are late": CLAIMS._replace(late=2),
    "an ending and a delete, when an instance freezes": ENDING._replace(late=1, freezes=1, deletes=True),
    "two creates to their ends, when a request is late": Bounds(crashes=1, late=1),
}
BUGS = {
    "an orphan is not fenced": ENDING,
    "an outcome is not recorded": ENDING,
    "the close comes before the outcome": ENDING,
    "a failed append is dropped": ENDING._replace(late=1),
    "a retry has a new number": ENDING,
    "a last append in doubt is forgotten": ENDING._replace(late=1),
    "an outcome is said early": ENDING,
    "a finder's outcome is believed": ENDING._replace(freezes=1),
    "a record is deleted before its stream": ENDING._replace(deletes=True),
    "a claim is cleared too early": CLAIMS,
    "a call goes on without its lease": CLAIMS._replace(expiries=1),
    "dead at the first look": CLAIMS._replace(expiries=1),
    "a replay of a stream that is not settled": CLAIMS._replace(late=1),
    "a settled stream is withdrawn": CLAIMS._replace(crashes=0, late=1, expiries=1),
    "a clean-up deletes what the key names": CLAIMS._replace(freezes=1),
}
OUTSIDE = {"upstream ends", "thaw", "Lease runs out"}
CODE = ("app", "handlers.create", "handlers.delete", "relay.fleet", "relay.keys", "relay.lease", "relay.lock",
        "relay.membership", "relay.pump", "relay.record", "relay.takeover", "relay.transfer", "relay.transfers",
        "relay.upstream", "streams.client", "streams.producer")  # fmt: skip


@functools.cache
def found(bounds: Bounds, *bugs: str) -> Found:
    """Every state within `bounds`, which several tests look at."""
    protocol = Protocol(bounds, frozenset(bugs))
    return search(initial(bounds), protocol.steps, protocol.at_rest)


def states_keep_the_invariants(bounds: Bounds) -> None:
    result = found(bounds)
    assert not result.wrong, "\n".join((result.wrong, *result.way))
    assert result.states > 1000


@pytest.mark.parametrize("bounds", ALL.values(), ids=ALL)
def test_every_state_keeps_the_invariants(bounds: Bounds) -> None:
    states_keep_the_invariants(bounds)


@pytest.mark.slow
@pytest.mark.parametrize("bounds", LARGE.values(), ids=LARGE)
def test_every_state_within_larger_bounds_keeps_the_invariants(bounds: Bounds) -> None:
    states_keep_the_invariants(bounds)


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_mistake_is_found(bug: str) -> None:
    assert found(BUGS[bug], bug).wrong


def steps() -> set[str]:
    """The model's steps that are not faults, without those of the world outside."""
    names = {name for bounds in ALL.values() for name in found(bounds).steps if name[0] != "!"}
    return {name.lstrip("?") for name in names} - OUTSIDE


def test_every_step_has_a_name_of_the_code() -> None:
    modules = [importlib.import_module(f"proxy.{name}") for name in CODE]
    names = steps()
    assert len(names) > 20
    for name in names:
        first, *rest = name.split(".")
        owners = [getattr(module, first) for module in modules if hasattr(module, first)]
        assert owners, name
        assert all(hasattr(owner, each) for owner in owners[:1] for each in rest), name


def test_the_picture_of_the_model_has_its_steps() -> None:
    page = (ROOT / "docs" / "internals" / "model.md").read_text()
    drawn = set(re.findall(r"^ +\S+ --> \w+: (\S+)$", page, re.MULTILINE))
    assert drawn | {"Lease._renew", "pump"} == steps() | {"Member._cancel_licensed"}
