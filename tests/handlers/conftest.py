"""The scripted upstream of these tests."""

from collections.abc import Iterator

import pytest

from tests.kit.upstream import Upstream


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """Every test serves URLs of its own."""
    with Upstream() as upstream:
        yield upstream
