"""Which header fields are forwarded: from the caller to the upstream, and from the upstream back (protocol: Create).

Owns the lists of names. Never forwards hop-by-hop fields, credentials for the proxy, or fields of its own protocol.
"""

import re
from collections.abc import Sequence

from proxy.wire.grammar import TOKEN, is_token
from proxy.wire.headers import Field, Headers
from proxy.wire.url import Url

__all__ = ["PassedHeaders", "content_encoding", "content_type", "passed_headers", "upstream_headers"]

_HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
        b"trailer", b"trailers", b"transfer-encoding", b"upgrade",
    }
)  # fmt: skip
# Fields that the proxy sets itself, or that belong to its own origin.
_STOPS_HERE = _HOP_BY_HOP | {
    b"host", b"authorization", b"accept-encoding", b"expect", b"content-length", b"cookie",
}  # fmt: skip
_OUR_PREFIX = b"upstream-"

# Never passed back, whatever the setting: on our responses they would speak for the proxy's origin or its protocol.
_NEVER_BACK = _HOP_BY_HOP | {
    b"set-cookie", b"set-cookie2", b"strict-transport-security", b"public-key-pins", b"expect-ct", b"clear-site-data",
    b"alt-svc", b"www-authenticate", b"location", b"refresh", b"content-type", b"content-length", b"content-encoding",
    b"content-location", b"content-range", b"content-disposition", b"cache-control", b"etag", b"vary", b"date",
    b"nel", b"report-to", b"reporting-endpoints", b"service-worker-allowed", b"timing-allow-origin",
    b"x-content-type-options", b"x-frame-options", b"referrer-policy", b"permissions-policy", b"idempotent-replay",
}  # fmt: skip
_NEVER_BACK_PREFIXES = (
    b"access-control-", b"content-security-policy", b"cross-origin-", b"sec-", b"proxy-", b"stream-", _OUR_PREFIX,
)  # fmt: skip

_MEDIA_TYPE = re.compile(TOKEN + rb"/" + TOKEN + rb"(?:[ \t]*;[\t -~]*)?")
_CODINGS = re.compile(TOKEN + rb"(?:[ \t]*,[ \t]*" + TOKEN + rb")*")


class PassedHeaders:
    """The upstream's response fields that callers see: names and `prefix*` patterns, in any case."""

    __slots__ = ("_names", "_prefixes")

    def __init__(self, patterns: Sequence[str]) -> None:
        """Raises ValueError for a pattern that is malformed, or that names a field which is never passed back."""
        names: set[bytes] = set()
        prefixes: list[bytes] = []
        for pattern in patterns:
            text = pattern.removesuffix("*").lower()
            if not pattern.isascii() or "*" in text or not is_token(text.encode()):
                raise ValueError(f"passed header {pattern!r} is neither a header name nor a prefix followed by *")
            if _never_back(text.encode()):
                raise ValueError(f"passed header {pattern!r} is a field that is never passed back")
            if pattern.endswith("*"):
                prefixes.append(text.encode())
            else:
                names.add(text.encode())
        self._names = frozenset(names)
        self._prefixes = tuple(prefixes)

    def __contains__(self, name: bytes) -> bool:
        """Whether the field `name` (lower case) is passed back."""
        return (name in self._names or name.startswith(self._prefixes)) and not _never_back(name)


def upstream_headers(headers: Headers, url: Url) -> Headers:
    """The fields of the upstream request: Host first, then the caller's forwarded fields in their order.

    Upstream-Authorization becomes Authorization, at the same position. The caller's own Authorization is a credential
    for the proxy and is not forwarded.
    """
    dropped = _STOPS_HERE | _named_by_connection(headers)
    fields: list[Field] = [(b"host", url.authority)]
    for name, value in headers:
        if name == b"upstream-authorization":
            if value:
                fields.append((b"authorization", value))
        elif name not in dropped and not name.startswith(_OUR_PREFIX):
            fields.append((name, value))
    fields.append((b"accept-encoding", b"identity"))
    return Headers.trusted(fields)


def passed_headers(headers: Headers, passed: PassedHeaders) -> list[Field]:
    """The upstream's fields that go on our 201 and 502, in their order, repeated ones kept."""
    dropped = _named_by_connection(headers)
    return [(name, value) for name, value in headers if name in passed and name not in dropped]


def content_type(headers: Headers) -> bytes:
    """The upstream's media type as it was sent; `application/octet-stream` if it is absent, malformed or ambiguous."""
    values = set(headers.get_all(b"content-type"))
    value = values.pop() if len(values) == 1 else b""
    return value if _MEDIA_TYPE.fullmatch(value) else b"application/octet-stream"


def content_encoding(headers: Headers) -> bytes | None:
    """The content codings of the upstream's body; None if there are none or the field is malformed."""
    value = b", ".join(value for value in headers.get_all(b"content-encoding") if value)
    return value if _CODINGS.fullmatch(value) and value.lower() != b"identity" else None


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    """The names of the fields that Connection lists as hop-by-hop (RFC 9110 section 7.6.1)."""
    return frozenset(
        token.strip(b" \t").lower() for value in headers.get_all(b"connection") for token in value.split(b",")
    )


def _never_back(name: bytes) -> bool:
    return name in _NEVER_BACK or name.startswith(_NEVER_BACK_PREFIXES)
