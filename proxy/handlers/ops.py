"""GET /health: whether this instance takes new streams."""

from proxy.handlers.call import Call
from proxy.http.body import BytesBody
from proxy.http.message import Response
from proxy.relay.transfers import Transfers
from proxy.wire.headers import Headers

__all__ = ["Health"]

_HEADERS = Headers([(b"content-type", b"application/json"), (b"cache-control", b"no-store")])


class Health:
    """The health operation, for anyone."""

    def __init__(self, transfers: Transfers) -> None:
        self._transfers = transfers

    async def __call__(self, call: Call) -> Response:
        """200 `ok`, or 503 `draining`, so that a load balancer sends no new requests."""
        if self._transfers.is_draining:
            return Response(503, _HEADERS, BytesBody((b'{"status":"draining"}',)))
        return Response(200, _HEADERS, BytesBody((b'{"status":"ok"}',)))
