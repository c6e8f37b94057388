"""DELETE: end the transfer, then remove the stream and its record (protocol: Delete)."""

from proxy.handlers.call import Call
from proxy.handlers.subjects import check_subject
from proxy.http.body import EMPTY
from proxy.http.message import Response
from proxy.relay.fleet import Fleet
from proxy.relay.record import Records
from proxy.streams.answers import StorageError
from proxy.streams.client import Storage
from proxy.wire.headers import Headers

__all__ = ["Delete"]


class Delete:
    """The delete operation."""

    def __init__(self, storage: Storage, records: Records, fleet: Fleet, *, wait: float) -> None:
        """`wait`: longest wait for the transfer's last append, in seconds, before storage is asked to delete."""
        self._storage = storage
        self._records = records
        self._fleet = fleet
        self._wait = wait

    async def __call__(self, call: Call) -> Response:
        """204, also when repeated. Raises Refusal, StorageError."""
        await check_subject(call, self._records)
        if not await self._fleet.discard(call.stream_id, wait=self._wait):
            raise StorageError("the last append has not been answered")  # it could create the stream again
        await self._storage.delete(call.stream_id)
        await self._records.delete(call.stream_id)
        return Response(204, Headers(), EMPTY)
