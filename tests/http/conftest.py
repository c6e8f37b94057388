"""Both event loops."""

from tests.kit.event_loops import no_task_is_left, pytest_asyncio_loop_factories

__all__ = ["no_task_is_left", "pytest_asyncio_loop_factories"]
