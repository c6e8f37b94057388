"""What a route declares: its operation, the operation's name, and the credential that it needs.

The router checks the credential once, before the operation runs. An answer before that says nothing about a stream
(protocol: order of checks).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from proxy.handlers.call import Operation, Query
from proxy.http.message import Request
from proxy.policy.auth import Keyring
from proxy.policy.caller import Access, Caller

__all__ = ["Clock", "Gate", "Route", "Routes"]

Clock = Callable[[], float]
"""Unix time in seconds. It decides whether signed URLs and tokens have expired."""


@dataclass(frozen=True, slots=True)
class Route:
    """One operation on one path.

    name: for logs and metrics, one word.
    access: the credential that a caller needs.
    operation: runs when the caller was admitted.
    """

    name: str
    access: Access
    operation: Operation


Routes = Mapping[bytes, Route]
"""The routes of one path, by method."""


class Gate:
    """Admits callers to routes."""

    def __init__(self, keyring: Keyring, clock: Clock) -> None:
        self._keyring = keyring
        self._clock = clock

    def admit(self, route: Route, request: Request, stream_id: str, query: Query) -> Caller:
        """The caller of `request`. Raises Refusal. `stream_id` is the path's segment as sent, maybe no valid id."""
        authorization = request.headers.get_all(b"authorization")
        return self._keyring.admit(route.access, stream_id, query, authorization, self._clock())
