"""The public conformance suite of the protocol, whole, against the store over TCP, on every engine."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.kit.engines import Engine, redis_binary, valkey_binary
from tests.kit.relay import Relay
from tests.store.process import StoreProcess
from tests.store.public_suite import described, run_public_suite
from tests.store.serve import LONG_POLL_SECONDS

PASSING = 332  # of 338: the other six belong to an option that is off
OPTIONAL = "Reserved subscription APIs"


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a Redis or Valkey; empty for the embedded engine."""
    if request.param == "sqlite":
        yield ""
        return
    binary = valkey_binary() if request.param == "valkey" else redis_binary()
    if binary is None:
        pytest.skip(f"there is no {request.param}")
    with Engine(binary, tmp_path / "engine") as engine:
        yield engine.url


@pytest.mark.parametrize(
    ("server", "instances"),
    [
        ("sqlite", 1),
        pytest.param("redis", 1, marks=pytest.mark.slow),
        pytest.param("redis", 2, marks=pytest.mark.slow),
        pytest.param("valkey", 1, marks=pytest.mark.slow),
        pytest.param("valkey", 2, marks=pytest.mark.slow),
    ],
    indirect=["server"],
)
def test_every_test_of_the_public_suite_passes(tmp_path: Path, server: str, instances: int) -> None:
    with ExitStack() as stack:
        stores = [stack.enter_context(StoreProcess(tmp_path / "store", server)) for _ in range(instances)]
        urls = [f"http://127.0.0.1:{store.port}" for store in stores]
        if len(urls) > 1:  # each connection goes to another instance
            urls = [stack.enter_context(Relay(*urls)).url]
        environment = {"STORE_URL": urls[0], "STORE_LONG_POLL_MS": str(int(LONG_POLL_SECONDS * 1000))}
        cases = run_public_suite("store-conformance.test.js", environment, tmp_path)
        for store in stores:
            store.stop()
    others = [case for case in cases if case.status != "passed" and case.group != OPTIONAL]
    assert not others, described(others)
    assert sum(case.status == "passed" for case in cases) >= PASSING
