"""A store over TCP in a process of its own: `python -m tests.store.serve DIRECTORY` prints its port.

For the conformance suite and for tests that kill it.
"""

import asyncio
import socket
import sys
from pathlib import Path

from proxy.base.errors import Refusal
from proxy.http.body import BytesBody
from proxy.http.message import Response
from proxy.http.pipe import Budget, PipeLimits
from proxy.http.server import HttpServer, ServerLimits
from proxy.store import open_store
from proxy.wire.events import HeadLimits
from proxy.wire.headers import Headers
from tests.kit.store_settings import store_settings

LIMITS = ServerLimits(
    head=HeadLimits(head_bytes=32 << 10, fields=100, target_bytes=8 << 10),
    body_bytes=64 << 20,
    body=PipeLimits(high_water=256 << 10, budget=Budget(256 << 20)),
    connections=10_000,
    write_high_water=64 << 10,
    head_timeout=10.0,
    idle_timeout=75.0,
    body_timeout=30.0,
    write_timeout=60.0,
    half_close_grace=5.0,
    linger_timeout=2.0,
    linger_bytes=64 << 10,
    sweep=0.25,
)


def refuse(refusal: Refusal, _origin: bytes | None) -> Response:
    return Response(refusal.code.status, Headers(), BytesBody([refusal.message.encode()]))


LONG_POLL_SECONDS = 1.0


async def serve(directory: Path) -> None:
    settings = store_settings(long_poll_seconds=LONG_POLL_SECONDS)
    async with open_store(directory, settings) as store:
        server = HttpServer(store.handler, refuse, LIMITS)
        listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        listening.setblocking(False)
        server.serve([listening])
        print(listening.getsockname()[1], flush=True)
        try:
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)  # until the parent lets go
        finally:
            await server.aclose()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1])))
