"""Upstream URLs: one strict parse, whose result is matched, connected to and sent unchanged.

Refuses every URL that two parsers could read differently: userinfo, backslashes, characters outside `!`–`~`, hosts
that are neither plain names nor canonical IP literals, dot segments and control characters in any encoding, and a `?`
or `#` that could hide the host. Encoded slashes and backslashes are only reported: the allowlist decides about them.

Why one parser: an allowlist is bypassed where the parser that matches a URL and the parser that connects disagree on
its host or path. Here the host, port and path that were matched are the very values that are dialled and sent. The
upstream's own parser remains; so nothing is sent that servers are known to read in different ways, and the path is
judged in every decoding that a server or a proxy in front of it could apply.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from urllib.parse import unquote_to_bytes

__all__ = [
    "DEFAULT_PORTS",
    "Url",
    "UrlError",
    "canonical_host",
    "check_path",
    "has_encoded_separator",
    "parse_query",
    "parse_url",
    "query_values",
]

DEFAULT_PORTS = {"http": 80, "https": 443}

_PRINTABLE = re.compile(rb"[!-~]+")
_URL = re.compile(rb"([Hh][Tt][Tt][Pp][Ss]?)://([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?")
_AUTHORITY = re.compile(rb"(\[[^\[\]]*\]|[^:\[\]]*)(?::([1-9][0-9]{0,4}))?")
_LABEL = rb"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(_LABEL + rb"(?:\." + _LABEL + rb")*")
# WHATWG URL, "ends in a number": such a host is an IPv4 address to a browser, whatever else the labels say.
_NUMERIC = re.compile(rb"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)")
_OCTET = rb"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_IPV4 = re.compile(_OCTET + rb"(?:\." + _OCTET + rb"){3}")
_NAME_BYTES = 253  # RFC 1035 section 3.1, in its text form
_LAST_PORT = 65535

_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
# Tab, line feed and carriage return are data in a query (a prompt, a search text) and stay encoded on the wire.
_ENCODED_CONTROL = re.compile(rb"%(?:0[0-8BbCcEeFf]|1[0-9A-Fa-f]|7[Ff])")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_WIDE_ESCAPE = re.compile(rb"%[Uu][0-9A-Fa-f]{4}")  # of some older servers: %u002f is a slash to them
# UTF-8 that is longer than needed (RFC 3629 section 3): a lax decoder reads a dot or a slash out of it.
_OVERLONG = re.compile(rb"[\xc0\xc1]|\xe0[\x80-\x9f]|\xf0[\x80-\x8f]|\xf8[\x80-\x87]|\xfc[\x80-\x83]")
# A segment may also end at `;` (path parameters) or, once decoded, at a `?` or `#`.
_DOT_SEGMENT = re.compile(rb"(?:\A|[/\\])\.{1,2}(?:[/\\;?#]|\Z)")
_SEPARATOR = re.compile(rb"[/\\]")
_FRAGMENT = re.compile(rb"#[^#@]*")

_DECODINGS = 4
"""A path that is percent-encoded more often is refused: no client needs it, and judging it costs a pass for each."""


class UrlError(ValueError):
    """A text that is not a URL the proxy connects to. `reason` is a phrase for the caller and quotes none of it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Url:
    """An absolute http or https URL, parsed once.

    `host` is a lower-case ASCII name or a canonical IP literal (IPv6 without brackets). `target` is path and query,
    exactly as received, and starts with `/`. `path` is the target up to its `?`. The repr leaves the query out, because
    it may contain a key.
    """

    scheme: str
    host: str
    port: int
    target: bytes = field(repr=False)
    path: str

    @property
    def default_port(self) -> bool:
        """Whether the port is the scheme's own."""
        return self.port == DEFAULT_PORTS[self.scheme]

    @property
    def is_address(self) -> bool:
        """Whether the host is an IP literal. No accepted name ends in a label of digits, so the last label decides."""
        return ":" in self.host or self.host.rpartition(".")[2].isdigit()

    @property
    def authority(self) -> bytes:
        """The value of a Host field (RFC 9110 section 7.2): the port only when it is not the default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.default_port else f"{host}:{self.port}").encode()


def parse_url(text: bytes) -> Url:
    """Parse `text`. Raises UrlError. A fragment is accepted after a path, and never sent.

    Some older parsers end the authority only at a `/`: to them `https://a.example?@b.example` is user `a.example?` at
    host `b.example`. So an `@` is refused in a fragment, and in a query that has no path before it, and a fragment must
    not follow the host directly.
    """
    if not _PRINTABLE.fullmatch(text):
        raise UrlError("the URL is empty or contains a space, a control character or a non-ASCII character")
    if b"\\" in text:
        raise UrlError("the URL contains a backslash")
    parts = _URL.fullmatch(text)
    if parts is None:
        raise UrlError("the URL is not an absolute http or https URL")
    name, authority, path, query, fragment = parts.groups()
    scheme = name.lower().decode()
    host, port = _split_authority(authority)
    if not path and (fragment is not None or b"@" in (query or b"")):
        raise UrlError("a # or an @ follows the host without a path between them")
    if fragment is not None and not _FRAGMENT.fullmatch(fragment):
        raise UrlError("the fragment contains an @ or a second #")
    if query is not None and _ENCODED_CONTROL.search(query):
        raise UrlError("the query contains an encoded control character")
    check_path(path)
    path = path or b"/"
    return Url(scheme, host, port or DEFAULT_PORTS[scheme], path + (query or b""), path.decode())


def canonical_host(text: bytes) -> str:
    """The host part of an authority, in lower case and without brackets. Raises UrlError.

    IP literals must be canonical already: dotted decimal for IPv4, RFC 5952 in brackets for IPv6. IPv4-mapped IPv6
    addresses are refused.
    """
    host = text.lower()
    if host.startswith(b"["):
        return _canonical_ipv6(host[1:-1].decode("latin-1"))
    if _IPV4.fullmatch(host):
        return host.decode()
    if not host:
        raise UrlError("the host is missing")
    if len(host) > _NAME_BYTES:
        raise UrlError("the host name is longer than 253 characters")
    if _NUMERIC.fullmatch(host):
        raise UrlError("the host is a number but not a canonical IPv4 address")
    if not _NAME.fullmatch(host):
        raise UrlError("the host is neither a plain name nor an IP address")
    return host.decode()


def parse_query(query: bytes) -> list[tuple[bytes, bytes]]:
    """The parameters of an application/x-www-form-urlencoded query, decoded to bytes, in order, repeated ones kept.

    A broken escape stays as it is, and a parameter without `=` has an empty value.
    """
    pairs = []
    for pair in query.split(b"&"):
        if pair:
            name, _, value = pair.replace(b"+", b" ").partition(b"=")
            pairs.append((unquote_to_bytes(name), unquote_to_bytes(value)))
    return pairs


def query_values(query: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Every value of the parameter `name`, in order."""
    return [value for key, value in query if key == name]


def check_path(path: bytes) -> None:
    """Refuse dot segments in `path`, and dot segments, controls and overlong UTF-8 in all its decodings.

    `path` has printable characters only. Raises UrlError.
    """
    if b"%" not in path:
        if _DOT_SEGMENT.search(path):
            raise UrlError("the path contains a . or .. segment")
        return
    if _BAD_ESCAPE.search(path):
        raise UrlError("the path contains a broken percent-encoding")
    for decoded in _decodings(path):
        if _CONTROL.search(decoded) or _OVERLONG.search(decoded):
            raise UrlError("the path contains an encoded control character or an overlong encoding")
        if _WIDE_ESCAPE.search(decoded):
            raise UrlError("the path contains a %u escape")
        if _DOT_SEGMENT.search(decoded):
            raise UrlError("the path contains a . or .. segment")


def has_encoded_separator(path: bytes) -> bool:
    """Whether a decoding of `path` has a slash or backslash that `path` itself does not have. Raises UrlError."""
    # The path's own slashes are replaced by a character that no escape contains: what is found then was encoded.
    return b"%" in path and any(_SEPARATOR.search(decoded) for decoded in _decodings(path.replace(b"/", b"!")))


def _split_authority(authority: bytes) -> tuple[str, int | None]:
    if b"@" in authority:
        raise UrlError("the URL contains userinfo")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise UrlError("the host or the port is malformed")
    host, digits = parts.groups()
    port = None if digits is None else int(digits)
    if port is not None and port > _LAST_PORT:
        raise UrlError("the port is out of range")
    return canonical_host(host), port


def _canonical_ipv6(text: str) -> str:
    try:
        address = IPv6Address(text)
    except ValueError:
        raise UrlError("the host is not an IPv6 address") from None
    if address.ipv4_mapped is not None:  # before the text is compared: Python 3.13 spells these in another way
        raise UrlError("the IPv6 address is an IPv4 address in disguise")
    if address.scope_id is not None or address.compressed != text:
        raise UrlError("the IPv6 address is not in its canonical form")
    return text


def _decodings(path: bytes) -> Iterator[bytes]:
    """`path`, then `path` decoded once, twice and so on until it does not change. Raises UrlError after four times."""
    for _ in range(_DECODINGS + 1):
        yield path
        if b"%" not in path:
            return
        decoded = unquote_to_bytes(path)
        if decoded == path:
            return
        path = decoded
    raise UrlError("the path is percent-encoded more than four times")
