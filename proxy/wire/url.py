"""Upstream URLs: one strict parse whose result is matched, connected to and sent as it is.

Refuses everything that two parsers could read differently: userinfo, backslashes, characters outside `!`–`~`, hosts
that are neither plain names nor canonical IP literals, dot segments and control characters however they are encoded,
and a `?` or `#` that might be meant to move the host. What depends on a pattern (`%2f`, `%5c`) is the allowlist's to
decide.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from urllib.parse import unquote_to_bytes

__all__ = ["DEFAULT_PORTS", "Url", "UrlError", "canonical_host", "parse_query", "parse_url", "query_values"]

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
_ENCODED_CONTROL = re.compile(rb"%(?:[01][0-9A-Fa-f]|7[Ff])")
_BAD_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_OVERLONG = re.compile(rb"[\xc0\xc1]")  # never part of UTF-8; a lax decoder reads a dot or a slash out of them
# A segment may also end at `;` (path parameters) or, once decoded, at a `?` or `#`.
_DOT_SEGMENT = re.compile(rb"(?:\A|[/\\])\.{1,2}(?:[/\\;?#]|\Z)")
_FRAGMENT = re.compile(rb"#[^#@]*")


class UrlError(ValueError):
    """The text is not a URL this proxy connects to. `reason` is a phrase for the caller and repeats none of it."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Url:
    """An absolute http or https URL, parsed once.

    `host` is a lower-case ASCII name or a canonical IP literal (IPv6 without brackets), `target` is path and query
    exactly as spelled and starts with `/`, `path` is the target up to its `?`. The repr leaves the query out: it may
    hold a key.
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
        """Whether the host is an IP literal. No name ends in a label of digits, so the last label tells."""
        return ":" in self.host or self.host.rpartition(".")[2].isdigit()

    @property
    def authority(self) -> bytes:
        """The value of a Host field (RFC 9110 section 7.2): the port only when it is not the default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (host if self.default_port else f"{host}:{self.port}").encode()


def parse_url(text: bytes) -> Url:
    """The URL that `text` spells; raises UrlError. A fragment is accepted after a path, and never sent.

    Old parsers end the authority at `/` alone and read `https://a.example?@b.example` as a user at `b.example`: hence
    no `@` in a fragment, nor in a query without a path before it, and no fragment that touches the host.
    """
    if not _PRINTABLE.fullmatch(text):
        raise UrlError("the URL is empty or holds a space, a control or a non-ASCII character")
    if b"\\" in text:
        raise UrlError("the URL holds a backslash")
    parts = _URL.fullmatch(text)
    if parts is None:
        raise UrlError("the URL is not an absolute http or https URL")
    name, authority, path, query, fragment = parts.groups()
    scheme = name.lower().decode()
    host, port = _split_authority(authority)
    if not path and (fragment is not None or b"@" in (query or b"")):
        raise UrlError("a # or an @ follows the host without a path between them")
    if fragment is not None and not _FRAGMENT.fullmatch(fragment):
        raise UrlError("the fragment holds an @ or a second #")
    if query is not None and _ENCODED_CONTROL.search(query):
        raise UrlError("the query holds an encoded control character")
    _check_path(path)
    path = path or b"/"
    return Url(scheme, host, port or DEFAULT_PORTS[scheme], path + (query or b""), path.decode())


def canonical_host(text: bytes) -> str:
    """The host that `text` spells in a URL's authority, lower-case and without brackets; raises UrlError.

    IP literals must be canonical already: dotted decimal for IPv4, RFC 5952 in brackets for IPv6, and no IPv4-mapped
    one.
    """
    host = text.lower()
    if host.startswith(b"["):
        return _canonical_ipv6(host[1:-1].decode("latin-1"))
    if _IPV4.fullmatch(host):
        return host.decode()
    if not host:
        raise UrlError("there is no host")
    if len(host) > _NAME_BYTES:
        raise UrlError("the host is longer than a name may be")
    if _NUMERIC.fullmatch(host):
        raise UrlError("the host is a number but not a canonical IPv4 address")
    if not _NAME.fullmatch(host):
        raise UrlError("the host is neither a plain name nor an IP address")
    return host.decode()


def parse_query(query: bytes) -> list[tuple[bytes, bytes]]:
    """The pairs of an application/x-www-form-urlencoded query in order, repeated names kept, decoded to raw bytes.

    Never fails: a broken escape stays as it is, a pair without `=` has an empty value. Work and size are linear in
    `query`.
    """
    pairs = []
    for pair in query.split(b"&"):
        if pair:
            name, _, value = pair.replace(b"+", b" ").partition(b"=")
            pairs.append((unquote_to_bytes(name), unquote_to_bytes(value)))
    return pairs


def query_values(query: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Every value that a parsed query gives `name`, in order."""
    return [value for key, value in query if key == name]


def _split_authority(authority: bytes) -> tuple[str, int | None]:
    if b"@" in authority:
        raise UrlError("the URL holds userinfo")
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


def _check_path(path: bytes) -> None:
    """Refuse dot segments and controls, plain, encoded or encoded twice: what an upstream may decode, we have seen."""
    if _BAD_ESCAPE.search(path):
        raise UrlError("the path holds a broken percent-encoding")
    for _ in ("plain", "encoded", "encoded twice"):
        if _CONTROL.search(path) or _OVERLONG.search(path):
            raise UrlError("the path holds an encoded control character or an overlong encoding")
        if _DOT_SEGMENT.search(path):
            raise UrlError("the path holds a . or .. segment")
        if b"%" not in path:
            return
        path = unquote_to_bytes(path)
