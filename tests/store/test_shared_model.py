"""Two instances on one Valkey against the model of a store: whichever of them is asked, the answers are the model's."""

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from proxy.store import Store
from tests.kit.calls import Client
from tests.kit.engines import Engine
from tests.store import kit
from tests.store.kit import Clock
from tests.store.test_model import SETTINGS, StoreMachine

servers: list[Engine] = []


@pytest.fixture(autouse=True, scope="module")
def _server(valkey: Engine) -> Iterator[None]:
    servers[:] = [valkey]
    yield
    servers.clear()
    kit.use(None)


class SharedMachine(StoreMachine):
    """Each operation goes to one of two instances; a crash ends one of them, and another one takes its place."""

    def teardown(self) -> None:
        for store in self.stores:
            self.runner.run(store.aclose())
        self.runner.close()

    @initialize()
    def open(self) -> None:
        (server,) = servers
        server.ask("FLUSHALL")
        server.set_time(Clock.START, is_first=True)
        kit.use(server)
        self.place = Path(secrets.token_hex(8))
        self.stores = [self.runner.run(self._start()) for _ in range(3)]
        self.client = Client(kit.settled(self.stores[0]))

    async def _start(self) -> Store:
        return kit.open_any(self.place, SETTINGS, self.clock)

    @invariant()
    def every_path_is_in_the_state_it_should_be(self) -> None:
        """As a third instance sees it: what the two remember may be old."""
        asked, self.client = self.client, Client(self.stores[2].handler)
        super().every_path_is_in_the_state_it_should_be()
        self.client = asked

    @rule(which=st.integers(0, 1))
    def turn(self, which: int) -> None:
        """What comes next is asked of this instance."""
        self.client = Client(kit.settled(self.stores[which]))

    @rule(which=st.integers(0, 1))
    def crash(self, which: int) -> None:
        """The instance is gone, and knows nothing any more."""
        self.runner.run(self.stores[which].aclose())
        self.stores[which] = self.runner.run(self._start())
        self.client = Client(kit.settled(self.stores[which]))


SharedMachine.TestCase.settings = settings(max_examples=15, stateful_step_count=30, deadline=None)
TestSharedStore = SharedMachine.TestCase
