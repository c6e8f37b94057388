"""What browsers may do with our responses (Fetch standard, CORS protocol; protocol: CORS).

Owns the header fields of every response that concern browsers, and the answer to a preflight. Credentials mode is not
supported: the proxy uses no cookies, so a foreign origin cannot act with a user's rights, and any origin may be allowed
by default.
"""

import re
from collections.abc import Sequence

from proxy.wire.grammar import is_token
from proxy.wire.headers import Field, Headers

__all__ = ["Cors"]

_METHODS = b"GET, HEAD, POST, PATCH, DELETE, OPTIONS"
_REQUEST_HEADERS = (
    b"upstream-url", b"upstream-authorization", b"upstream-method", b"content-type", b"authorization",
    b"idempotency-key", b"if-none-match",
)  # fmt: skip
_EXPOSED = (
    b"Location", b"Upstream-Content-Type", b"Upstream-Content-Encoding", b"Upstream-Status", b"Upstream-Outcome",
    b"Idempotent-Replay", b"ETag", b"Retry-After", b"Retry-After-Ms", b"X-Should-Retry", b"Request-Id", b"X-Request-Id",
    b"Stream-Next-Offset", b"Stream-Cursor", b"Stream-Up-To-Date", b"Stream-Closed", b"Stream-TTL",
    b"Stream-Expires-At", b"Stream-SSE-Data-Encoding",
)  # fmt: skip
# Readable without being exposed (CORS-safelisted), or of no use to scripts.
_NOT_EXPOSED = frozenset(
    {
        b"cache-control", b"content-language", b"content-length", b"content-type", b"expires", b"last-modified",
        b"pragma", b"connection", b"keep-alive", b"transfer-encoding", b"trailer", b"upgrade", b"vary", b"date",
        b"server", b"set-cookie", b"x-content-type-options", b"cross-origin-resource-policy",
        b"content-security-policy",
    }
)  # fmt: skip
_ALWAYS_SEEN = _NOT_EXPOSED | {name.lower() for name in _EXPOSED}
_HARDENING: tuple[Field, ...] = (
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"cross-origin"),
)
_EXPOSE: Field = (b"access-control-expose-headers", b", ".join(_EXPOSED))

_ORIGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::([1-9][0-9]{0,4}))?")
_DEFAULT_PORTS = {"http": "80", "https": "443"}


class Cors:
    """CORS for a list of allowed origins."""

    __slots__ = ("_by_origin", "_otherwise", "_preflight")

    def __init__(self, origins: Sequence[str], *, max_age: int) -> None:
        """`origins`: as browsers send them; an empty list or `*` allows any. Raises ValueError for a malformed one.

        `max_age`: seconds for which a browser may cache a preflight.
        """
        self._preflight: tuple[Field, ...] = (
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-max-age", b"%d" % max_age),
        )
        self._by_origin: dict[bytes, tuple[Field, ...]] = {}
        if not origins or "*" in origins:
            self._otherwise: tuple[Field, ...] = ((b"access-control-allow-origin", b"*"), _EXPOSE, *_HARDENING)
            return
        self._otherwise = ((b"vary", b"Origin"), *_HARDENING)
        for origin in map(_canonical_origin, origins):
            allowed = (b"access-control-allow-origin", origin)
            self._by_origin[origin] = (allowed, (b"vary", b"Origin"), _EXPOSE, *_HARDENING)

    def response_headers(self, origin: bytes | None) -> tuple[Field, ...]:
        """The fields that go on every response, errors included. `origin` is the request's Origin field."""
        return self._by_origin.get(origin, self._otherwise) if origin is not None else self._otherwise

    def exposed(self, response: Headers) -> tuple[Field, ...]:
        """A second Access-Control-Expose-Headers for the fields of `response` outside the fixed list; else nothing.

        Expose-Headers has no prefixes, so an `X-RateLimit-…` field is listed when a response has it. Browsers combine
        the two fields.
        """
        extra = {
            name: None for name, _ in response if name not in _ALWAYS_SEEN and not name.startswith(b"access-control-")
        }
        return ((b"access-control-expose-headers", b", ".join(extra)),) if extra else ()

    def preflight(self, headers: Headers) -> Headers:
        """All fields of the 204 response to an OPTIONS request that has these `headers`."""
        names = dict.fromkeys(_REQUEST_HEADERS)
        for value in headers.get_all(b"access-control-request-headers"):
            for token in value.lower().split(b","):
                name = token.strip(b" \t")
                if is_token(name):
                    names[name] = None
        allowed = (b"access-control-allow-headers", b", ".join(names))
        return Headers.trusted([*self.response_headers(headers.get(b"origin")), *self._preflight, allowed])


def _canonical_origin(text: str) -> bytes:
    """`text` as browsers serialise origins (RFC 6454 section 6.2): lower case, without the default port."""
    match = _ORIGIN.fullmatch(text)
    if match is None:
        raise ValueError(f"CORS origin {text!r} is not scheme://host[:port]")
    scheme, host, port = match[1].lower(), match[2].lower(), match[3]
    suffix = "" if port in (None, _DEFAULT_PORTS.get(scheme)) else f":{port}"
    return f"{scheme}://{host}{suffix}".encode()
