"""Finds a request's operation, and turns every failure into an answer. The one place that makes error bodies.

Order of checks (protocol): the path is known, the path has this method, the credential is valid, the stream's id has
its canonical form. Only then the operation runs, and finds out whether the stream exists.
"""

import json
import logging
import re
from collections.abc import Mapping

from proxy.base.errors import Code, Refusal
from proxy.handlers.call import Call, parsed_query
from proxy.handlers.routes import Gate, Routes
from proxy.http.body import EMPTY, BodyError, BytesBody, TooLarge
from proxy.http.message import Handler, Request, Response
from proxy.policy.cors import Cors
from proxy.streams.answers import StorageError
from proxy.wire.headers import Field, Headers

__all__ = ["Router", "error_response"]

logger = logging.getLogger(__name__)

_STREAMS = b"/v1/proxy/"
_STATIC = b"/static/"
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_RETRY_AFTER: Field = (b"retry-after", b"1")


class NotAllowed(Refusal):
    """The path is known, but it does not have this method."""

    def __init__(self, methods: tuple[bytes, ...]) -> None:
        self.allow = b", ".join((*methods, b"OPTIONS"))
        super().__init__(Code.METHOD_NOT_ALLOWED, f"allowed here: {self.allow.decode()}")


def error_response(refusal: Refusal) -> Response:
    """`{"error":{"code":…,"message":…}}` with the code's status."""
    body = json.dumps({"error": {"code": refusal.code.value, "message": refusal.message}}).encode()
    fields: list[Field] = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    if refusal.code.status == 503:
        fields.append(_RETRY_AFTER)
    if refusal.code.status == 401:
        fields.append((b"www-authenticate", b"Bearer"))
    if isinstance(refusal, NotAllowed):
        fields.append((b"allow", refusal.allow))
    return Response(refusal.code.status, Headers.trusted(fields), BytesBody((body,)))


class Router:
    """The proxy's whole protocol as a Handler. Every response carries the CORS and hardening fields."""

    def __init__(
        self, fixed: Mapping[bytes, Routes], streams: Routes, *, static: Handler, gate: Gate, cors: Cors
    ) -> None:
        """`fixed`: the routes of each path; `streams`: those of `/v1/proxy/{id}`; `static`: files, for anyone."""
        self._fixed = fixed
        self._streams = streams
        self._static = static
        self._gate = gate
        self._cors = cors

    async def __call__(self, request: Request) -> Response:
        """Answer one request. Raises only BodyError, when the request's body was cut."""
        if request.method == b"OPTIONS":
            return Response(204, self._cors.preflight(request.headers), EMPTY)
        try:
            response = await self._route(request)
        except Refusal as refusal:
            response = error_response(refusal)
        except StorageError as error:
            logger.warning("%r: storage failed: %s", request, error)
            response = error_response(Refusal(Code.STORAGE_ERROR, "storage failed"))
            if not error.is_final:
                response.headers = response.headers.plus(_RETRY_AFTER)
        except TooLarge:
            response = error_response(Refusal(Code.REQUEST_TOO_LARGE, "the request body is too large"))
        except BodyError:
            raise  # the server knows why
        except Exception:
            logger.exception("%r failed: an error of the proxy's own (it is answered with 500)", request)
            response = error_response(Refusal(Code.INTERNAL_ERROR, "the proxy failed to handle the request"))
        return self._decorated(response, request.headers.get(b"origin"))

    def refuse(self, refusal: Refusal, origin: bytes | None) -> Response:
        """The answer to a request that reached no operation; `origin` is its Origin, if it is known."""
        return self._decorated(error_response(refusal), origin)

    def _decorated(self, response: Response, origin: bytes | None) -> Response:
        headers = response.headers
        response.headers = headers.plus(*self._cors.response_headers(origin), *self._cors.exposed(headers))
        return response

    async def _route(self, request: Request) -> Response:
        path = request.target.partition(b"?")[0]
        routes, stream_id = self._fixed.get(path), ""
        if routes is None and path.startswith(_STREAMS) and b"/" not in path[len(_STREAMS) :]:
            routes, stream_id = self._streams, path[len(_STREAMS) :].decode("latin-1")
        if routes is None:
            return await self._file(request, path)
        route = routes.get(request.method)
        if route is None:
            raise NotAllowed(tuple(routes))
        query = parsed_query(request)
        caller = self._gate.admit(route, request, stream_id, query)
        if stream_id and not _UUID.fullmatch(stream_id):
            raise Refusal(Code.STREAM_NOT_FOUND, "there is no such stream")
        return await route.operation(Call(request, stream_id, query, caller))

    async def _file(self, request: Request, path: bytes) -> Response:
        if not path.startswith(_STATIC):
            raise Refusal(Code.NOT_FOUND, "there is nothing here")
        if request.method not in (b"GET", b"HEAD"):
            raise NotAllowed((b"GET", b"HEAD"))
        return await self._static(request)
