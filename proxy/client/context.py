"""The request id of calls that an SDK makes: set by a `with` block, or by a header that the transport removes."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["REQUEST_ID_HEADER", "current_request_id", "durable_request"]

REQUEST_ID_HEADER = "durable-request-id"

_request_id: ContextVar[str | None] = ContextVar("durable_request_id", default=None)


@contextmanager
def durable_request(request_id: str) -> Iterator[None]:
    """Give this id to the requests that a durable transport sends inside the block, so their answers can be resumed.

    An id names one logical request at a time, for example "conversation-1:turn-7". Another request under the same id
    takes its place. A streamed answer may be read to its end after the block. The id holds for this thread or task and
    for the tasks that it starts. Blocks may be nested. Raises ValueError when the id is empty.
    """
    if not request_id:
        raise ValueError("request_id is empty")
    token = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(token)


def current_request_id() -> str | None:
    """The id of the innermost block; None outside of any."""
    return _request_id.get()
