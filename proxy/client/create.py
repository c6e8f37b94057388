"""How a durable fetch is made: every option once, the same for both kinds."""

from typing import Literal

from proxy.client.access import Authorization, Place
from proxy.client.aio import AsyncDurableFetch
from proxy.client.fetch import DurableFetch
from proxy.client.options import OnClose, Retry, Timeouts
from proxy.client.session import Settings
from proxy.client.storage import MemoryStorage, Storage

__all__ = ["DEFAULT_PREFIX", "OnCloseName", "create_async_durable_fetch", "create_durable_fetch"]

DEFAULT_PREFIX = "durable-streams:"

OnCloseName = Literal["auto", "abort", "detach"]


def create_durable_fetch(  # noqa: PLR0913  # the options have the names of the JavaScript client's
    proxy_url: str,
    *,
    proxy_authorization: Authorization,
    auto_resume: bool = True,
    storage: Storage | None = None,
    storage_prefix: str = DEFAULT_PREFIX,
    resume_from: Literal["start", "offset"] = "start",
    on_close: OnCloseName = "auto",
    retry: Retry | None = None,
    timeouts: Timeouts | None = None,
    transport: object = None,
) -> DurableFetch:
    """A function like `fetch` that sends requests through the proxy and survives what happens to connections.

    - `proxy_url`: with or without `/v1/proxy`.
    - `proxy_authorization`: the service secret or a JWT, or a function that returns one. Sent to `proxy_url` only.
    - `auto_resume`: answer a request from the stream that its id already has; else ask anew.
    - `storage`: where credentials are kept, in memory by default; their keys are `storage_prefix`, proxy and id.
    - `resume_from`: what a resumed response begins with, the answer's first byte or the first not consumed.
    - `on_close`: what closing an unfinished response does to the upstream call; "auto" aborts it when there is no
      request id by which anybody could resume.
    - `retry`, `timeouts`: see there.
    - `transport`: an httpx or httpx2 transport to reach the proxy by; the caller closes it.

    Raises ValueError for a URL or option that cannot be. httpx2 (or httpx) is imported when the first request is made.
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
    return DurableFetch(settings, transport=transport)


def create_async_durable_fetch(  # noqa: PLR0913  # the options have the names of the JavaScript client's
    proxy_url: str,
    *,
    proxy_authorization: Authorization,
    auto_resume: bool = True,
    storage: Storage | None = None,
    storage_prefix: str = DEFAULT_PREFIX,
    resume_from: Literal["start", "offset"] = "start",
    on_close: OnCloseName = "auto",
    retry: Retry | None = None,
    timeouts: Timeouts | None = None,
    transport: object = None,
) -> AsyncDurableFetch:
    """The same for asyncio."""
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
