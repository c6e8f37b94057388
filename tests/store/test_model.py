"""The store against a model of it: any sequence of operations, with crashes in between, gives the same answers."""

import asyncio
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from proxy.store import open_store
from tests.kit.calls import Client
from tests.kit.store_settings import store_settings
from tests.store.kit import Clock
from tests.store.model import Model, Sent

EVERY_PATH = ("/a", "/b", "/c", "/d")
PATHS = st.sampled_from(EVERY_PATH)
DATA = st.binary(max_size=30)
TTLS = st.sampled_from([None, 1000])
# A kept expiry may be an eighth of the TTL late after a crash. No sum of these comes near that.
WAITS = st.sampled_from([1, 300, 5000])
PRODUCERS = st.none() | st.tuples(st.sampled_from(["p", "q"]), st.integers(0, 2), st.integers(0, 3))
SETTINGS = store_settings(
    piece_bytes=8, step_bytes=16, tail_bytes=300, streams=2, sweep_rows=4, checkpoint_bytes=1 << 14
)


class StoreMachine(RuleBasedStateMachine):
    """Operations on four paths, one at a time or several at once; a crash takes the files as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.root = Path(tempfile.mkdtemp())
        self.clock = Clock()
        self.model = Model()
        self.opened = 0

    def teardown(self) -> None:
        self.runner.run(self.store.aclose())
        self.runner.close()
        shutil.rmtree(self.root)

    @initialize()
    def open(self) -> None:
        async def start() -> None:
            self.store = open_store(self.root / str(self.opened), SETTINGS, wall=self.clock, ticks=self.clock.ticks)

        self.runner.run(start())
        self.client = Client(self.store.handler)

    @rule(path=PATHS, ttl=TTLS, data=DATA, closed=st.booleans())
    def create(self, path: str, ttl: int | None, data: bytes, closed: bool) -> None:
        given = {"content_type": "text/plain"}
        if ttl is not None:
            given["stream_ttl"] = str(ttl)
        if closed:
            given["stream_closed"] = "true"
        answer = self.runner.run(self.client.put(path, data, **given))
        assert answer.status == self.model.create(path, self.clock.time, ttl, data, closed)

    @rule(path=PATHS, source=PATHS, place=st.integers(0, 40))
    def fork(self, path: str, source: str, place: int) -> None:
        given = {"stream_forked_from": source, "stream_fork_offset": f"0_{place}"}
        if path == source or self.model.find(path, self.clock.time) is not None:
            given["content_type"] = "application/json"  # differs from whatever is there
        status = self.model.fork(path, self.clock.time, source, place)
        answer = self.runner.run(self.client.put(path, **given))
        assert answer.status == status

    @rule(path=PATHS, data=DATA, close=st.booleans(), producer=PRODUCERS, seq=st.none() | st.sampled_from("123"))
    def append(
        self, path: str, data: bytes, close: bool, producer: tuple[str, int, int] | None, seq: str | None
    ) -> None:
        sent = Sent(data or (b"" if close else b"x"), close, producer, seq)
        expected = self.model.append(path, self.clock.time, sent)
        assert self.runner.run(self._send(path, sent)) == expected

    @rule(path=PATHS, parts=st.lists(DATA.filter(bool), min_size=2, max_size=6), name=st.sampled_from(["p", "q"]))
    def append_at_once(self, path: str, parts: list[bytes], name: str) -> None:
        """A producer that does not wait for its answers."""
        stream = self.model.find(path, self.clock.time)
        epoch, last = stream.producers.get(name, (0, -1)) if stream is not None else (0, -1)
        sent = [Sent(data, False, (name, epoch, last + 1 + index), None) for index, data in enumerate(parts)]
        expected = [self.model.append(path, self.clock.time, each) for each in sent]

        async def send_all() -> list[int]:
            return await asyncio.gather(*(self._send(path, each) for each in sent))

        assert self.runner.run(send_all()) == expected

    async def _send(self, path: str, sent: Sent) -> int:
        given = {"content_type": "text/plain"}
        if sent.close:
            given["stream_closed"] = "true"
        if sent.seq is not None:
            given["stream_seq"] = sent.seq
        if sent.producer is not None:
            name, epoch, number = sent.producer
            given |= {"producer_id": name, "producer_epoch": str(epoch), "producer_seq": str(number)}
        return (await self.client.post(path, sent.data, **given)).status

    @rule(path=PATHS)
    def delete(self, path: str) -> None:
        assert self.runner.run(self.client.delete(path)).status == self.model.delete(path, self.clock.time)

    @rule(path=PATHS, place=st.integers(0, 60))
    def read(self, path: str, place: int) -> None:
        status, stream = self.model.read(path, self.clock.time)
        answer = self.runner.run(self.client.get(f"{path}?offset=0_{place}"))
        assert answer.status == status
        if stream is not None:
            assert answer.body == stream.content[place:]
            assert answer.offset.endswith(f"{len(stream.content):016d}")
            assert (answer["stream-closed"] == "true") == stream.closed

    @rule(seconds=WAITS)
    def wait(self, seconds: int) -> None:
        self.clock.time += seconds

    @rule()
    def crash(self) -> None:
        """The process is gone; what is in the files is what a new one finds."""
        before = self.root / str(self.opened)
        self.opened += 1
        after = self.root / str(self.opened)
        after.mkdir()
        log = "streams.db-wal"
        start = b""
        while start != (before / log).read_bytes()[:32]:  # the log did not restart meanwhile
            start = (before / log).read_bytes()[:32]
            for name in ("streams.db", log):  # in this order: the log holds what the database has not yet
                shutil.copy(before / name, after / name)
        self.runner.run(self.store.aclose())
        shutil.rmtree(before)
        self.open()

    @invariant()
    def every_path_is_in_the_state_it_should_be(self) -> None:
        for path in EVERY_PATH:
            stream = self.model.find(path, self.clock.time)
            head = self.runner.run(self.client.head(path))
            assert head.status == (404 if stream is None else 410 if stream.deleted else 200)
            if stream is not None and not stream.deleted:
                assert head.offset.endswith(f"{len(stream.content):016d}")


StoreMachine.TestCase.settings = settings(max_examples=15, stateful_step_count=30)
TestStore = StoreMachine.TestCase
