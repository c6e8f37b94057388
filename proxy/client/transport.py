"""What durable transports share: a library's request as an upstream request, our errors as the library's.

A response, a stream and an exception must come from the library whose client asked, so `proxy.client.httpx` and
`proxy.client.httpx2` each bind this to one. An upstream's error stays the response that it was.

How an SDK gets to retry as it would without the proxy. An SDK decides by what it sees. When the proxy could not reach
the upstream, or got no answer from it, the transport raises what a direct connection would have raised, and the SDK
retries or gives up as usual. The proxy has freed the key of the request by then, so each retry is one upstream call, as
it would be directly. When the proxy refuses before it asks the upstream (overloaded, draining), and when something
between answers, the transport returns that response and leaves the decision to the SDK: the request keeps its key, so a
retry never adds an upstream call. Everything else that the proxy refuses would be refused again, so its response says
`X-Should-Retry: false`.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

from proxy.client.access import Authorization, Place
from proxy.client.context import REQUEST_ID_HEADER, current_request_id
from proxy.client.creating import UpstreamRequest
from proxy.client.errors import DurableError, IncompleteStream, NetworkError, ProxyError
from proxy.client.options import DEFAULT_PREFIX, OnClose, OnCloseName, Retry, Timeouts
from proxy.client.responses import DurableHead
from proxy.client.session import Settings
from proxy.client.storage import CredentialStorage, MemoryStorage
from proxy.client.upstream import bare_url
from proxy.streams.names import Outcome

__all__ = ["TransportOptions", "raised_as"]

# What stands for each error at the upstream: the exception that the library raises for it on a direct connection.
# UPSTREAM_ERROR is every failure of a connection, before or after the request was sent, so it is their base class.
_AT_THE_UPSTREAM = {"UPSTREAM_ERROR": "NetworkError", "UPSTREAM_TIMEOUT": "ReadTimeout"}
_ENDS = {Outcome.UPSTREAM_ERROR: "ReadError", Outcome.TIMEOUT: "ReadTimeout"}

_RETRY_COUNT = "x-stainless-retry-count"  # how the openai and anthropic SDKs say that they repeat a request


@dataclass(frozen=True, slots=True)
class _Asking:
    """A library's request, understood."""

    upstream: UpstreamRequest
    request_id: str | None
    timeouts: Timeouts
    attempt: int | None


class TransportOptions:
    """The base of both kinds of transport. The options mean what they do in `create_durable_fetch`."""

    library: ClassVar[ModuleType]

    def __init__(  # noqa: PLR0913  # the options of create_durable_fetch, under their names
        self,
        proxy_url: str,
        *,
        proxy_authorization: Authorization,
        auto_resume: bool = True,
        storage: CredentialStorage | None = None,
        storage_prefix: str = DEFAULT_PREFIX,
        on_close: OnCloseName = "auto",
        retry: Retry | None = None,
        transport: object = None,
    ) -> None:
        self._settings = Settings(
            place=Place(proxy_url, proxy_authorization),
            storage=MemoryStorage() if storage is None else storage,
            storage_prefix=storage_prefix,
            auto_resume=auto_resume,
            resume_from="start",  # an SDK parses the answer, and cannot begin in its middle
            on_close=OnClose(on_close),
            retry=retry or Retry(),
            timeouts=Timeouts(),  # each request carries its own
        )
        self._inner = transport
        self._prepare()

    def _prepare(self) -> None:
        """Make the fetch behind this transport."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} through {self._settings.place.url}>"

    def _asking(self, request: Any, content: bytes) -> _Asking:
        pairs = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw]
        fields = [(name, value) for name, value in pairs if name.lower() != REQUEST_ID_HEADER]
        try:
            upstream = UpstreamRequest(request.method, bare_url(request.url), tuple(fields), content)
        except ValueError as error:
            raise self.library.UnsupportedProtocol(str(error)) from None
        waits = request.extensions.get("timeout", {})
        read = waits.get("read")
        count = request.headers.get(_RETRY_COUNT)
        return _Asking(
            upstream,
            request.headers.get(REQUEST_ID_HEADER) or current_request_id(),
            Timeouts(waits.get("connect"), waits.get("write"), waits.get("pool"), answer=read, data=read),
            None if count is None else int(count != "0"),
        )

    def _response(self, response: DurableHead, stream: Any) -> Any:
        """The library's response. Its extension `durable_response` is ours, to abort it or to see its offset."""
        return self.library.Response(
            response.status_code,
            headers=[(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers.pairs],
            stream=stream,
            extensions={"http_version": b"HTTP/1.1", "durable_response": response},
        )

    def _refusal(self, error: ProxyError) -> Any:
        """The library's response to a refusal; a header says that it is not the upstream's.

        An error at the upstream is raised instead, for `raised_as`.
        """
        if error.code in _AT_THE_UPSTREAM:
            raise error
        headers = [("Durable-Proxy-Error", error.code)]
        if not error.may_repeat:
            headers.append(("X-Should-Retry", "false"))
        if error.retry_after is not None:
            headers.append(("Retry-After", f"{error.retry_after:g}"))
        headers.append(("Content-Type", "application/json"))
        body = json.dumps({"error": {"code": error.code, "message": error.message}})
        return self.library.Response(error.status if error.status >= 400 else 502, headers=headers, content=body)


@contextmanager
def raised_as(library: ModuleType) -> Iterator[None]:
    """Raise our errors as the library's. Ours is the cause (`__cause__`), with its outcome or code."""
    try:
        yield
    except DurableError as error:
        name = "RemoteProtocolError"
        if isinstance(error, NetworkError):
            name = error.fault.value
        elif isinstance(error, ProxyError):
            name = _AT_THE_UPSTREAM.get(error.code, name)
        elif isinstance(error, IncompleteStream):
            name = _ENDS.get(error.outcome, name)
        raise getattr(library, name)(str(error)) from error
