"""From a request to its operation, and from every failure to its answer. The one place that makes error bodies."""

import json
import logging
from collections.abc import Mapping

from proxy.base.errors import Code, Refusal
from proxy.handlers.call import Operation, parse_call
from proxy.http.body import EMPTY, BodyError, BytesBody, TooLarge
from proxy.http.message import Handler, Request, Response
from proxy.policy.cors import Cors
from proxy.streams.client import StorageError
from proxy.wire.headers import Field, Headers

__all__ = ["Router", "Routes", "error_response"]

logger = logging.getLogger(__name__)

_COLLECTION = b"/v1/proxy"
_STREAMS = b"/v1/proxy/"
_STATIC = b"/static/"
_RETRY_AFTER: Field = (b"retry-after", b"1")

Routes = Mapping[bytes, Operation]


class NotAllowed(Refusal):
    """The path is known, the method is not."""

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

    def __init__(self, *, create: Operation, streams: Routes, health: Operation, static: Handler, cors: Cors) -> None:
        """`streams` holds the operations on `/v1/proxy/{id}` by method; HEAD is one of them."""
        self._create: Routes = {b"POST": create}
        self._streams = streams
        self._health: Routes = {b"GET": health, b"HEAD": health}
        self._static = static
        self._cors = cors

    async def __call__(self, request: Request) -> Response:
        """Answer one request; never raises but for cancellation."""
        if request.method == b"OPTIONS":
            return Response(204, self._cors.preflight(request.headers), EMPTY)
        try:
            response = await self._route(request)
        except Refusal as refusal:
            response = error_response(refusal)
        except StorageError as error:
            logger.warning("%r: %s", request, error)
            response = error_response(Refusal(Code.STORAGE_ERROR, "storage failed"))
        except TooLarge:
            response = error_response(Refusal(Code.REQUEST_TOO_LARGE, "the request body is too large"))
        except BodyError:
            raise  # the request itself broke off: the server knows why
        except Exception:
            logger.exception("%r failed", request)
            response = error_response(Refusal(Code.INTERNAL_ERROR, "the proxy failed to handle the request"))
        return self._decorated(response, request.headers.get(b"origin"))

    def refuse(self, refusal: Refusal, origin: bytes | None) -> Response:
        """The answer to a request that never reached an operation; `origin` is its Origin as far as it can be told."""
        return self._decorated(error_response(refusal), origin)

    def _decorated(self, response: Response, origin: bytes | None) -> Response:
        headers = response.headers
        response.headers = headers.plus(*self._cors.response_headers(origin), *self._cors.exposed(headers))
        return response

    async def _route(self, request: Request) -> Response:
        path = request.target.partition(b"?")[0]
        if path in (_COLLECTION, _STREAMS):
            return await _operation(self._create, request)(parse_call(request))
        if path.startswith(_STREAMS):
            call = parse_call(request, path[len(_STREAMS) :])
            return await _operation(self._streams, request)(call)
        if path == b"/health":
            return await _operation(self._health, request)(parse_call(request))
        if path.startswith(_STATIC):
            if request.method not in (b"GET", b"HEAD"):
                raise NotAllowed((b"GET", b"HEAD"))
            return await self._static(request)
        raise Refusal(Code.NOT_FOUND, "there is nothing here")


def _operation(routes: Routes, request: Request) -> Operation:
    operation = routes.get(request.method)
    if operation is None:
        raise NotAllowed(tuple(routes))
    return operation
