"""For a conftest: its asynchronous tests run on asyncio's own loop and on uvloop, and must leave no task behind."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

__all__ = ["no_task_is_left", "pytest_asyncio_loop_factories"]


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """pytest-asyncio's hook."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


@pytest.fixture(autouse=True)
async def no_task_is_left() -> AsyncIterator[None]:
    """Fails a test that leaves a task, or a failure that only the loop was told of."""
    before = asyncio.all_tasks()
    failures: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
    yield
    for _ in range(3):  # streams of the test itself close on the loop's next turns
        await asyncio.sleep(0)
    assert not asyncio.all_tasks() - before - {asyncio.current_task()}
    assert not failures
