"""Which event loop a test runs on: `--loop asyncio` or `--loop uvloop`, for the tests and for the proxies they start.

Without the option, tests run on asyncio's own loop, those of a folder whose conftest imports
`pytest_asyncio_loop_factories` and `no_task_is_left` from here on both, and processes on the loop that they prefer.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop

__all__ = ["LOOPS", "chosen_loop", "hide_uvloop", "no_task_is_left", "pytest_asyncio_loop_factories", "python_path"]

LOOPS: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

_WITHOUT_UVLOOP = Path(__file__).resolve().parent / "without_uvloop"


def chosen_loop(config: pytest.Config) -> str | None:
    """The loop that the command line names, if it names one."""
    chosen: str | None = config.getoption("loop")
    return chosen


def pytest_asyncio_loop_factories(config: pytest.Config) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """pytest-asyncio's hook, for a folder whose tests run on both loops."""
    chosen = chosen_loop(config)
    return LOOPS if chosen is None else {chosen: LOOPS[chosen]}


def python_path(*folders: Path) -> str:
    """PYTHONPATH for a process under test: these folders, then what this process has, which may hide uvloop."""
    return os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])


def hide_uvloop() -> None:
    """Hide uvloop from every process that this one starts from now on."""
    os.environ["PYTHONPATH"] = python_path(_WITHOUT_UVLOOP)


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    """Fail a test that leaves a task behind, or an exception that only the loop's handler saw."""
    before = asyncio.all_tasks()
    failures: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    yield
    for _ in range(3):  # streams of the test itself close on the loop's next turns
        await asyncio.sleep(0)
    assert not asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not failures
