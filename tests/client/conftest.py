"""A scripted proxy for each test."""

from collections.abc import Iterator

import pytest

from tests.client.scripted_proxy import ScriptedProxy


@pytest.fixture
def proxy() -> Iterator[ScriptedProxy]:
    """A proxy that does what the test says."""
    with ScriptedProxy() as proxy:
        yield proxy
