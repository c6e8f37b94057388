"""The allowlist: which upstream URLs may be called. Owns the pattern language and the matching of parsed URLs.

    pattern = [("http" | "https") "://"] host [":" (port | "*")] ["/" path]    no scheme: https; no port: its default

Host: a name or IP literal means exactly that host. `*.example.com` is one or more labels before `example.com`; any
other `*` stays within one label, so a lone `*` is a name of one label; `**` alone is any name. A wildcard never
matches an IP literal. Path: none means any. `*` stays within one segment and as a whole segment is never empty; `**`,
always a whole segment, is any number of segments, also none: `/v1/**` covers `/v1`, `/v1/` and all below. Paths
compare as spelled.

Refuses patterns that cannot mean what they seem to: they stop the start-up. Matching takes time proportional to URL
times pattern and never backtracks further.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from proxy.wire.url import DEFAULT_PORTS, Url, UrlError, canonical_host

__all__ = ["Allowlist", "Match", "PatternError"]

_PATTERN = re.compile(r"(?:([^/:]*)://)?([^/]*)(/.*)?")
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([^:]*))?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_LAST_PORT = 65535
_HOST = re.compile(r"[a-z0-9_.*-]+")
_ADDRESS_RANGE = re.compile(r"[0-9.*]*[0-9][0-9.*]*")
_PATH = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
_ENCODED_SEPARATOR = re.compile(r"%(?:25)*(?:2[Ff]|5[Cc])")

# A glob is its literal pieces: "a*b" is ("a", "b"); one piece means no wildcard.
_Glob = tuple[str, ...]


class PatternError(ValueError):
    """An allowlist pattern that cannot be used: its text, and the reason as a phrase."""

    def __init__(self, pattern: str, reason: str) -> None:
        super().__init__(f"allowlist pattern {pattern!r}: {reason}")
        self.pattern = pattern
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Match:
    """The pattern that let a URL through. `literal_host`: it names the host itself, so a private address is meant."""

    pattern: str
    literal_host: bool


@dataclass(frozen=True, slots=True)
class _Rule:
    """A compiled pattern. None means any host, any port, any path; a path is runs of segments, split at `**`."""

    match: Match
    scheme: str
    host: tuple[_Glob, ...] | None
    deep: bool
    port: int | None
    path: tuple[tuple[_Glob, ...], ...] | None


class Allowlist:
    """Compiled patterns. Raises PatternError for the first one that is bad; an empty list lets nothing through."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._literal: dict[tuple[str, str], list[_Rule]] = {}
        self._wild: list[_Rule] = []
        for pattern in patterns:
            rule = _compile(pattern)
            if rule.match.literal_host and rule.host is not None:
                host = ".".join(label for (label,) in rule.host)
                self._literal.setdefault((rule.scheme, host), []).append(rule)
            else:
                self._wild.append(rule)

    def match(self, url: Url) -> Match | None:
        """The pattern that allows `url`, one that names its host literally before any other; None: not allowed."""
        for rule in self._literal.get((url.scheme, url.host), ()):
            if _port_and_path(rule, url):
                return rule.match
        if self._wild and not url.is_address:
            labels = url.host.split(".")
            for rule in self._wild:
                if rule.scheme == url.scheme and _host(rule, labels) and _port_and_path(rule, url):
                    return rule.match
        return None


def _compile(pattern: str) -> _Rule:
    if not pattern:
        raise PatternError(pattern, "it is empty")
    if not re.fullmatch(r"[!-~]+", pattern):
        raise PatternError(pattern, "it holds a space, a control or a non-ASCII character (write names in punycode)")
    for character, reason in (("\\", "it holds a backslash"), ("?", "it holds a query"), ("#", "it holds a fragment")):
        if character in pattern:
            raise PatternError(pattern, reason)
    parts = _PATTERN.fullmatch(pattern)
    if parts is None:
        raise PatternError(pattern, "it is not [scheme://]host[:port][/path]")
    scheme = "https" if parts[1] is None else parts[1].lower()
    if scheme not in DEFAULT_PORTS:
        raise PatternError(pattern, "its scheme is neither http nor https")
    host, deep, port = _compile_authority(pattern, parts[2], DEFAULT_PORTS[scheme])
    literal = host is not None and not deep and all(len(label) == 1 for label in host)
    return _Rule(Match(pattern, literal), scheme, host, deep, port, _compile_path(pattern, parts[3]))


def _compile_authority(
    pattern: str, authority: str, default_port: int
) -> tuple[tuple[_Glob, ...] | None, bool, int | None]:
    """The host's labels (None: any name), whether more labels may come before them, and the port (None: any)."""
    if "@" in authority:
        raise PatternError(pattern, "it holds userinfo")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise PatternError(pattern, "its host or port is malformed (an IPv6 address stands in brackets)")
    host, port = parts[1].lower(), _compile_port(pattern, parts[2], default_port)
    if not host:
        raise PatternError(pattern, "it has no host")
    if "*" not in host:
        try:
            return ((canonical_host(host.encode()),),), False, port
        except UrlError as error:
            raise PatternError(pattern, error.reason) from None
    if host == "**":
        return None, False, port
    if not _HOST.fullmatch(host):
        raise PatternError(pattern, "its host holds a character that no host has")
    if "**" in host:
        raise PatternError(pattern, "** in a host must stand alone; *.name is any number of labels before a name")
    if _ADDRESS_RANGE.fullmatch(host):
        raise PatternError(pattern, "an address cannot hold a wildcard")
    labels = host.split(".")
    try:
        # With a letter for each wildcard it must be a name: no empty label, no trailing dot, no hyphen at an end.
        canonical_host(host.replace("*", "y").encode())
    except UrlError as error:
        raise PatternError(pattern, error.reason) from None
    deep = labels[0] == "*" and len(labels) > 1
    return tuple(tuple(label.split("*")) for label in labels[deep:]), deep, port


def _compile_port(pattern: str, port: str | None, default: int) -> int | None:
    if port is None:
        return default
    if port == "*":
        return None
    if not _PORT.fullmatch(port) or int(port) > _LAST_PORT:
        raise PatternError(pattern, "its port is neither * nor a number from 1 to 65535")
    return int(port)


def _compile_path(pattern: str, path: str | None) -> tuple[tuple[_Glob, ...], ...] | None:
    if path is None or path == "/**":
        return None
    if not _PATH.fullmatch(path):
        raise PatternError(pattern, "its path holds a character that no path has, or a broken percent-encoding")
    if _ENCODED_SEPARATOR.search(path):
        raise PatternError(
            pattern, "an encoded slash or backslash passes only where the whole path is free (/** or none)"
        )
    runs: list[list[_Glob]] = [[]]
    for segment in path[1:].split("/"):
        if segment == "**":
            runs.append([])
        elif "**" in segment:
            raise PatternError(pattern, "** in a path must be a whole segment")
        elif segment in (".", ".."):
            raise PatternError(pattern, "its path holds a . or .. segment")
        else:
            runs[-1].append(tuple(segment.split("*")))
    return tuple(map(tuple, runs))


def _host(rule: _Rule, labels: list[str]) -> bool:
    if rule.host is None:
        return True
    extra = len(labels) - len(rule.host)
    return (extra >= 1 if rule.deep else extra == 0) and _run(rule.host, labels, extra)


def _port_and_path(rule: _Rule, url: Url) -> bool:
    if rule.port is not None and rule.port != url.port:
        return False
    return rule.path is None or (not _ENCODED_SEPARATOR.search(url.path) and _path(rule.path, url.path[1:].split("/")))


def _path(runs: tuple[tuple[_Glob, ...], ...], segments: list[str]) -> bool:
    """Whether the runs stand in the segments in order, the first at the start and the last at the end."""
    first, last = runs[0], runs[-1]
    if len(runs) == 1:
        return len(segments) == len(first) and _run(first, segments, 0)
    at, end = len(first), len(segments) - len(last)
    if at > end or not _run(first, segments, 0) or not _run(last, segments, end):
        return False
    for run in runs[1:-1]:
        # The leftmost place is always the best: it leaves the most for the runs that follow.
        while at + len(run) <= end and not _run(run, segments, at):
            at += 1
        at += len(run)
        if at > end:
            return False
    return True


def _run(run: tuple[_Glob, ...], texts: list[str], at: int) -> bool:
    return all(_glob(glob, texts[at + index]) for index, glob in enumerate(run))


def _glob(pieces: _Glob, text: str) -> bool:
    """Whether `text` is the pieces with anything between them; with a wildcard, never the empty text."""
    first, last = pieces[0], pieces[-1]
    if len(pieces) == 1:
        return text == first
    at, end = len(first), len(text) - len(last)
    if not text or at > end or not text.startswith(first) or not text.endswith(last):
        return False
    for piece in pieces[1:-1]:
        at = text.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True
