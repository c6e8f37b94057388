"""The option `--loop`, see tests/kit/event_loops.py; and property tests without a deadline: no time decides a test."""

import asyncio
from collections.abc import Callable, Mapping

import hypothesis
import pytest

from tests.kit.event_loops import LOOPS, chosen_loop, hide_uvloop

hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--loop", choices=tuple(LOOPS), help="event loop of the tests and of the proxies they start")


def pytest_configure(config: pytest.Config) -> None:
    if chosen_loop(config) == "asyncio":
        hide_uvloop()


def pytest_asyncio_loop_factories(config: pytest.Config) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """pytest-asyncio's hook, for folders that have none of their own."""
    chosen = chosen_loop(config) or "asyncio"
    return {chosen: LOOPS[chosen]}
