"""The request id of calls that an SDK makes: set around them, or sent as a header that goes no further than us."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["REQUEST_ID_HEADER", "current_request_id", "durable_request"]

REQUEST_ID_HEADER = "durable-request-id"

_request_id: ContextVar[str | None] = ContextVar("durable_request_id", default=None)


@contextmanager
def durable_request(request_id: str) -> Iterator[None]:
    """Requests that a durable transport sends inside carry this id: their answers can be resumed, also later.

    An id names one logical request at a time, "conversation-1:turn-7": another request under it takes its place.
    A stream may be read to its end outside. Holds for this thread or task and the tasks it starts; may be nested.
    """
    if not request_id:
        raise ValueError("request_id is empty")
    token = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(token)


def current_request_id() -> str | None:
    """The id that holds here, None outside any."""
    return _request_id.get()
