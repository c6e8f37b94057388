"""A durable fetch: a request through the proxy, answered from the stream that it already has or from a new one."""

import threading
from types import ModuleType
from weakref import WeakSet

from proxy.client._async.link import AsyncLink
from proxy.client._async.managed import AsyncManaged
from proxy.client._async.response import AsyncDurableResponse
from proxy.client.creating import Answered, Asked, UpstreamRequest
from proxy.client.errors import DurableError, ProxyError
from proxy.client.flavours import async_each
from proxy.client.messages import Plan
from proxy.client.options import Timeouts
from proxy.client.session import FetchCall, Session, Settings
from proxy.client.upstream import Content, HeaderInput, Json, upstream_request

__all__ = ["AsyncDurableFetch"]


class AsyncDurableFetch(AsyncManaged):
    """Requests to upstreams through one proxy. Made by `create_async_durable_fetch`, which documents the options.

    Any number of tasks or threads may use it. A call that is cancelled or interrupted closes its connection.
    """

    def __init__(self, settings: Settings, library: ModuleType | None = None, transport: object = None) -> None:
        self._session = Session(settings)
        self._link = AsyncLink(settings.retry, library, transport)
        self._responses: WeakSet[AsyncDurableResponse] = WeakSet()
        self._lock = threading.Lock()  # guards the set; never held during a wait

    def __repr__(self) -> str:
        return f"<{type(self).__name__} through {self._session.settings.place.url}>"

    async def __call__(
        self,
        url: str,
        *,
        method: str = "POST",
        headers: HeaderInput = None,
        content: Content = None,
        json: Json = None,
        request_id: str | None = None,
    ) -> AsyncDurableResponse:
        """Send this request to `url` through the proxy; the upstream's answer.

        Everything given is meant for the upstream: its `Authorization` travels as `Upstream-Authorization`. With a
        `request_id`, the same request under the same id is sent once as long as its answer has not been read to the
        end. A repetition resumes that answer, also from another process that shares the storage. Another request under
        the id takes its place. Raises ProxyError, NetworkError, or ValueError for arguments that cannot be sent.

        A call that is cancelled or interrupted before the answer cancels the upstream call too, because the proxy
        notices that its caller has gone.
        """
        upstream = upstream_request(self._link.wire.library, url, method, headers, content, json)
        return await self.perform(upstream, request_id, self._session.settings.timeouts)

    async def perform(
        self, upstream: UpstreamRequest, request_id: str | None, timeouts: Timeouts, *, attempt: int | None = None
    ) -> AsyncDurableResponse:
        """Send a request that is ready; the upstream's answer. Raises ProxyError or NetworkError.

        `attempt`: how often the caller has tried this request before, if the caller repeats what fails; else None.
        """
        call = self._session.call(upstream, request_id, timeouts=timeouts, attempt=attempt)
        if (delivery := call.resumption()) is not None:
            response = AsyncDurableResponse(self._link, delivery)
            try:
                if await response.open():
                    return self._held(response)
            except ProxyError as error:
                if not error.unauthorized:
                    raise
                call.needs_fresh_url()
        asked = await self._ask(call)
        source = asked if isinstance(asked, Answered) else call.created(asked)
        return self._held(AsyncDurableResponse(self._link, source))

    async def resume(self, request_id: str) -> AsyncDurableResponse | None:
        """The answer that is remembered under the id; None when there is none, or its stream is gone.

        Never sends the request again. Raises ProxyError or NetworkError.
        """
        delivery = self._session.kept(request_id)
        if delivery is None:
            return None
        response = AsyncDurableResponse(self._link, delivery)
        return self._held(response) if await response.open() else None

    async def abort(self, request_id: str) -> bool:
        """Stop the upstream call of the id and forget it. False when nothing is remembered under the id.

        Raises ProxyError or NetworkError; then the id is still remembered.
        """
        delivery = self._session.kept(request_id)
        if delivery is None:
            return False
        await self._link.abort(delivery.created.stream_url)
        delivery.finished()
        return True

    def remembers(self, request_id: str) -> bool:
        """Whether a stream is remembered under the id. Asks the storage only, so the stream itself may be gone."""
        return self._session.kept(request_id) is not None

    def forget(self, request_id: str) -> None:
        """Forget the id. The upstream call goes on."""
        self._session.entries.forget(request_id)

    async def aclose(self) -> None:
        """Close every unfinished response as its own close does, then wait for aborts and close the connections."""
        with self._lock:
            responses = [response for response in self._responses if response.unfinished]
        try:
            await async_each([response.aclose for response in responses])
        finally:
            await self._link.aclose()

    def _held(self, response: AsyncDurableResponse) -> AsyncDurableResponse:
        """`response`, to be closed with this fetch unless the caller drops it before."""
        with self._lock:
            self._responses.add(response)
        return response

    async def _ask(self, call: FetchCall) -> Asked:
        try:
            plan: Plan[Asked] = call.creating()
            asked = await self._link.wire.settle(plan)
        except DurableError as error:
            call.failed(error)
            raise
        if isinstance(asked, Answered):
            call.failed(None)
        return asked
