"""A request as an operation sees it: the stream it names, its query, and its caller."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from proxy.base.errors import Code, Refusal
from proxy.http.message import Request, Response
from proxy.policy.caller import Caller
from proxy.wire.url import parse_query, query_values

__all__ = ["Call", "Operation", "Query", "parsed_query"]

_MAX_PAIRS = 32  # in a query: ours has six names, and each pair costs time before a credential was checked

Query = list[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Call:
    """One request for an operation, after its credential was checked.

    request: the request itself; its body has not been read.
    stream_id: the stream in canonical spelling, "" where the operation names none.
    query: the decoded parameters in order, repeated ones kept.
    caller: who calls, as its credential says.
    """

    request: Request
    stream_id: str
    query: Query
    caller: Caller

    def values(self, name: bytes) -> list[bytes]:
        """All values of a query parameter."""
        return query_values(self.query, name)

    def single(self, name: bytes) -> bytes | None:
        """The value of a query parameter that may stand once. Raises Refusal."""
        values = self.values(name)
        if len(values) > 1:
            raise Refusal(Code.INVALID_REQUEST, f"the parameter {name.decode()} may be given once")
        return values[0] if values else None


Operation = Callable[[Call], Awaitable[Response]]


def parsed_query(request: Request) -> Query:
    """The request's query parameters. Raises Refusal when there are too many."""
    query = request.target.partition(b"?")[2]
    if query.count(b"&") >= _MAX_PAIRS:
        raise Refusal(Code.INVALID_REQUEST, f"a query may have {_MAX_PAIRS} parameters")
    return parse_query(query) if query else []
