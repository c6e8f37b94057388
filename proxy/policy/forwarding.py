"""Which header fields are forwarded: from the caller to the upstream, and from the upstream back (protocol: Create).

Owns the lists of names. Never forwards hop-by-hop fields, credentials for the proxy, or fields of its own protocol.
What belongs to the first hop stops here by default: fields of the caller's browser and of gateways in front of the
proxy. An upstream would take them for statements about itself: it would check a foreign Origin, detect a loop in its
own CDN, or answer for another path than the one that the allowlist matched.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import Enum, auto
from functools import lru_cache

from proxy.policy.signed import signed_names
from proxy.wire.grammar import TOKEN, is_token
from proxy.wire.headers import Field, Headers
from proxy.wire.url import Url

__all__ = ["ForwardedHeaders", "PassedHeaders", "content_encoding", "content_type", "upstream_headers"]

_HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
        b"trailer", b"trailers", b"transfer-encoding", b"upgrade", b"http2-settings",
    }
)  # fmt: skip
# Set by the proxy, or a credential for it.
_OURS = frozenset({b"host", b"authorization", b"accept-encoding", b"expect", b"content-length"})
_OUR_PREFIXES = (b"upstream-", b"proxy-")

# Name another URL, host or method than the request has: some servers believe them, and the allowlist would be void.
_REROUTING = frozenset(
    {
        b"x-http-method-override", b"x-http-method", b"x-method-override", b"x-http-path-override", b"x-override-url",
        b"x-host", b"x-http-host-override", b"proxy", b"x-forwarded", b"forwarded", b"base-url", b"request-uri",
        b"x-url-scheme", b"x-waws-unencoded-url", b"disguised-host",
    }
)  # fmt: skip
_REROUTING_PREFIXES = (b"x-original-", b"x-rewrite-", b"x-forwarded-", b"x-envoy-original-")

# Of the caller's browser, about itself or about the page that made the request.
_BROWSER = frozenset(
    {
        b"cookie", b"cookie2", b"origin", b"referer", b"dnt", b"save-data", b"device-memory", b"dpr", b"downlink",
        b"ect", b"rtt", b"viewport-width", b"upgrade-insecure-requests", b"purpose", b"x-purpose", b"x-moz",
        b"priority", b"service-worker", b"service-worker-navigation-preload", b"access-control-request-method",
        b"access-control-request-headers", b"access-control-request-private-network",
        b"access-control-request-local-network",
    }
)  # fmt: skip
_BROWSER_PREFIXES = (b"sec-",)

# Of gateways, load balancers and CDNs between the caller and the proxy: whom they saw, and how the request came.
_EDGE = frozenset(
    {
        b"via", b"cdn-loop", b"early-data", b"client-ip", b"true-client-ip", b"x-client-ip", b"x-cluster-client-ip",
        b"x-originating-ip", b"x-remote-ip", b"x-remote-addr", b"x-proxyuser-ip", b"wl-proxy-client-ip",
        b"front-end-https", b"x-scheme", b"x-ssl", b"x-client-cert", b"x-client-verify", b"client-cert",
        b"client-cert-chain", b"x-amzn-trace-id", b"x-amz-cf-id", b"x-cloud-trace-context", b"x-request-start",
        b"x-queue-start", b"connect-time", b"total-route-time", b"x-fd-healthprobe", b"x-site-deployment-id",
        b"was-default-hostname", b"x-sendfile-type", b"incap-client-ip", b"x-sucuri-clientip",
    }
)  # fmt: skip
_EDGE_PREFIXES = (
    b"x-real-", b"cf-", b"fastly-", b"akamai-", b"x-akamai-", b"cloudfront-", b"x-azure-", b"x-arr-", b"x-appengine-",
    b"x-appservice-", b"x-envoy-", b"x-vercel-id", b"x-vercel-ip-", b"x-vercel-forwarded-", b"x-vercel-prox", b"x-nf-",
    b"fly-", b"x-accel-", b"x-amzn-mtls-", b"ssl-client-", b"x-ssl-",
)  # fmt: skip

_FIRST_HOP = _BROWSER | _EDGE
_FIRST_HOP_PREFIXES = _BROWSER_PREFIXES + _EDGE_PREFIXES

# Never passed back, whatever the setting: on our responses they would speak for the proxy's origin or its protocol.
_NEVER_BACK = _HOP_BY_HOP | {
    b"set-cookie", b"set-cookie2", b"strict-transport-security", b"public-key-pins", b"expect-ct", b"clear-site-data",
    b"alt-svc", b"www-authenticate", b"location", b"refresh", b"content-type", b"content-length", b"content-encoding",
    b"content-location", b"content-range", b"content-disposition", b"cache-control", b"etag", b"vary", b"date",
    b"nel", b"report-to", b"reporting-endpoints", b"service-worker-allowed", b"timing-allow-origin",
    b"x-content-type-options", b"x-frame-options", b"referrer-policy", b"permissions-policy", b"idempotent-replay",
    b"preference-applied", b"x-accel-buffering",
}  # fmt: skip
_NEVER_BACK_PREFIXES = (
    b"access-control-", b"content-security-policy", b"cross-origin-", b"sec-", b"proxy-", b"stream-", b"upstream-",
)  # fmt: skip

_MEDIA_TYPE = re.compile(TOKEN + rb"/" + TOKEN + rb"(?:[ \t]*;[\t -~]*)?")
_CODINGS = re.compile(TOKEN + rb"(?:[ \t]*,[ \t]*" + TOKEN + rb")*")
_MAX_CONTENT_FIELD = 1024  # bytes; a media type or coding that is longer says nothing, and stands in every record
_FIELD_OVERHEAD = len(": \r\n")
_NAMES_REMEMBERED = 1024


class _Names(ABC):
    """A setting that lists field names and `prefix*` patterns, in any case."""

    __slots__ = ("_names", "_prefixes")

    def __init__(self, patterns: Sequence[str], *, kind: str) -> None:
        """Raises ValueError for a malformed pattern, or one that names a field which never crosses."""
        names: set[bytes] = set()
        prefixes: list[bytes] = []
        for pattern in patterns:
            text = pattern.removesuffix("*").lower()
            if not pattern.isascii() or "*" in text or not is_token(text.encode()):
                raise ValueError(f"{kind} header {pattern!r} is neither a header name nor a prefix followed by *")
            if self._is_never(text.encode()):
                raise ValueError(f"{kind} header {pattern!r} is a field that is never {kind}")
            if pattern.endswith("*"):
                prefixes.append(text.encode())
            else:
                names.add(text.encode())
        self._names = frozenset(names)
        self._prefixes = tuple(prefixes)

    def __contains__(self, name: bytes) -> bool:
        """Whether the setting lists the field `name` (lower case)."""
        return (name in self._names or name.startswith(self._prefixes)) and not self._is_never(name)

    @staticmethod
    @abstractmethod
    def _is_never(name: bytes) -> bool:
        """Whether the field `name` (lower case) never crosses, whatever a setting says."""


class ForwardedHeaders(_Names):
    """Fields of the first hop that reach the upstream all the same."""

    def __init__(self, patterns: Sequence[str]) -> None:
        """Raises ValueError for a malformed pattern, or one that names a field which is never forwarded."""
        super().__init__(patterns, kind="forwarded")

    @staticmethod
    def _is_never(name: bytes) -> bool:
        return name in _HOP_BY_HOP or name in _OURS or name.startswith(_OUR_PREFIXES)


class PassedHeaders(_Names):
    """Fields of the upstream's response that callers see, and how many bytes of them."""

    __slots__ = ("_max_bytes",)

    def __init__(self, patterns: Sequence[str], *, max_bytes: int) -> None:
        """`max_bytes`: of all passed fields of one response. Raises ValueError for a pattern that is malformed, or
        that names a field which is never passed back.
        """
        super().__init__(patterns, kind="passed")
        self._max_bytes = max_bytes

    def of(self, headers: Headers) -> list[Field]:
        """The fields of `headers` that are passed back, in their order, repeated ones kept.

        A field for which there is no more room is left out, whole; smaller ones after it still pass.
        """
        room = self._max_bytes
        hop_by_hop = _named_by_connection(headers)
        fields = []
        for name, value in headers:
            size = len(name) + len(value) + _FIELD_OVERHEAD
            if name in self and name not in hop_by_hop and size <= room:
                fields.append((name, value))
                room -= size
        return fields

    @staticmethod
    def _is_never(name: bytes) -> bool:
        return name in _NEVER_BACK or name.startswith(_NEVER_BACK_PREFIXES)


def upstream_headers(headers: Headers, url: Url, forwarded: ForwardedHeaders) -> Headers:
    """The fields of the upstream request: Host first, then the caller's forwarded fields, in order and as spelled.

    Upstream-Authorization becomes Authorization, at the same position. The caller's own Authorization is a credential
    for the proxy and is not forwarded. A field that the request's own signature covers is forwarded as it came, also
    Accept-Encoding, for which the proxy otherwise asks itself: for identity.
    """
    signed = signed_names(headers, url)
    hop_by_hop = _named_by_connection(headers)
    fields: list[Field] = [(b"Host", url.authority)]
    for field in headers.as_spelled():
        name, kind = _classified(field[0])
        if name in hop_by_hop:
            crosses = False
        elif kind is None:
            crosses = True
        elif kind is _Kind.FIRST_HOP:
            crosses = name in forwarded or name in signed
        elif kind is _Kind.REROUTING:
            crosses = name in forwarded  # not by a signature: any caller can write down that a name is signed
        else:
            crosses = name == b"accept-encoding" and name in signed
        if crosses:
            fields.append(field)
        elif name == b"upstream-authorization" and field[1]:
            fields.append((b"Authorization", field[1]))
    if b"accept-encoding" not in signed:
        fields.append((b"Accept-Encoding", b"identity"))
    return Headers.spelled(fields)


class _Kind(Enum):
    """Why a caller's field is not forwarded."""

    FIRST_HOP = auto()
    REROUTING = auto()
    OURS = auto()


@lru_cache(maxsize=_NAMES_REMEMBERED)
def _classified(spelled: bytes) -> tuple[bytes, _Kind | None]:
    """The name in lower case, and why it stops here; None: it does not. Cached, as requests repeat their few names."""
    name = spelled.lower()
    if name in _HOP_BY_HOP or name in _OURS or name.startswith(_OUR_PREFIXES):
        return name, _Kind.OURS
    canonical = name.replace(b"_", b"-")  # to many application servers the two are the same field
    if canonical in _REROUTING or canonical.startswith(_REROUTING_PREFIXES):
        return name, _Kind.REROUTING
    if canonical in _FIRST_HOP or canonical.startswith(_FIRST_HOP_PREFIXES):
        return name, _Kind.FIRST_HOP
    return name, None


def content_type(headers: Headers) -> bytes:
    """The upstream's media type as it was sent; `application/octet-stream` if it is absent, malformed or ambiguous."""
    values = set(headers.get_all(b"content-type"))
    value = values.pop() if len(values) == 1 else b""
    is_usable = len(value) <= _MAX_CONTENT_FIELD and _MEDIA_TYPE.fullmatch(value)
    return value if is_usable else b"application/octet-stream"


def content_encoding(headers: Headers) -> bytes | None:
    """The content codings of the upstream's body; None if there are none or the field is malformed."""
    value = b", ".join(value for value in headers.get_all(b"content-encoding") if value)
    is_usable = len(value) <= _MAX_CONTENT_FIELD and _CODINGS.fullmatch(value) and value.lower() != b"identity"
    return value if is_usable else None


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    """The names of the fields that Connection lists as hop-by-hop (RFC 9110 section 7.6.1)."""
    connection = headers.joined().get(b"connection")
    return frozenset([token.strip(b" \t").lower() for token in connection.split(b",")]) if connection else frozenset()
