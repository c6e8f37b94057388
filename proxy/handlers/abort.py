"""PATCH ?action=abort: end the upstream's answer; what was received stays readable (protocol: Abort)."""

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

    abort_wait_seconds: float  # longest wait for the stream to be closed; then the answer is 202


class Abort:
    """The abort operation."""

    def __init__(self, fleet: Fleet, settings: AbortSettings) -> None:
        self._fleet = fleet
        self._wait = settings.abort_wait_seconds

    async def __call__(self, call: Call) -> Response:
        """204 when the transfer has stopped; 202 when its owner has got the message but has not stopped it yet.

        May be repeated, on any instance. Raises Refusal, StorageError.
        """
        if call.single(b"action") != b"abort":
            raise Refusal(Code.INVALID_REQUEST, "the parameter action must be abort")
        has_stopped = await self._fleet.abort(call.stream_id, wait=self._wait)
        return Response(204 if has_stopped else 202, Headers(), EMPTY)
