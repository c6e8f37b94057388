"""The allowlist: which upstream URLs may be called, and how far into private networks (protocol: Allowlist).

Owns the matching of parsed URLs. Time is proportional to URL times pattern: no matching backtracks further.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from proxy.policy.addresses import Reach
from proxy.policy.pattern import Glob, Rule, compile_pattern
from proxy.wire.url import Url, has_encoded_separator

__all__ = ["Allowlist", "Match"]

_LOOPBACK_NAME = "localhost"


@dataclass(frozen=True, slots=True)
class Match:
    """The pattern that allows a URL, and which addresses its host may resolve to."""

    pattern: str
    reach: Reach


class Allowlist:
    """Compiled patterns; an empty list allows nothing."""

    def __init__(self, patterns: Sequence[str], private: Sequence[str] = ()) -> None:
        """Raises PatternError for the first bad pattern.

        `private`: patterns of URLs whose host may have a private address. They allow no URL by themselves: the address
        rules are lifted for those that `patterns` allows.
        """
        self._literal: dict[tuple[str, str], list[Rule]] = {}
        self._wild: list[Rule] = []
        for rule in map(compile_pattern, patterns):
            if (host := rule.literal_host) is not None:
                self._literal.setdefault((rule.scheme, host), []).append(rule)
            else:
                self._wild.append(rule)
        self._private = Allowlist(private) if private else None

    def match(self, url: Url) -> Match | None:
        """The pattern that allows `url`, one that names its host literally before any other; None: not allowed."""
        is_encoded: bool | None = None
        for rule in self._for_origin(url):
            if rule.path is not None:
                if is_encoded is None:
                    is_encoded = "%" in url.path and has_encoded_separator(url.path.encode())
                if is_encoded or not _path(rule.path, url.path[1:].split("/")):
                    continue
            return Match(rule.pattern, self._reach(rule, url))
        return None

    def why_not(self, url: Url) -> str:
        """Why `url`, which does not match, is not allowed: a phrase for the caller."""
        if any(True for _ in self._for_origin(url)) and has_encoded_separator(url.path.encode()):
            return "its path contains an encoded slash or backslash (%2F, %5C), which passes only where any path does"
        return "it is not on the proxy's allowlist"

    def _for_origin(self, url: Url) -> Iterator[Rule]:
        """The rules for the scheme, host and port of `url`."""
        for rule in self._literal.get((url.scheme, url.host), ()):
            if rule.port in (None, url.port):
                yield rule
        if self._wild and not url.is_address:
            labels = url.host.split(".")
            for rule in self._wild:
                if rule.scheme == url.scheme and rule.port in (None, url.port) and _host(rule, labels):
                    yield rule

    def _reach(self, rule: Rule, url: Url) -> Reach:
        if url.is_address:
            return Reach.LITERAL  # no wildcard matches an address: the pattern names it
        if rule.literal_host == _LOOPBACK_NAME or (self._private is not None and self._private.match(url) is not None):
            return Reach.PRIVATE
        return Reach.PUBLIC


def _host(rule: Rule, labels: list[str]) -> bool:
    if rule.host is None:
        return True
    extra = len(labels) - len(rule.host)
    return (extra >= 1 if rule.is_deep else extra == 0) and _run(rule.host, labels, extra)


def _path(runs: tuple[tuple[Glob, ...], ...], segments: list[str]) -> bool:
    """Whether the runs stand in the segments in order, the first at the start and the last at the end."""
    first, last = runs[0], runs[-1]
    if len(runs) == 1:
        return len(segments) == len(first) and _run(first, segments, 0)
    at, end = len(first), len(segments) - len(last)
    if not last:
        end -= 1  # `**` at the end stands for at least one segment
    if at > end or not _run(first, segments, 0) or not _run(last, segments, len(segments) - len(last)):
        return False
    for run in runs[1:-1]:
        # The leftmost place is the best: it leaves the most for the runs that follow.
        while at + len(run) <= end and not _run(run, segments, at):
            at += 1
        at += len(run)
        if at > end:
            return False
    return True


def _run(run: tuple[Glob, ...], texts: list[str], at: int) -> bool:
    return all(_glob(glob, texts[at + index]) for index, glob in enumerate(run))


def _glob(pieces: Glob, text: str) -> bool:
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
