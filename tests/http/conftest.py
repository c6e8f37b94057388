"""Both event loops; and the tests of the server over plain TCP and over TLS.

Over TLS they run when `-m slow` asks for it. Those marked `over_tls` always do; those marked `plain_only` never do.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http.kit import carrier
from tests.kit.certificates import Certificates
from tests.kit.event_loops import no_task_is_left, pytest_asyncio_loop_factories

__all__ = ["no_task_is_left", "pytest_asyncio_loop_factories"]

_SERVER_TESTS = ("test_server.py", "test_server_limits.py", "test_server2.py")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test of the server once for each carrier."""
    definition = metafunc.definition
    if definition.path.name in _SERVER_TESTS and definition.get_closest_marker("plain_only") is None:
        slow = [] if definition.get_closest_marker("over_tls") else [pytest.mark.slow]
        metafunc.parametrize("_carrier", ["plain", pytest.param("TLS", marks=slow)], indirect=True)


@pytest.fixture(scope="session")
def _certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    directory: Path = tmp_path_factory.mktemp("certificates")
    return Certificates.make(directory)


@pytest.fixture(autouse=True)
def _carrier(request: pytest.FixtureRequest) -> Iterator[None]:
    if getattr(request, "param", "plain") == "TLS":
        carrier.certificates = request.getfixturevalue("_certificates")
    yield
    carrier.certificates = None
