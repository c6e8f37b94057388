"""The pattern language of the allowlist: text becomes a rule, or is refused with the reason.

    pattern = [("http" | "https") "://"] host [":" (port | "*")] ["/" path]    no scheme: https; no port: its default

Host: a name or IP literal means exactly that host. `*.example.com` is one or more labels before `example.com`. Any
other `*` stays within one label. `**` alone is any name. A wildcard never matches an IP literal.
Path: none means any path. `*` stays within one segment, and as a whole segment it is never empty. `**`, always a whole
segment, is any number of segments; at the end of a pattern at least one, which may be empty: `/v1/**` is `/v1/` and
everything below it, but not `/v1`. Paths compare character by character.

A pattern that cannot mean what it seems to is refused with a hint, because it would silently allow nothing, or more
than was meant: `*` for any host, `/v1/` for everything below it, `api.example.com*` for any path.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from proxy.wire.url import DEFAULT_PORTS, UrlError, canonical_host, check_path, has_encoded_separator

__all__ = ["Glob", "PatternError", "Rule", "compile_pattern"]

_PATTERN = re.compile(r"(?:([^/:]*)://)?([^/]*)(/.*)?")
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^:\[\]]*)(?::([^:]*))?")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_LAST_PORT = 65535
_HOST = re.compile(r"[a-z0-9_.*-]+")
_ADDRESS_RANGE = re.compile(r"[0-9.*]*[0-9][0-9.*]*")
_PATH = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%[0-9A-Fa-f]{2})*")
_REMEMBERED = 1024

Glob = tuple[str, ...]
"""Literal pieces with anything between them: `a*b` is ("a", "b"); one piece means no wildcard."""


class PatternError(ValueError):
    """A pattern that cannot be used: its text, and the reason as a phrase."""

    def __init__(self, pattern: str, reason: str) -> None:
        super().__init__(f"allowlist pattern {pattern!r}: {reason}")
        self.pattern = pattern
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Rule:
    """A compiled pattern.

    `host`: the labels, or one IP literal; None: any name. `is_deep`: one or more labels may come before them.
    `port`: None means any. `path`: runs of segments, split at each `**`; None means any path.
    """

    pattern: str
    scheme: str
    host: tuple[Glob, ...] | None
    is_deep: bool
    port: int | None
    path: tuple[tuple[Glob, ...], ...] | None

    def __str__(self) -> str:
        """The pattern with nothing left out: scheme, port and path stand there even where the pattern has none."""
        labels = ["**"] if self.host is None else ["*"] * self.is_deep + ["*".join(label) for label in self.host]
        host = ".".join(labels)
        host = f"[{host}]" if ":" in host else host
        segments: list[str] = []
        for index, run in enumerate(((), ()) if self.path is None else self.path):
            segments += ["**"] * (index > 0) + ["*".join(segment) for segment in run]
        return f"{self.scheme}://{host}:{self.port or '*'}/{'/'.join(segments)}"

    @property
    def literal_host(self) -> str | None:
        """The one host that the rule names, None for a rule with a wildcard in its host."""
        if self.host is None or self.is_deep or any(len(label) > 1 for label in self.host):
            return None
        return ".".join(label for (label,) in self.host)


@lru_cache(maxsize=_REMEMBERED)
def compile_pattern(pattern: str) -> Rule:
    """The rule that `pattern` spells. Raises PatternError. Cached, because tokens bring the same patterns again."""
    if not pattern:
        raise PatternError(pattern, "it is empty")
    if not re.fullmatch(r"[!-~]+", pattern):
        raise PatternError(pattern, "it contains a space, a control or a non-ASCII character (write names in punycode)")
    for character, name in (("\\", "backslash"), ("?", "query"), ("#", "fragment")):
        if character in pattern:
            raise PatternError(pattern, f"it contains a {name}")
    parts = _PATTERN.fullmatch(pattern)
    if parts is None:
        raise PatternError(pattern, "it is not [scheme://]host[:port][/path]")
    scheme = "https" if parts[1] is None else parts[1].lower()
    if scheme not in DEFAULT_PORTS:
        raise PatternError(pattern, "its scheme is neither http nor https")
    authority = _AUTHORITY.fullmatch(parts[2])
    if "@" in parts[2]:
        raise PatternError(pattern, "it contains userinfo")
    if authority is None:
        raise PatternError(pattern, "its host or port is malformed (an IPv6 address stands in brackets)")
    port = _compile_port(pattern, authority[2], DEFAULT_PORTS[scheme])
    host, is_deep = _compile_host(pattern, authority[1].lower())
    return Rule(pattern, scheme, host, is_deep, port, _compile_path(pattern, parts[3]))


def _compile_host(pattern: str, host: str) -> tuple[tuple[Glob, ...] | None, bool]:
    """The host's labels (None: any name), and whether more labels may come before them."""
    if not host:
        raise PatternError(pattern, "it has no host")
    if "*" not in host:
        try:
            return ((canonical_host(host.encode()),),), False
        except UrlError as error:
            raise PatternError(pattern, error.reason) from None
    if host == "**":
        return None, False
    if not _HOST.fullmatch(host):
        raise PatternError(pattern, "its host contains a character that no host name has")
    if "**" in host:
        raise PatternError(pattern, "** in a host must stand alone; *.name is any number of labels before a name")
    if host == "*":
        raise PatternError(pattern, "a host of * is a name without a dot, such as localhost; write ** for any name")
    if _ADDRESS_RANGE.fullmatch(host):
        raise PatternError(pattern, "an address cannot contain a wildcard")
    labels = host.split(".")
    try:
        # With a letter for each wildcard it must be a name: no empty label, no trailing dot, no hyphen at an end.
        canonical_host(host.replace("*", "y").encode())
    except UrlError as error:
        raise PatternError(pattern, error.reason) from None
    if len(labels) > 1 and labels[-1].endswith("*") and labels[-1] != "*":
        raise PatternError(pattern, "a * at the end of a host does not reach into the path; write /** after the host")
    is_deep = labels[0] == "*" and len(labels) > 1
    return tuple(tuple(label.split("*")) for label in labels[is_deep:]), is_deep


def _compile_port(pattern: str, port: str | None, default: int) -> int | None:
    if port is None:
        return default
    if port == "*":
        return None
    if not _PORT.fullmatch(port) or int(port) > _LAST_PORT:
        raise PatternError(pattern, "its port is neither * nor a number from 1 to 65535")
    return int(port)


def _compile_path(pattern: str, path: str | None) -> tuple[tuple[Glob, ...], ...] | None:
    if path is None or path == "/**":
        return None
    if not _PATH.fullmatch(path):
        raise PatternError(pattern, "its path contains a character that no path has, or a broken percent-encoding")
    try:
        check_path(path.encode())  # no URL has such a path, so the pattern would match nothing
        is_encoded = has_encoded_separator(path.encode())
    except UrlError as error:
        raise PatternError(pattern, error.reason) from None
    if is_encoded:
        raise PatternError(
            pattern, "an encoded slash or backslash passes only where the whole path is free (/** or none)"
        )
    segments = path[1:].split("/")
    if not segments[-1]:
        raise PatternError(
            pattern, f"a / at the end allows that very path and nothing below it; write {path}** for everything below"
        )
    if "" in segments:
        raise PatternError(pattern, "its path has an empty segment (//)")
    runs: list[list[Glob]] = [[]]
    for segment in segments:
        if segment == "**":
            runs.append([])
        elif "**" in segment:
            raise PatternError(pattern, "** in a path must be a whole segment")
        else:
            runs[-1].append(tuple(segment.split("*")))
    return tuple(map(tuple, runs))
