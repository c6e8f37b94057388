"""PATCH ?action=abort: end the upstream's answer; what came before stays readable (protocol: Abort)."""

from proxy.base.errors import Code, Refusal
from proxy.handlers.call import Call
from proxy.http.body import EMPTY
from proxy.http.message import Response
from proxy.relay.fleet import Fleet
from proxy.wire.headers import Headers

__all__ = ["Abort"]


class Abort:
    """The abort operation."""

    def __init__(self, fleet: Fleet, *, wait: float) -> None:
        """`wait`: seconds that an answer waits for the stream to be closed."""
        self._fleet = fleet
        self._wait = wait

    async def __call__(self, call: Call) -> Response:
        """204, again and again, from every instance. Raises Refusal, StorageError."""
        if call.single(b"action") != b"abort":
            raise Refusal(Code.INVALID_REQUEST, "the parameter action must be abort")
        await self._fleet.end(call.stream_id, discard=False, wait=self._wait)
        return Response(204, Headers(), EMPTY)
