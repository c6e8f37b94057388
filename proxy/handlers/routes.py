"""What a route declares: its operation's name, the credential it needs, and the operation. Owns that check.

The check is made once, by the router, before the operation runs; an operation that names a stream is told nothing
about it before (protocol: order of checks).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from proxy.handlers.call import Operation, Query
from proxy.http.message import Request
from proxy.policy.auth import Keyring
from proxy.wire.url import query_values

__all__ = ["Access", "Clock", "Credential", "Route", "Routes"]

Clock = Callable[[], float]
"""Unix time in seconds: what signed URLs and tokens are judged by."""


class Credential(Enum):
    """What a caller must show (protocol: Authentication)."""

    NONE = "nothing"
    SERVICE = "the service secret, or a token signed with it"
    SIGNATURE = "a pre-signed URL"
    SIGNATURE_OR_SERVICE = "a pre-signed URL, else the service secret"


@dataclass(frozen=True, slots=True)
class Route:
    """One operation on one path.

    name: for logs and metrics, one word.
    credential: what its caller must show.
    operation: runs once the credential was found good.
    """

    name: str
    credential: Credential
    operation: Operation


Routes = Mapping[bytes, Route]
"""The routes of one path, by method."""


class Access:
    """Checks a request against the credential that its route needs."""

    def __init__(self, keyring: Keyring, clock: Clock) -> None:
        self._keyring = keyring
        self._clock = clock

    def check(self, credential: Credential, request: Request, stream_id: str, query: Query) -> bool:
        """Pass a caller who shows `credential`; whether a pre-signed URL did it. Raises Refusal.

        `stream_id` is the path's segment as it was sent: it need not be an id.
        """
        if credential is Credential.NONE:
            return False
        if credential is not Credential.SERVICE:
            expires, signature = query_values(query, b"expires"), query_values(query, b"signature")
            if expires or signature or credential is Credential.SIGNATURE:
                if credential is Credential.SIGNATURE_OR_SERVICE:  # half a signed URL is a malformed one
                    expires, signature = expires or [b""], signature or [b""]
                self._keyring.check_signature(stream_id, expires, signature, self._clock())
                return True
        self._keyring.check_service(
            query=query_values(query, b"secret"),
            authorization=request.headers.get_all(b"authorization"),
            now=self._clock(),
        )
        return False
