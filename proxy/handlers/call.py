"""A request as an operation sees it: the stream it names and its query, parsed once."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from proxy.base.errors import Code, Refusal
from proxy.http.message import Request, Response
from proxy.wire.url import parse_query, query_values

__all__ = ["Call", "Operation", "parse_call"]

_UUID = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Call:
    """`stream_id` is canonical, "" where the operation names no stream; `query` keeps repeated parameters."""

    request: Request
    stream_id: str
    query: list[tuple[bytes, bytes]]

    def values(self, name: bytes) -> list[bytes]:
        """Every value of a query parameter."""
        return query_values(self.query, name)

    def single(self, name: bytes) -> bytes | None:
        """The value of a query parameter that may stand once. Raises Refusal."""
        values = self.values(name)
        if len(values) > 1:
            raise Refusal(Code.INVALID_REQUEST, f"the parameter {name.decode()} may be given once")
        return values[0] if values else None


Operation = Callable[[Call], Awaitable[Response]]


def parse_call(request: Request, stream_id: bytes = b"") -> Call:
    """The call that `request` makes. Raises Refusal for a stream id that is not spelled canonically."""
    if stream_id and not _UUID.fullmatch(stream_id):
        raise Refusal(Code.STREAM_NOT_FOUND, "there is no such stream")
    query = request.target.partition(b"?")[2]
    return Call(request, stream_id.decode(), parse_query(query) if query else [])
