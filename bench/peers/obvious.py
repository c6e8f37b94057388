"""The obvious Python proxy: Starlette, uvicorn and httpx doing create, append and read in the ordinary way.

What a user would write in an afternoon, with a fair chance: pooled connections, no log line for each request, one
append for each chunk that httpx returns. It has no retries, records, leases, limits or allowlist.
`python bench/peers/obvious.py PORT STORAGE_URL`, the secret in BENCH_SECRET.
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

SECRET = os.environ.get("BENCH_SECRET", "")
STORAGE = sys.argv[2] + "/v1/streams/" if len(sys.argv) > 2 else ""
UNLIMITED = httpx.Limits(max_connections=None, max_keepalive_connections=200)
NOT_FORWARDED = {"host", "authorization", "content-length", "connection", "upstream-url", "upstream-method"}
running: set[asyncio.Task[None]] = set()


class State:
    """The two clients, made when the server starts."""

    upstream: httpx.AsyncClient
    storage: httpx.AsyncClient


@contextlib.asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    """Opens the clients and closes them."""
    async with (
        httpx.AsyncClient(limits=UNLIMITED, timeout=httpx.Timeout(60, read=600), follow_redirects=False) as upstream,
        httpx.AsyncClient(limits=UNLIMITED, timeout=httpx.Timeout(10, read=None), base_url=STORAGE) as storage,
    ):
        State.upstream, State.storage = upstream, storage
        yield


def error(status: int, code: str) -> JSONResponse:
    """An error as the protocol words it."""
    return JSONResponse({"error": {"code": code, "message": code}}, status)


def sign(stream_id: str, expires: int) -> str:
    """The signature of a pre-signed URL."""
    digest = hmac.new(SECRET.encode(), f"{stream_id}:{expires}".encode(), hashlib.sha256).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


async def pump(stream_id: str, response: httpx.Response) -> None:
    """Appends each chunk, then closes the stream."""
    try:
        async for chunk in response.aiter_raw():
            answer = await State.storage.post(
                stream_id, content=chunk, headers={"content-type": "application/octet-stream"}
            )
            answer.raise_for_status()
    finally:
        await response.aclose()
        await State.storage.post(stream_id, headers={"stream-closed": "true"})


async def create(request: Request) -> Response:
    """POST /v1/proxy"""
    if not hmac.compare_digest(request.headers.get("authorization", ""), f"Bearer {SECRET}"):
        return error(401, "INVALID_SECRET")
    url, method = request.headers.get("upstream-url"), request.headers.get("upstream-method")
    if not url or not method:
        return error(400, "MISSING_UPSTREAM_URL")
    headers = {name: value for name, value in request.headers.items() if name not in NOT_FORWARDED}
    headers["accept-encoding"] = "identity"
    try:
        response = await State.upstream.send(
            State.upstream.build_request(method, url, headers=headers, content=await request.body()), stream=True
        )
    except httpx.HTTPError:
        return error(502, "UPSTREAM_ERROR")
    if not response.is_success:
        body = await response.aread()
        return Response(body, 502, {"upstream-status": str(response.status_code)})
    stream_id = str(uuid.uuid4())
    stored = await State.storage.put(
        stream_id, headers={"content-type": "application/octet-stream", "stream-ttl": "86400"}
    )
    if not stored.is_success:
        await response.aclose()
        return error(502, "STORAGE_ERROR")
    task = asyncio.create_task(pump(stream_id, response))
    running.add(task)
    task.add_done_callback(running.discard)
    expires = int(time.time()) + 86400
    return Response(
        status_code=201,
        headers={
            "location": f"/v1/proxy/{stream_id}?expires={expires}&signature={sign(stream_id, expires)}",
            "upstream-content-type": response.headers.get("content-type", "application/octet-stream"),
            "upstream-status": str(response.status_code),
        },
    )


async def read(request: Request) -> Response:
    """GET /v1/proxy/{id}"""
    stream_id = str(request.path_params["stream_id"])
    query = request.query_params
    if not query.get("expires", "").isdigit() or not hmac.compare_digest(
        query.get("signature", ""), sign(stream_id, int(query["expires"]))
    ):
        return error(401, "SIGNATURE_INVALID")
    passed = {name: query[name] for name in ("offset", "live", "cursor") if name in query}
    response = await State.storage.send(State.storage.build_request("GET", stream_id, params=passed), stream=True)

    async def body() -> AsyncIterator[bytes]:
        try:
            async for chunk in response.aiter_raw():
                yield chunk
        finally:
            await response.aclose()

    headers = {name: value for name, value in response.headers.items() if name.startswith("stream-")}
    return StreamingResponse(body(), response.status_code, headers, media_type=response.headers.get("content-type"))


app = Starlette(
    routes=[
        Route("/v1/proxy", create, methods=["POST"]),
        Route("/v1/proxy/{stream_id:uuid}", read, methods=["GET"]),
    ],
    lifespan=lifespan,
)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning", access_log=False, backlog=4096)
