"""A store of its own for each test that asks for a client."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.kit.calls import Client
from tests.store.kit import Clock, opened


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def client(tmp_path: Path, clock: Clock) -> AsyncIterator[Client]:
    async with opened(tmp_path, clock=clock) as (_, client):
        yield client
