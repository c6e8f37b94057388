"""DELETE: end the transfer, then remove the stream and its record (protocol: Delete)."""

import time

from proxy.handlers.call import Call
from proxy.http.body import EMPTY
from proxy.http.message import Response
from proxy.policy.auth import Keyring
from proxy.relay.fleet import Fleet
from proxy.relay.record import Records
from proxy.streams.client import Storage, StorageError
from proxy.wire.headers import Headers

__all__ = ["Delete"]


class Delete:
    """The delete operation, for the service secret only."""

    def __init__(self, keyring: Keyring, storage: Storage, records: Records, fleet: Fleet, *, wait: float) -> None:
        """`wait`: seconds that the transfer gets for its last append before storage is asked to delete."""
        self._keyring = keyring
        self._storage = storage
        self._records = records
        self._fleet = fleet
        self._wait = wait

    async def __call__(self, call: Call) -> Response:
        """204, again and again. Raises Refusal, StorageError."""
        self._keyring.check_service(
            query=call.values(b"secret"),
            authorization=call.request.headers.get_all(b"authorization"),
            now=time.time(),
        )
        if not await self._fleet.end(call.stream_id, discard=True, wait=self._wait):
            raise StorageError("the last append is still on its way")  # it could bring the stream back
        await self._storage.delete(call.stream_id)
        await self._records.delete(call.stream_id)
        return Response(204, Headers(), EMPTY)
