"""The way to storage is cut at any byte of a create and of an append, both ways, by FIN, RST or silence.

Invariants, from outside: bytes are stored once and in order, the upstream is asked once, everything ends in time.
The default run takes steps; `-m slow` takes every byte.
"""

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple

import pytest

from tests.conformance.caller import Caller, Stream, code
from tests.kit import oracle
from tests.kit.npm_storage import NpmStorage
from tests.kit.proxy_process import ProxyProcess
from tests.kit.relay import Cut, Relay, Way
from tests.kit.upstream import GATE, Upstream, chunked

SECRET = "the service secret"
PIECES = [oracle.piece(5, 1, index) for index in range(3)]
WHOLE = b"".join(PIECES)

Operation = Callable[["World", Cut | None], None]
How = Literal["fin", "rst", "hang"]


class World(NamedTuple):
    """A caller of a proxy behind whom the relay stands, and a reader with a way of its own."""

    caller: Caller
    reader: Caller
    relay: Relay
    upstream: Upstream


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    env = {"PROXY_SECRET": SECRET}
    common = ["--allow", "http://localhost:*/**", "--storage-timeout-seconds", "0.3", "--durable-streams-url"]
    with (
        Upstream() as upstream,
        NpmStorage() as storage,
        Relay(storage.url) as relay,
        ProxyProcess([*common, relay.url], env=env) as cut,
        ProxyProcess([*common, storage.url], env=env) as whole,
    ):
        caller, reader = Caller(cut.url, SECRET), Caller(whole.url, SECRET)
        yield World(caller, reader, relay, upstream)
        caller.http.close()
        reader.http.close()
        for output in (cut.output, whole.output):
            assert "Traceback" not in output, output


def append(world: World, cut: Cut | None) -> None:
    """A stream of three appends, each cut off at the same byte of its exchange."""
    world.relay.cut_all()  # an earlier cut may still wait on a connection that was idle
    route = world.upstream.serve(chunked(PIECES[0], GATE, PIECES[1], GATE, PIECES[2]))
    stream = Stream(world.reader, world.caller.create(route.url).url)
    for count in (1, 2):
        stream.until(b"".join(PIECES[:count]))
        if cut is not None:
            world.relay.cut_open(cut)
        route.release()
    data, outcome, _ = stream.whole()
    oracle.check(data, 5, 1, length=len(WHOLE))
    assert outcome == "complete"
    assert (route.count, route.cuts) == (1, 0)


def create(world: World, cut: Cut | None) -> None:
    """A create whose first connection to storage is cut off: it succeeds and the stream is whole, or it says why."""
    route = world.upstream.serve(chunked(WHOLE))
    world.relay.cut_all()
    if cut is not None:
        world.relay.cut_next(cut)
    answer = world.caller.post(route.url)
    assert route.count == 1
    if answer.status_code != 201:
        assert code(answer) == (502, "STORAGE_ERROR")
        return
    data, outcome, _ = Stream(world.reader, world.caller.stream(answer).url).whole()
    oracle.check(data, 5, 1, length=len(WHOLE))
    assert outcome == "complete"


def passed(world: World, way: Way, operation: Operation) -> int:
    """How many bytes an undisturbed operation sends this way, all connections together."""
    before = world.relay.passed[way]
    operation(world, None)
    return world.relay.passed[way] - before


@pytest.mark.parametrize("operation", [append, create])
@pytest.mark.parametrize("way", list(Way))
@pytest.mark.parametrize(("how", "step"), [("fin", 97), ("rst", 89), ("hang", 331)])
def test_a_cut_at_any_byte_loses_and_doubles_nothing(
    world: World, operation: Operation, way: Way, how: How, step: int
) -> None:
    for after in range(0, min(passed(world, way, operation), 1500), step):
        operation(world, Cut(way, after, how))


@pytest.mark.slow
@pytest.mark.parametrize("operation", [append, create])
@pytest.mark.parametrize("way", list(Way))
@pytest.mark.parametrize(("how", "step"), [("fin", 1), ("rst", 1), ("hang", 29)])
def test_a_cut_at_every_byte_loses_and_doubles_nothing(
    world: World, operation: Operation, way: Way, how: How, step: int
) -> None:
    for after in range(0, min(passed(world, way, operation), 1500), step):
        operation(world, Cut(way, after, how))
