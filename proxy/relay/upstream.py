"""Asking the upstream: one request, sent at most once, and what its answer means for the caller.

Owns the choice between a stream, a refusal and the upstream's own error (protocol: Create).
"""

import logging
from dataclasses import dataclass

import anyio

from proxy.base.errors import Code, Refusal
from proxy.http.body import Body, BodyError, BytesBody
from proxy.http.message import ExchangeError, Fault, Request, Response
from proxy.http.pool import Pool
from proxy.net.dial import Address
from proxy.policy.addresses import AddressRules
from proxy.policy.allowlist import Match
from proxy.policy.forwarding import PassedHeaders, content_encoding, content_type
from proxy.relay.record import Record
from proxy.wire.events import Buffer, first_bytes
from proxy.wire.headers import Headers
from proxy.wire.url import Url

__all__ = ["Upstream", "UpstreamSettings", "described", "error_answer"]

logger = logging.getLogger(__name__)

_MESSAGES = {
    Fault.BUSY: "no connection to the upstream became free in time",
    Fault.DNS: "the upstream's host name could not be resolved",
    Fault.CONNECT: "the connection to the upstream could not be opened",
    Fault.EGRESS: "the egress proxy in front of the upstream could not be reached or refused the tunnel",
    Fault.TLS: "the TLS handshake with the upstream failed",
    Fault.RESET: "the upstream closed the connection without an answer",
    Fault.PROTOCOL: "the upstream's answer was not valid HTTP",
    Fault.REFUSED: "the upstream refused the request, without acting on it",
    Fault.LEAVING: "the upstream closed two connections, one after the other, without acting on the request",
    Fault.VERSION: "the upstream asked for HTTP/1.1, and then spoke HTTP/2",
}
_FORBIDDEN = (
    "the upstream's host has a private or special address (--allow-private allows private ones), or is the proxy itself"
)


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """Bounds of an upstream's response."""

    upstream_timeout_seconds: float  # longest wait for the response head
    error_body_timeout_seconds: float  # longest time for the body of an error
    max_response_bytes: int  # largest body; a longer one is cut, and one that announces more is refused
    max_error_bytes: int  # most bytes of an error's body that are passed on; the rest is cut


class Upstream:
    """Asks upstreams, over one pool of connections."""

    def __init__(self, pool: Pool, rules: AddressRules, settings: UpstreamSettings) -> None:
        self._pool = pool
        self._rules = rules
        self._settings = settings

    async def ask(self, url: Url, match: Match, method: bytes, headers: Headers, body: Body) -> Response:
        """The upstream's answer: 2xx whose body is still arriving, or an error status. Otherwise raises Refusal.

        When cancelled, the connection is closed.
        """
        address = Address(url.host, url.port, tls=url.scheme == "https", guard=self._rules.guard(match.reach))
        settings = self._settings
        timeout, max_bytes = settings.upstream_timeout_seconds, settings.max_response_bytes
        request = Request(method, url.target, headers, body, timeout, max_bytes)
        try:
            response = await self._pool.at(address)(request)
        except ExchangeError as error:
            if error.fault is Fault.PROTOCOL:
                logger.warning("answer of upstream %s was not valid HTTP: %s", url.host, error.detail)
            raise _refusal(error) from None
        if 300 <= response.status < 400:
            response.body.close()
            raise Refusal(Code.REDIRECT_NOT_ALLOWED, "the upstream answered with a redirect, which is never followed")
        if response.status < 300 and _announced(response) > settings.max_response_bytes:
            response.body.close()
            raise Refusal(Code.RESPONSE_TOO_LARGE, "the upstream announced a body larger than the proxy stores")
        return response

    async def error_body(self, response: Response) -> BytesBody:
        """The body of an error: as much as arrives in time and is allowed."""
        settings = self._settings
        collected: list[Buffer] = []
        size = 0
        try:
            with anyio.move_on_after(settings.error_body_timeout_seconds):
                while size <= settings.max_error_bytes and (parts := await response.body.take()):
                    collected += parts
                    size += sum(map(len, parts))
        except BodyError:
            pass  # what has arrived is passed on
        finally:
            response.body.close()
        return BytesBody(first_bytes(collected, settings.max_error_bytes))


def _announced(response: Response) -> int:
    """The length that the upstream announced; 0 when it announced none, even if the body has arrived whole."""
    length = response.headers.get(b"content-length") or b""
    return int(length) if length.isdigit() else 0


def _refusal(error: ExchangeError) -> Refusal:
    if error.fault is Fault.TIMEOUT:
        return Refusal(Code.UPSTREAM_TIMEOUT, "the upstream did not answer in time")
    if error.fault is Fault.DESCRIPTORS:
        return Refusal(Code.OVERLOADED, "the proxy has no file descriptor for a connection to the upstream")
    if error.fault is Fault.FORBIDDEN:
        return Refusal(Code.UPSTREAM_NOT_ALLOWED, _FORBIDDEN)
    message = _MESSAGES[error.fault]
    return Refusal(Code.UPSTREAM_ERROR, f"{message}: {error.detail}" if error.detail else message)


def described(
    response: Response, passed: PassedHeaders, *, owner: str = "", key: str = "", subject: str | None = None
) -> Record:
    """The record of an upstream's answer: status, content type and coding, and the header fields that pass.

    `owner`, `key` and `subject` are those of the stream that the answer goes into; an error has none.
    """
    headers = response.headers
    return Record(
        content_type=content_type(headers),
        status=response.status,
        content_encoding=content_encoding(headers),
        passed=tuple(passed.of(headers)),
        owner=owner,
        key=key,
        subject=subject,
    )


def error_answer(response: Response, body: BytesBody, passed: PassedHeaders) -> Response:
    """The 502 that carries an upstream's error."""
    record = described(response, passed)
    fields = [(b"content-type", record.content_type), *record.fields()]
    return Response(502, Headers.trusted(fields), body)
