"""The create: how the proxy is asked to send a request to an upstream. Decides; a driver sends and waits.

Owns which header fields are forwarded, a request's fingerprint, what each answer to the create means, and which
failures are retried.

Why a create may be repeated although an upstream call costs money: it carries an `Idempotency-Key`. Under one key the
proxy calls the upstream once, and answers every later create with the stream of that call. So when an answer is lost,
asking again with the same key finds the stream if there is one, and makes the call if there is none.
"""

import hashlib
import re
from dataclasses import dataclass

from proxy.client.access import Place
from proxy.client.decoding import decoded
from proxy.client.errors import NetworkError, NetworkFault, ProxyError
from proxy.client.messages import Fields, Send, proxy_error
from proxy.client.options import RETRY_AFTER_SECONDS, TRANSIENT_STATUSES, Backoff, Retry, Timeouts

__all__ = ["Answered", "Asked", "Created", "Creating", "UpstreamRequest"]

_METHOD = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_STATUS = re.compile(r"[2-5][0-9]{2}")
_BOUNDARY = re.compile(r'multipart/.*;\s*boundary="?([^";]+)"?', re.IGNORECASE | re.DOTALL)

# Set by the client, or valid for one connection only (RFC 9110 section 7.6.1): never forwarded.
_NOT_FORWARDED = frozenset({
    "accept-encoding", "connection", "content-length", "expect", "host", "keep-alive", "proxy-authorization",
    "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "upstream-method", "upstream-url",
})  # fmt: skip

# On the proxy's answer, but about the proxy's own HTTP and not the upstream's: never passed to the caller.
_NOT_PASSED = frozenset({
    "alt-svc", "cache-control", "connection", "content-encoding", "content-length", "content-type",
    "cross-origin-resource-policy", "date", "etag", "idempotent-replay", "keep-alive", "location", "server",
    "set-cookie", "strict-transport-security", "trailer", "transfer-encoding", "vary", "via", "x-content-type-options",
})  # fmt: skip
_NOT_PASSED_PREFIXES = ("access-control-", "stream-", "upstream-")

# Errors of the proxy that leave open whether a stream exists under the key.
_LEAVES_OPEN = frozenset({"INTERNAL_ERROR", "STORAGE_ERROR"})


@dataclass(frozen=True, slots=True)
class UpstreamRequest:
    """A request as the upstream is to see it. `url` is ASCII and absolute, without credentials or fragment.

    Raises ValueError when `method` is not a token.
    """

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    content: bytes

    def __post_init__(self) -> None:
        if not _METHOD.fullmatch(self.method):
            raise ValueError("method is not a token")

    def __repr__(self) -> str:
        return f"<UpstreamRequest {self.method}>"

    @property
    def fingerprint(self) -> str:
        """A hash of method, URL and body: requests with the same fingerprint ask the same.

        Header fields do not count, because an API key may be renewed. Nor does a multipart boundary, which is random.
        """
        content = self.content
        for name, value in self.headers:
            if name.lower() == "content-type" and (boundary := _BOUNDARY.match(value)):
                content = content.replace(boundary[1].encode(), b"")
        head = f"{self.method.upper()}\n{self.url}\n".encode()
        return hashlib.sha256(head + content).hexdigest()

    @property
    def idempotency_key(self) -> str | None:
        """The caller's own `Idempotency-Key`, if there is one."""
        return next((value for name, value in self.headers if name.lower() == "idempotency-key"), None)


@dataclass(frozen=True, slots=True)
class Created:
    """A stream: its absolute signed URL, and status and header fields of the upstream's answer.

    `replayed`: the stream existed before, from an earlier create with the same key.
    """

    stream_url: str
    status: int
    headers: Fields
    replayed: bool

    def __repr__(self) -> str:
        return f"<Created {self.status}>"


@dataclass(frozen=True, slots=True)
class Answered:
    """The upstream's own error: status, header fields and body. There is no stream."""

    status: int
    headers: Fields
    content: bytes


Asked = Created | Answered


class Creating:
    """One create with its retries: a `Plan` whose result is a stream, or the upstream's own error.

    Asks again when nothing came back, when the proxy says that it sent nothing upstream, and when something between
    answered with a transient status or with a success that names no stream. All other answers are final.
    """

    def __init__(self, place: Place, upstream: UpstreamRequest, key: str, retry: Retry, timeouts: Timeouts) -> None:
        self._place = place
        self._backoff = Backoff(retry, retry.creates)
        headers = [
            ("Upstream-URL", upstream.url),
            ("Upstream-Method", upstream.method.upper()),
            ("Idempotency-Key", key),
        ]
        for name, value in upstream.headers:
            if name.lower() == "authorization":
                headers.append(("Upstream-Authorization", value))
            elif name.lower() not in _NOT_FORWARDED and name.lower() != "idempotency-key":
                headers.append((name, value))
        self._headers = tuple(headers)
        self._content = upstream.content
        self._timeouts = timeouts
        self.delay = 0.0
        self.leaves_open = False  # whether an attempt may have made a stream that no answer has named

    def request(self) -> Send:
        """The create request. Only its authorization may differ from the one before: a token may have been renewed."""
        headers = (*self._place.headers(), *self._headers)
        return Send("POST", self._place.url, headers, self._timeouts, self._content)

    def replied(self, status: int, headers: Fields, body: bytes) -> Asked | None:
        """The stream or the upstream's error; None to send again. Raises ProxyError when the proxy refused."""
        upstream_status = _upstream_status(headers)
        if status in (200, 201) and (stream_url := self._stream_url(headers)) is not None:
            seen = upstream_status if upstream_status is not None and upstream_status < 300 else 200
            return Created(stream_url, seen, _passed(headers), headers.get("idempotent-replay") == "true")
        if status == 502 and upstream_status is not None and upstream_status >= 400:
            return _answered(upstream_status, headers, body)
        error = proxy_error(status, headers, body)
        self.leaves_open |= not error.from_proxy or error.code in _LEAVES_OPEN
        if not error.may_repeat or (status >= 300 and status not in TRANSIENT_STATUSES):
            raise error
        self._failed(error, error.retry_after)
        return None

    def _stream_url(self, headers: Fields) -> str | None:
        """The URL of the created stream; None when the answer does not prove to be the proxy's."""
        url = self._place.stream_url(headers.get("location", ""))
        if url is None or "upstream-status" in headers or "signature=" in url:
            return url
        return url if url.startswith(f"{self._place.url}/") else None

    def failed(self, error: NetworkError) -> None:
        """Note that no answer came. Raises `error` when the caller's time is up or no attempt is left."""
        if error.fault is NetworkFault.REQUEST:
            raise error
        self.leaves_open = True
        if error.fault is NetworkFault.READ_TIMEOUT:
            raise error
        self._failed(error, None)

    def _failed(self, error: NetworkError | ProxyError, retry_after: float | None) -> None:
        delay = None
        if retry_after is None or retry_after <= RETRY_AFTER_SECONDS:  # a longer wait is the caller's to decide
            delay = self._backoff.failed(retry_after)
        if delay is None:
            raise error
        self.delay = delay


def _upstream_status(headers: Fields) -> int | None:
    value = headers.get("upstream-status", "")
    return int(value) if _STATUS.fullmatch(value) else None


def _answered(status: int, headers: Fields, body: bytes) -> Answered:
    """The upstream's error, decoded: its body may have been cut, which a strict decoder would not accept."""
    passed = _passed(headers)
    coding = headers.get("upstream-content-encoding")
    if coding is None:
        return Answered(status, passed, body)
    # With a `Content-Encoding` of its own, the HTTP library has decoded the answer already.
    plain = body if "content-encoding" in headers else decoded(body, coding)
    if plain is None:
        return Answered(status, passed, body)
    fields = Fields((name, value) for name, value in passed.pairs if name.lower() != "content-encoding")
    return Answered(status, fields, plain)


def _passed(headers: Fields) -> Fields:
    """The fields of the upstream's answer that the proxy passed on, under the upstream's names."""
    kept = [
        (name, value)
        for name, value in headers.pairs
        if name.lower() not in _NOT_PASSED and not name.lower().startswith(_NOT_PASSED_PREFIXES)
    ]
    kind = headers.get("upstream-content-type", headers.get("content-type") if "location" not in headers else None)
    kept += [("Content-Type", kind)] if kind is not None else []
    encoding = headers.get("upstream-content-encoding")
    kept += [("Content-Encoding", encoding)] if encoding is not None else []
    return Fields(kept)
