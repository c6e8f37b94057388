"""One request and its answer, in any HTTP version: ask the handler, send what it returns, close bodies.

Knows no framing and no deadline. Those belong to the `Outlet`, which each version's connection provides.
"""

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from proxy.base.errors import Code, Refusal
from proxy.http.body import BodyError, BytesBody
from proxy.http.message import Handler, Request, Response
from proxy.http.pipe import Pipe, PipeLimits, Source
from proxy.wire.events import Buffer, PeerError

__all__ = ["Answer", "InvitedBody", "Outlet", "Service", "refusal_of"]

logger = logging.getLogger(__name__)

_BODILESS = (204, 304)
_IGNORES_BODY = (b"GET", b"HEAD", b"DELETE", b"OPTIONS")

_CODES = {
    code.status: code
    for code in (
        Code.BAD_REQUEST,
        Code.REQUEST_TOO_LARGE,
        Code.URI_TOO_LONG,
        Code.EXPECTATION_FAILED,
        Code.HEAD_TOO_LARGE,
        Code.NOT_IMPLEMENTED,
        Code.VERSION_NOT_SUPPORTED,
    )
}


def refusal_of(error: PeerError) -> Refusal:
    """The answer to a request that a codec refused."""
    return Refusal(_CODES.get(error.status, Code.BAD_REQUEST), error.fault)


class Outlet(Protocol):
    """Where one answer is written, in the framing of its connection's HTTP version.

    An answer calls `begin`, then `send` any number of times, then `end`; after each `send` and after `end` it awaits
    `drained` when `is_full`. In any case, also without `begin`, it calls `done` last.
    """

    @property
    def is_full(self) -> bool:
        """Whether nothing more may be written now: the client must read first, or is gone."""

    def begin(self, response: Response) -> None:
        """Send the response's head, together with what the next `send` or `end` writes."""

    def send(self, parts: Iterable[Buffer]) -> None:
        """Send bytes of the body; without any, send the head alone. Never blocks. Drops them without a client."""

    def end(self) -> None:
        """The body is whole: send what ends it in this framing."""

    async def drained(self) -> None:
        """Return when `is_full` is no longer true. Raises ConnectionError when the client is gone."""

    def done(self, *, is_whole: bool) -> None:
        """The exchange is over. Unless `is_whole`, the client must see that its response is cut."""


@dataclass(frozen=True, slots=True)
class Service:
    """What a server calls: `handler` answers requests, `refuse` makes the response of a request that was refused.

    `refuse` gets the request's Origin, or None when there is none that can be trusted.
    """

    handler: Handler
    refuse: Callable[[Refusal, bytes | None], Response]


class InvitedBody(Pipe):
    """A request body that the client sends when the first `take` invites it (100 Continue, RFC 9110 section 10.1.1)."""

    __slots__ = ("_invite",)

    def __init__(self, source: Source, limits: PipeLimits, length: int | None, invite: Callable[[], None]) -> None:
        super().__init__(source, limits, length)
        self._invite: Callable[[], None] | None = invite

    async def take(self) -> tuple[Buffer, ...]:
        """Invite, once, then take."""
        invite, self._invite = self._invite, None
        if invite is not None:
            invite()
        return await super().take()

    def close(self) -> None:
        """See Pipe. The client is no longer invited."""
        self._invite = None
        super().close()


class Answer:
    """The answer to one request, or to one that could not be read (`request` is None).

    `run` is a task's work: cancel that task when the client is gone.
    """

    __slots__ = ("_origin", "_outlet", "_refusal", "_request", "_service")

    def __init__(self, service: Service, outlet: Outlet, request: Request | None) -> None:
        self._service = service
        self._outlet = outlet
        self._request = request
        self._refusal: Refusal | None = None
        self._origin: bytes | None = None

    def refuse(self, refusal: Refusal, origin: bytes | None = None) -> None:
        """Answer with `refusal` instead of the handler's response, unless a response has begun.

        `origin` is the Origin of a request that could not be read, as far as it can be trusted.
        """
        self._refusal = refusal
        self._origin = origin

    async def run(self) -> None:
        """Ask the handler and send its response. Both bodies are always closed, also when cancelled."""
        is_whole = False
        try:
            response = await self._respond()
            if self._request is not None and self._request.method in _IGNORES_BODY:
                self._request.body.close()  # frees its memory during a long response
            is_whole = await self._send(response)
        finally:
            if self._request is not None:
                self._request.body.close()
            self._outlet.done(is_whole=is_whole)

    async def _respond(self) -> Response:
        request = self._request
        if request is None:
            assert self._refusal is not None  # noqa: S101  # without a request there is a refusal
            return self._service.refuse(self._refusal, self._origin)
        try:
            response = await self._service.handler(request)
        except Refusal as error:
            refusal = error
        except Exception as error:  # one bad request must not stop the server
            if self._refusal is None:
                logger.error("%r failed", request, exc_info=error)
            refusal = Refusal(Code.INTERNAL_ERROR, "the proxy failed to handle the request")
        else:
            if self._refusal is None:
                return response
            response.body.close()
            refusal = self._refusal
        return self._service.refuse(self._refusal or refusal, request.headers.get(b"origin"))

    async def _send(self, response: Response) -> bool:
        """Send `response`; whether all of it was written."""
        body = response.body
        outlet = self._outlet
        method = b"" if self._request is None else self._request.method
        try:
            outlet.begin(response)
            if method == b"HEAD" or response.status in _BODILESS:
                pass
            elif isinstance(body, BytesBody):
                outlet.send(body.take_nowait())
            else:
                has_length = body.length is not None
                if not has_length:
                    outlet.send(())  # the body may take long to come: send the head now
                while True:
                    if outlet.is_full:
                        await outlet.drained()
                    if not (parts := await body.take()):
                        break
                    outlet.send(parts)
                    if has_length and body.ended:
                        break
            outlet.end()
            if outlet.is_full:
                await outlet.drained()
        except (ConnectionError, BodyError):
            return False
        except Exception as error:
            logger.error("a response's body failed", exc_info=error)
            return False
        finally:
            body.close()
        return True
