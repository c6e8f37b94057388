"""Which header fields cross: from the caller to the upstream, and from the upstream back (protocol: Create).

Owns the lists of names. Refuses to let hop-by-hop fields, the proxy's own credentials and its own protocol through.
"""

import re
from collections.abc import Sequence

from proxy.wire.headers import Field, Headers
from proxy.wire.url import Url

__all__ = ["PassedHeaders", "content_encoding", "content_type", "passed_headers", "upstream_headers"]

_HOP_BY_HOP = frozenset(
    {
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
        b"trailer", b"trailers", b"transfer-encoding", b"upgrade",
    }
)  # fmt: skip
# Ours to set, or the proxy's own origin's: never the caller's to send on.
_STOPS_HERE = _HOP_BY_HOP | {
    b"host", b"authorization", b"accept-encoding", b"expect", b"content-length", b"cookie",
}  # fmt: skip
_OUR_PREFIX = b"upstream-"

# What an upstream never says on our responses, whatever the setting: it would speak for the proxy's origin or protocol.
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

_PASSED = re.compile(r"([!#$%&'+\-.^_`|~0-9A-Za-z]+)(\*?)")
_MEDIA_TYPE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+/[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?:[ \t]*;[\t -~]*)?")
_CODINGS = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?:[ \t]*,[ \t]*[!#$%&'*+\-.^_`|~0-9A-Za-z]+)*")


class PassedHeaders:
    """The setting: names and `prefix*` patterns, any case. Raises ValueError for what is malformed or never passes."""

    __slots__ = ("_names", "_prefixes")

    def __init__(self, patterns: Sequence[str]) -> None:
        names: set[bytes] = set()
        prefixes: list[bytes] = []
        for pattern in patterns:
            match = _PASSED.fullmatch(pattern)
            if match is None:
                raise ValueError(f"passed header {pattern!r} is neither a header name nor a prefix followed by *")
            text = match[1].lower().encode()
            if _never_back(text):
                raise ValueError(f"passed header {pattern!r} is one that never passes")
            if match[2]:
                prefixes.append(text)
            else:
                names.add(text)
        self._names = frozenset(names)
        self._prefixes = tuple(prefixes)

    def __contains__(self, name: bytes) -> bool:
        """Whether `name` (lower case) passes."""
        return (name in self._names or name.startswith(self._prefixes)) and not _never_back(name)


def upstream_headers(headers: Headers, url: Url) -> Headers:
    """What the upstream is sent: Host first, then the caller's fields in order, those that stop here left out.

    Upstream-Authorization becomes Authorization in its own place; the caller's Authorization is ours and goes nowhere.
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
    """Which of the upstream's fields stand on our 201 and 502, in order, repeated ones kept."""
    dropped = _named_by_connection(headers)
    return [(name, value) for name, value in headers if name in passed and name not in dropped]


def content_type(headers: Headers) -> bytes:
    """The upstream's media type as spelled; `application/octet-stream` when absent, malformed or contradictory."""
    values = set(headers.get_all(b"content-type"))
    value = values.pop() if len(values) == 1 else b""
    return value if _MEDIA_TYPE.fullmatch(value) else b"application/octet-stream"


def content_encoding(headers: Headers) -> bytes | None:
    """The codings applied although identity was asked for; None when there are none, or nonsense."""
    value = b", ".join(value for value in headers.get_all(b"content-encoding") if value)
    return value if _CODINGS.fullmatch(value) and value.lower() != b"identity" else None


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    """The fields that Connection declares to be for this hop (RFC 9110 section 7.6.1)."""
    return frozenset(
        token.strip(b" \t").lower() for value in headers.get_all(b"connection") for token in value.split(b",")
    )


def _never_back(name: bytes) -> bool:
    return name in _NEVER_BACK or name.startswith(_NEVER_BACK_PREFIXES)
