"""POST /v1/proxy: check, ask the upstream, start the transfer, answer with a pre-signed URL (protocol: Create)."""

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

from proxy.base.errors import Code, Refusal
from proxy.handlers.call import Call
from proxy.handlers.routes import Clock
from proxy.handlers.uploads import Upload, UploadLimits, Uploads
from proxy.http.body import EMPTY
from proxy.http.message import Response
from proxy.policy.allowlist import Allowlist, Match
from proxy.policy.auth import Keyring
from proxy.policy.caller import Caller
from proxy.policy.forwarding import ForwardedHeaders, PassedHeaders, upstream_headers
from proxy.relay.keys import Claim, Keys, Replay, fingerprint, lock_name
from proxy.relay.membership import Membership
from proxy.relay.record import Record
from proxy.relay.transfers import Transfers
from proxy.relay.upstream import Upstream, described, error_answer
from proxy.streams.answers import StorageError
from proxy.wire.headers import Field, Headers
from proxy.wire.url import Url, UrlError, parse_url

__all__ = ["Create", "CreateSettings", "Making", "Signing"]

_METHODS = (b"GET", b"POST", b"PUT", b"PATCH", b"DELETE")
_NO_STORE: Field = (b"cache-control", b"no-store")
_REPLAY: Field = (b"idempotent-replay", b"true")
# The credential for the upstream is part of a key's scope, so that no caller gets an answer that another has paid for.
_UPSTREAM_CREDENTIALS = (
    b"upstream-authorization", b"x-api-key", b"api-key", b"x-goog-api-key",
    b"apikey", b"x-apikey", b"xi-api-key", b"ocp-apim-subscription-key", b"x-functions-key", b"x-rapidapi-key",
    b"x-auth-token", b"x-access-token", b"x-token", b"private-token", b"x-serverless-authorization",
    b"cf-aig-authorization", b"helicone-auth", b"x-portkey-api-key", b"x-portkey-virtual-key", b"x-litellm-api-key",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class CreateSettings:
    """Settings of the create operation."""

    url_expiration_seconds: int  # lifetime of a pre-signed URL
    public_url: str  # first part of Location; empty for a relative Location
    uploads: UploadLimits  # bounds of request bodies
    pass_header: tuple[str, ...]  # names and prefixes of upstream response headers that reach the client
    max_passed_header_bytes: int  # most bytes of all passed headers of one response
    forward_header: tuple[str, ...]  # names and prefixes of first-hop request headers that reach the upstream
    max_key_bytes: int  # longest Idempotency-Key


@dataclass(frozen=True, slots=True)
class Signing:
    """What Locations are signed with: the keys, and the clock from which their lifetime counts."""

    keyring: Keyring
    clock: Clock


@dataclass(frozen=True, slots=True)
class Making:
    """The parts of `relay` that a create uses: may this instance begin something, what runs, what keys name."""

    members: Membership
    transfers: Transfers
    keys: Keys


@dataclass(frozen=True, slots=True)
class _Order:
    """A request for an upstream that has passed every check. `subject` will own the stream."""

    subject: str | None
    url: Url
    match: Match
    method: bytes
    headers: Headers
    body: Upload


class Create:
    """The create operation."""

    def __init__(
        self, signing: Signing, allowlist: Allowlist, upstream: Upstream, making: Making, settings: CreateSettings
    ) -> None:
        self._signing = signing
        self._allowlist = allowlist
        self._upstream = upstream
        self._members = making.members
        self._transfers = making.transfers
        self._keys = making.keys
        self._url_seconds = settings.url_expiration_seconds
        self._base = settings.public_url.rstrip("/")
        self._passed = PassedHeaders(settings.pass_header, max_bytes=settings.max_passed_header_bytes)
        self._forwarded = ForwardedHeaders(settings.forward_header)
        self._max_key_bytes = settings.max_key_bytes
        self._uploads = Uploads(settings.uploads)

    async def __call__(self, call: Call) -> Response:
        """201 with Location, the upstream's error as 502, or 200 for a replay. Raises Refusal, StorageError."""
        headers = call.request.headers
        url, method, match = self._checked(headers, call.caller)
        key = self._idempotency_key(headers)
        self._transfers.reserve()
        try:
            if key is None:  # with a key, a replay needs no lease
                await self._members.check()
            async with self._uploads.collected(call.request.body) as body:
                order = _Order(
                    call.caller.subject, url, match, method, upstream_headers(headers, url, self._forwarded), body
                )
                if key is None:
                    return await self._make(order, None)
                return await self._make_once(order, self._lock_names(key, headers, order.subject))
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

    async def _make(self, order: _Order, claim: Claim | None) -> Response:
        """Ask the upstream: 201 with the stream, or the upstream's error as 502. Raises Refusal, StorageError."""
        await self._members.check()
        body = order.body.outgoing()
        answer = await self._upstream.ask(order.url, order.match, order.method, order.headers, body)
        order.body.answered()  # frees the body's memory before storage is waited for
        passed = self._passed
        if not 200 <= answer.status < 300:
            return error_answer(answer, await self._upstream.error_body(answer), passed)
        stream_id, key = (claim.stream_id, claim.name) if claim is not None else (str(uuid4()), "")
        try:
            owner = await self._members.owner()
            record = described(answer, passed, owner=owner, key=key, subject=order.subject)
            await self._transfers.start(stream_id, answer.body, record)
        except BaseException:
            answer.body.close()
            raise
        return self._answer(201, stream_id, record)

    async def _make_once(self, order: _Order, names: Sequence[str]) -> Response:
        """`_make` under an Idempotency-Key whose lock has these names; 200 with its stream when that exists.

        The key is claimed before the upstream is asked. A claim that leads to no stream is given back, so that the next
        request with the key asks the upstream again.
        """
        target = b"%b://%b%b" % (order.url.scheme.encode(), order.url.authority, order.url.target)
        request = await fingerprint(order.method, target, order.body.content)
        async with self._members.licensed():
            try:
                found = await self._keys.resolve(names, request)
            except StorageError as error:
                if error.is_final:
                    raise
                await self._members.check()  # says why, if it is known
                raise Refusal(Code.STORAGE_UNAVAILABLE, "storage failed; nothing was sent upstream") from error
            if isinstance(found, Replay):
                return self._answer(200, found.stream_id, found.record, _REPLAY)
            try:
                response = await self._make(order, found)
            except BaseException:
                found.give_back()
                raise
            if response.status != 201:
                found.give_back()
            else:
                await found.keep()
            return response

    def _answer(self, status: int, stream_id: str, record: Record, *more: Field) -> Response:
        return Response(status, Headers.trusted([self._location(stream_id), *record.fields(), *more, _NO_STORE]), EMPTY)

    def _idempotency_key(self, headers: Headers) -> bytes | None:
        keys = headers.get_all(b"idempotency-key")
        if not keys:
            return None
        if len(keys) > 1 or not 0 < len(keys[0]) <= self._max_key_bytes:
            raise Refusal(
                Code.INVALID_REQUEST, f"Idempotency-Key must be one value of 1 to {self._max_key_bytes} bytes"
            )
        return keys[0]

    def _lock_names(self, key: bytes, headers: Headers, subject: str | None) -> list[str]:
        """Names of the key's lock: under the current secret, then under older ones (protocol: Idempotency-Key)."""
        scope = [b"service"] if subject is None else [b"subject", subject.encode()]
        for name in _UPSTREAM_CREDENTIALS:
            scope += [name, *headers.get_all(name)]
        return [lock_name(hidden) for hidden in self._signing.keyring.hidden_names([*scope, b"key", key])]

    def _location(self, stream_id: str) -> Field:
        expires = int(self._signing.clock()) + self._url_seconds
        signature = self._signing.keyring.sign(stream_id, expires)
        path = f"{self._base}/v1/proxy/{stream_id}?expires={expires}&signature={signature}"
        return b"location", path.encode()
