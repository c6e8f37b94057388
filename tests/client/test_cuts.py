"""Real connections, cut: at every byte of every kind of read the same bytes arrive, once each."""

import random

import pytest

from proxy.client import Live, Retry
from tests.client.conftest import Connect
from tests.client.scripted_proxy import Framing, ScriptedProxy

APPENDS = (b"data: one\n\n", b"\x00\xff" * 13, b"x", b"data: [DONE]\n\n")
WHOLE = b"".join(APPENDS)
SAMPLE = 24  # cuts of each kind in the default suite; all of them are in the slow one

KINDS = {
    "live events": (Live.SSE, Framing.LENGTH, False),
    "long-poll with a length": (Live.LONG_POLL, Framing.LENGTH, False),
    "long-poll in chunks": (Live.LONG_POLL, Framing.CHUNKED, False),
    "catch-up with a length": (Live.SSE, Framing.LENGTH, True),
    "catch-up in chunks": (Live.SSE, Framing.CHUNKED, True),
    "catch-up that ends with its connection": (Live.SSE, Framing.CLOSE, True),
}


@pytest.fixture(params=KINDS, name="kind")
def _kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Reader:
    """Reads streams of the same appends, one after the other, each in the same kind of way."""

    def __init__(self, proxy: ScriptedProxy, connect: Connect, kind: str) -> None:
        self.proxy = proxy
        live, proxy.framing, self._catch_up = KINDS[kind]
        proxy.page = 30
        self._fetch = connect(retry=Retry(reads=100, first_delay=0.0, live=live))
        self.read()
        self.size = proxy.first_sent()

    def read(self, *cuts: int) -> None:
        """Read a stream whole, whose first answers end after a number of bytes."""
        self.proxy.stream(*APPENDS)
        if self._catch_up:
            self._fetch(request_id="again").close()
        self.proxy.cuts += cuts
        response = self._fetch(request_id="again")
        assert response.was_resumed == self._catch_up
        assert response.read() == WHOLE


def test_a_cut_anywhere_gives_identical_bytes(proxy: ScriptedProxy, connect: Connect, kind: str) -> None:
    reader = Reader(proxy, connect, kind)
    places = random.Random(kind).sample(range(reader.size), SAMPLE)
    for at in [0, *places, reader.size - 1, reader.size]:
        proxy.reset = at % 2 == 1
        reader.read(at)


@pytest.mark.slow
def test_a_cut_at_every_byte_gives_identical_bytes(proxy: ScriptedProxy, connect: Connect, kind: str) -> None:
    reader = Reader(proxy, connect, kind)
    for at in range(reader.size + 1):
        reader.read(at)


def test_many_cuts_in_one_read_give_identical_bytes(proxy: ScriptedProxy, connect: Connect, kind: str) -> None:
    reader = Reader(proxy, connect, kind)
    chance = random.Random(kind)
    reader.read(*(chance.randrange(reader.size) for _ in range(60)))


def test_a_create_whose_answer_is_cut_anywhere_costs_one_upstream_call(proxy: ScriptedProxy, connect: Connect) -> None:
    fetch = connect(retry=Retry(creates=2, first_delay=0.0))
    proxy.stream(*APPENDS)
    fetch().close()
    size = 330  # at least as long as its head
    for count, at in enumerate(range(0, size, 7), start=2):
        proxy.stream(*APPENDS)
        proxy.create_cuts = [at]
        assert fetch().read() == WHOLE
        assert len(proxy.streams) == count


def test_a_connection_that_falls_silent_is_left_for_another(
    proxy: ScriptedProxy, connect: Connect, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = Reader(proxy, connect, kind)
    for name in ("SILENCE_SECONDS", "SSE_SILENCE_SECONDS"):
        monkeypatch.setattr(f"proxy.client.reading.{name}", 0.05)
    proxy.hang = True
    for at in (0, reader.size // 2, reader.size - 3):
        reader.read(at)


@pytest.mark.parametrize("live", Live)
def test_an_answer_that_comes_byte_by_byte_gives_identical_bytes(
    proxy: ScriptedProxy, connect: Connect, live: Live
) -> None:
    proxy.slices = 1
    proxy.stream(*APPENDS)
    assert connect(retry=Retry(live=live))().read() == WHOLE


@pytest.mark.parametrize("how", ["no head", "no event", "cut"])
def test_a_network_that_lets_no_event_through_is_read_by_long_poll(
    proxy: ScriptedProxy, connect: Connect, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("proxy.client.reading.SSE_SILENCE_SECONDS", 0.05)
    proxy.hang = how != "cut"
    proxy.cuts = [0 if how == "no head" else 125] * 3  # just behind the head
    stream = proxy.stream(b"one ", outcome=None)
    pieces = connect(retry=Retry(reads=5, first_delay=0.001))().pieces()
    assert next(pieces) == b"one "
    proxy.close(stream, "complete", b"two")
    assert b"".join(pieces) == b"two"
    assert [asked.query["live"] for asked in proxy.reads[:4]] == ["sse", "sse", "sse", "long-poll"]
