"""The Python client: requests through a durable proxy whose answers survive dropped connections and dead processes.

`create_durable_fetch` is the plain way; `proxy.client.httpx2` and `proxy.client.httpx` hold transports that make the
openai and anthropic SDKs, or any httpx client, durable. Needs httpx2 or httpx (the extra `client`) when it is used, and
nothing of the server.
"""

from proxy.client.aio import AsyncDurableFetch, AsyncDurableResponse, create_async_abort
from proxy.client.context import durable_request
from proxy.client.create import create_async_durable_fetch, create_durable_fetch
from proxy.client.errors import DurableError, Fault, IncompleteStream, NetworkError, ProxyError
from proxy.client.fetch import DurableFetch, DurableResponse, create_abort
from proxy.client.options import Live, Retry, Timeouts
from proxy.client.storage import FileStorage, MemoryStorage, Storage
from proxy.streams.names import Outcome

__all__ = [
    "AsyncDurableFetch", "AsyncDurableResponse", "DurableError", "DurableFetch", "DurableResponse", "Fault",
    "FileStorage", "IncompleteStream", "Live", "MemoryStorage", "NetworkError", "Outcome", "ProxyError", "Retry",
    "Storage", "Timeouts", "create_abort", "create_async_abort", "create_async_durable_fetch", "create_durable_fetch",
    "durable_request",
]  # fmt: skip
