"""PATCH ?action=abort: end the upstream's answer; what came before stays readable (protocol: Abort)."""

from dataclasses import dataclass

from proxy.base.errors import Code, Refusal
from proxy.handlers.call import Call
from proxy.http.body import EMPTY
from proxy.http.message import Response
from proxy.relay.fleet import Fleet
from proxy.wire.headers import Headers

__all__ = ["Abort", "AbortSettings"]


@dataclass(frozen=True, slots=True)
class AbortSettings:
    """How an abort is answered."""

    abort_wait_seconds: float  # that the answer waits for the stream to be closed


class Abort:
    """The abort operation."""

    def __init__(self, fleet: Fleet, settings: AbortSettings) -> None:
        self._fleet = fleet
        self._wait = settings.abort_wait_seconds

    async def __call__(self, call: Call) -> Response:
        """204 once the transfer has stopped, 202 when its instance was told and has not been seen to stop so far.

        Again and again, from every instance. Raises Refusal, StorageError.
        """
        if call.single(b"action") != b"abort":
            raise Refusal(Code.INVALID_REQUEST, "the parameter action must be abort")
        has_stopped = await self._fleet.abort(call.stream_id, wait=self._wait)
        return Response(204 if has_stopped else 202, Headers(), EMPTY)
