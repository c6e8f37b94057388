"""POST /v1/proxy: check, ask the upstream, start the transfer, answer with a pre-signed URL (protocol: Create)."""

import secrets
from dataclasses import dataclass, replace
from uuid import uuid4

from proxy.base.errors import Code, Refusal
from proxy.handlers.call import Call
from proxy.handlers.routes import Clock
from proxy.handlers.uploads import Upload, Uploads
from proxy.http.body import EMPTY
from proxy.http.message import Response
from proxy.policy.allowlist import Allowlist, Match
from proxy.policy.auth import Keyring
from proxy.policy.caller import Caller
from proxy.policy.forwarding import ForwardedHeaders, PassedHeaders, upstream_headers
from proxy.relay.idempotency import Claim, Claims, Replay, fingerprint, stream_id_of
from proxy.relay.record import Record
from proxy.relay.transfers import Transfers
from proxy.relay.upstream import Upstream, described, error_answer
from proxy.wire.headers import Field, Headers
from proxy.wire.url import Url, UrlError, parse_url

__all__ = ["Create", "CreateSettings", "Signing"]

_METHODS = (b"GET", b"POST", b"PUT", b"PATCH", b"DELETE")
_NO_STORE: Field = (b"cache-control", b"no-store")
_MAX_KEY_BYTES = 255  # protocol: Idempotency-Key


@dataclass(frozen=True, slots=True)
class CreateSettings:
    """What a create needs to know; sizes in bytes."""

    url_expiration_seconds: int  # lifetime of a pre-signed URL
    public_url: str  # what Location starts with; empty for a relative one
    max_request_bytes: int  # of one request body
    max_request_bytes_total: int  # of all request bodies that are held at once
    pass_header: tuple[str, ...]  # names and prefixes of upstream response headers that reach the client
    max_passed_header_bytes: int  # of all of them in one response
    forward_header: tuple[str, ...]  # names and prefixes of first-hop request headers that reach the upstream


@dataclass(frozen=True, slots=True)
class Signing:
    """What Locations are signed with: the keys, and the time from which they last."""

    keyring: Keyring
    clock: Clock


@dataclass(frozen=True, slots=True)
class _Order:
    """A request for an upstream that has passed every check."""

    url: Url
    match: Match
    method: bytes
    headers: Headers
    body: Upload


class Create:
    """The create operation."""

    def __init__(
        self, signing: Signing, allowlist: Allowlist, upstream: Upstream, transfers: Transfers, claims: Claims,
        settings: CreateSettings,
    ) -> None:  # fmt: skip
        self._signing = signing
        self._allowlist = allowlist
        self._upstream = upstream
        self._transfers = transfers
        self._claims = claims
        self._url_seconds = settings.url_expiration_seconds
        self._passed = PassedHeaders(settings.pass_header, max_bytes=settings.max_passed_header_bytes)
        self._forwarded = ForwardedHeaders(settings.forward_header)
        self._base = settings.public_url.rstrip("/")
        self._uploads = Uploads(each=settings.max_request_bytes, total=settings.max_request_bytes_total)

    async def __call__(self, call: Call) -> Response:
        """201 with Location, the upstream's error as 502, or 200 for a replay. Raises Refusal, StorageError."""
        headers = call.request.headers
        url, method, match = self._checked(headers, call.caller)
        key = _idempotency_key(headers)
        self._transfers.reserve()
        try:
            async with self._uploads.collected(call.request.body) as body:
                order = _Order(url, match, method, upstream_headers(headers, url, self._forwarded), body)
                if key is None:
                    return await self._create(str(uuid4()), order, "")
                return await self._create_once(key, order)
        finally:
            self._transfers.release()

    def _checked(self, headers: Headers, caller: Caller) -> tuple[Url, bytes, Match]:
        """Upstream URL and method, in the protocol's order of checks."""
        urls = headers.get_all(b"upstream-url")
        if not urls or not urls[0]:
            raise Refusal(Code.MISSING_UPSTREAM_URL, "the header Upstream-URL is missing")
        methods = headers.get_all(b"upstream-method")
        if not methods or not methods[0]:
            raise Refusal(Code.MISSING_UPSTREAM_METHOD, "the header Upstream-Method is missing")
        method = methods[0].upper()
        if len(methods) > 1 or method not in _METHODS:
            raise Refusal(Code.INVALID_UPSTREAM_METHOD, "Upstream-Method must be GET, POST, PUT, PATCH or DELETE")
        if len(urls) > 1:
            raise Refusal(Code.UPSTREAM_NOT_ALLOWED, "Upstream-URL may be given once")
        try:
            url = parse_url(urls[0])
        except UrlError as error:
            raise Refusal(Code.UPSTREAM_NOT_ALLOWED, f"Upstream-URL cannot be used: {error}") from None
        match = self._allowlist.match(url)
        if match is None:
            raise Refusal(Code.UPSTREAM_NOT_ALLOWED, f"Upstream-URL cannot be used: {self._allowlist.why_not(url)}")
        if not caller.may_call(url):
            raise Refusal(Code.UPSTREAM_NOT_ALLOWED, "Upstream-URL is not among the upstreams of this token")
        return url, method, match

    async def _create(self, stream_id: str, order: _Order, request_print: str) -> Response:
        self._transfers.check_room()
        body = order.body.outgoing()
        answer = await self._upstream.ask(order.url, order.match, order.method, order.headers, body)
        order.body.answered()  # storage and the caller may be slow
        passed = self._passed
        if not 200 <= answer.status < 300:
            return error_answer(answer, await self._upstream.error_body(answer), passed)
        life = secrets.token_hex(8) if request_print else ""  # without a key the stream's id is used once
        record = replace(described(answer, passed), fingerprint=request_print, transfer=life)
        try:
            await self._transfers.start(stream_id, answer.body, record)
        except BaseException:
            answer.body.close()
            raise
        return Response(201, Headers.trusted([self._location(stream_id), *record.fields(), _NO_STORE]), EMPTY)

    async def _create_once(self, key: bytes, order: _Order) -> Response:
        stream_id = stream_id_of(key)
        request_print = fingerprint(
            order.method,
            b"%b://%b%b" % (order.url.scheme.encode(), order.url.authority, order.url.target),
            order.body.content,
        )
        decision = await self._claims.resolve(stream_id, request_print)
        if isinstance(decision, Replay):
            return self._replayed(stream_id, decision.record)
        return await self._create_claimed(decision, order, request_print)

    async def _create_claimed(self, claim: Claim, order: _Order, request_print: str) -> Response:
        stream_id = claim.stream_id
        try:
            await self._claims.prepare(claim)
            return await self._create(stream_id, order, request_print)
        finally:
            self._claims.release(claim, self._transfers.removed(stream_id))

    def _replayed(self, stream_id: str, record: Record) -> Response:
        fields = [self._location(stream_id), *record.fields(), (b"idempotent-replay", b"true"), _NO_STORE]
        return Response(200, Headers.trusted(fields), EMPTY)

    def _location(self, stream_id: str) -> Field:
        expires = int(self._signing.clock()) + self._url_seconds
        signature = self._signing.keyring.sign(stream_id, expires)
        path = f"{self._base}/v1/proxy/{stream_id}?expires={expires}&signature={signature}"
        return b"location", path.encode()


def _idempotency_key(headers: Headers) -> bytes | None:
    keys = headers.get_all(b"idempotency-key")
    if not keys:
        return None
    if len(keys) > 1 or not 0 < len(keys[0]) <= _MAX_KEY_BYTES:
        raise Refusal(Code.INVALID_REQUEST, f"Idempotency-Key must be one value of 1 to {_MAX_KEY_BYTES} bytes")
    return keys[0]
