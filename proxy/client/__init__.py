"""The Python client: requests through a durable proxy whose answers survive dropped connections and dead processes.

`create_durable_fetch` is the plain way. `proxy.client.httpx2` and `proxy.client.httpx` hold transports that make the
openai and anthropic SDKs, or any httpx client, durable. Using it needs httpx2 or httpx (the extra `client`); it never
needs anything of the server.

The core decides and does no I/O. The drivers in `_async` are written by hand; `scripts/unasync` generates those in
`_sync`, and `httpx` from `httpx2`. `flavours` holds what the two kinds of driver cannot share.
"""

from proxy.client._async.aborts import create_async_abort
from proxy.client._async.create import create_async_durable_fetch
from proxy.client._async.fetch import AsyncDurableFetch
from proxy.client._async.response import AsyncDurableResponse
from proxy.client._sync.aborts import create_abort
from proxy.client._sync.create import create_durable_fetch
from proxy.client._sync.fetch import DurableFetch
from proxy.client._sync.response import DurableResponse
from proxy.client.context import durable_request
from proxy.client.errors import DurableError, IncompleteStream, NetworkError, NetworkFault, ProxyError
from proxy.client.options import Live, Retry, Timeouts
from proxy.client.storage import CredentialStorage, FileStorage, MemoryStorage
from proxy.streams.names import Outcome

__all__ = [
    "AsyncDurableFetch",
    "AsyncDurableResponse",
    "CredentialStorage",
    "DurableError",
    "DurableFetch",
    "DurableResponse",
    "FileStorage",
    "IncompleteStream",
    "Live",
    "MemoryStorage",
    "NetworkError",
    "NetworkFault",
    "Outcome",
    "ProxyError",
    "Retry",
    "Timeouts",
    "create_abort",
    "create_async_abort",
    "create_async_durable_fetch",
    "create_durable_fetch",
    "durable_request",
]  # fmt: skip
