"""How a durable fetch is made: every option once."""

from typing import Literal

from proxy.client._async.fetch import AsyncDurableFetch
from proxy.client.access import Authorization, Place
from proxy.client.options import DEFAULT_PREFIX, OnClose, OnCloseName, Retry, Timeouts
from proxy.client.session import Settings
from proxy.client.storage import CredentialStorage, MemoryStorage

__all__ = ["create_async_durable_fetch"]


def create_async_durable_fetch(  # noqa: PLR0913  # the options have the names of the JavaScript client's
    proxy_url: str,
    *,
    proxy_authorization: Authorization,
    auto_resume: bool = True,
    storage: CredentialStorage | None = None,
    storage_prefix: str = DEFAULT_PREFIX,
    resume_from: Literal["start", "offset"] = "start",
    on_close: OnCloseName = "auto",
    retry: Retry | None = None,
    timeouts: Timeouts | None = None,
    transport: object = None,
) -> AsyncDurableFetch:
    """A function like `fetch` that sends requests through the proxy and survives dropped connections.

    - `proxy_url`: the proxy's URL, with or without `/v1/proxy`.
    - `proxy_authorization`: the service secret or a JWT, or a function that returns one. Sent to `proxy_url` only.
    - `auto_resume`: answer a request from the stream that its id already has, instead of asking the upstream again.
    - `storage`: where credentials are kept; in memory by default. Their keys are made of `storage_prefix`, the proxy's
      URL and the id.
    - `resume_from`: where a resumed response begins: "start" is the answer's first byte, "offset" the first byte that
      was not consumed.
    - `on_close`: what closing an unfinished response does to the upstream call: "abort" stops it, "detach" lets it go
      on, "auto" aborts only when there is no request id by which the answer could be resumed.
    - `retry`, `timeouts`: see `Retry` and `Timeouts`.
    - `transport`: an httpx or httpx2 transport by which to reach the proxy. The caller closes it.

    Raises ValueError for a URL or an option that is not valid. Imports httpx2 (or httpx) with the first request.
    """
    settings = Settings(
        place=Place(proxy_url, proxy_authorization),
        storage=MemoryStorage() if storage is None else storage,
        storage_prefix=storage_prefix,
        auto_resume=auto_resume,
        resume_from=resume_from,
        on_close=OnClose(on_close),
        retry=retry or Retry(),
        timeouts=timeouts or Timeouts(),
    )
    return AsyncDurableFetch(settings, transport=transport)
