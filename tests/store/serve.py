"""A store over TCP in a process of its own: `python -m tests.store.serve DIRECTORY [URL]` prints its port.

It keeps its streams in DIRECTORY, or in the Redis or Valkey at URL.

For the conformance suite and for tests that kill it.
"""

import asyncio
import socket
import sys
from contextlib import aclosing
from pathlib import Path

from proxy.base.errors import Refusal
from proxy.http.body import BytesBody
from proxy.http.message import Response
from proxy.http.server import HttpServer, ServerSettings
from proxy.http.server1 import Http1Connection
from proxy.net.listen import AcceptSettings
from proxy.store import Store, StoreSettings, open_shared_store, open_store
from proxy.wire.events import HeadLimits
from proxy.wire.headers import Headers
from tests.kit.store_settings import engine_settings, store_settings

LIMITS = ServerSettings(
    accept=AcceptSettings(accept_retry_seconds=0.1, accept_report_seconds=60.0),
    head=HeadLimits(head_bytes=32 << 10, fields=100, target_bytes=8 << 10),
    max_request_bytes=64 << 20,
    max_waiting_bytes=256 << 10,
    max_waiting_bytes_total=256 << 20,
    pipelined_at_once=4,
    pipelined_pause_seconds=0.0,
    max_connections=10_000,
    exchanges_per_connection=100,
    max_exchanges=10_000,
    max_reader_bytes=64 << 10,
    head_timeout_seconds=10.0,
    idle_timeout_seconds=75.0,
    body_timeout_seconds=30.0,
    reader_timeout_seconds=60.0,
    half_close_grace_seconds=5.0,
    close_grace_seconds=2.0,
    close_grace_bytes=64 << 10,
    sweep_seconds=0.25,
    swept_at_once=8,
    swept_pause_seconds=0.0,
)


def refuse(refusal: Refusal, _origin: bytes | None) -> Response:
    return Response(refusal.code.status, Headers(), BytesBody([refusal.message.encode()]))


LONG_POLL_SECONDS = 1.0


def _opened(directory: Path, url: str, settings: StoreSettings) -> Store:
    return open_shared_store(engine_settings(url=url), settings, None) if url else open_store(directory, settings)


async def serve(directory: Path, url: str) -> None:
    settings = store_settings(long_poll_seconds=LONG_POLL_SECONDS)
    async with aclosing(_opened(directory, url, settings)) as store:
        server = HttpServer(store.handler, refuse, LIMITS)
        listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        listening.setblocking(False)
        server.serve([listening], Http1Connection)
        print(listening.getsockname()[1], flush=True)
        try:
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until the parent lets go
        finally:
            await server.aclose()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else ""))
