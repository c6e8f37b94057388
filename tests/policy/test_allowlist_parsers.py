"""The allowlist against parsers that are not ours: what one of them places on another host is never allowed."""

import re
from contextlib import suppress
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxy.policy.allowlist import Allowlist
from proxy.policy.pattern import PatternError
from proxy.wire.url import Url, UrlError, parse_url

HOSTS = {"api.openai.com", "localhost", "127.0.0.1", "::1"}
ALLOWLIST = Allowlist(
    ["https://api.openai.com:*/**", "http://api.openai.com:*", "localhost:*", "http://localhost:*/**",
     "http://127.0.0.1:*",
     "http://[::1]:*/**"]
)  # fmt: skip

TOKENS = [
    "https://", "http://", "HTTPS://", "https:", "//", "/", "api.openai.com", "API.openai.COM", "evil.example",
    "localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "::1", "2130706433", "0x7f.1", "169.254.169.254", "@",
    "user:pass@", ":", ":443", ":80", ":0", ":65536", "#", "?", "\\", "%", "%2e", "%2f", "%5c", "%40", "%23", "%00",
    "%0d%0a", "%252e", ".", "..", "/../", "/./", ";", "&", "=", "*", "[", "]", "%25eth0", " ", "\t", "\n", "\r",
    "\x00", "。", "．", "＠", "／", "：", "ſ", "K", "ａ", "xn--", "-", "_", "a", "0", "v1",
]  # fmt: skip
STARTS = [
    "https://api.openai.com/", "http://localhost:81/", "http://[::1]:81/", "https://api.openai.com",
    "http://localhost", "http://127.0.0.1", "http://[::1]", "https://evil.example", "https://", "",
]  # fmt: skip

# Often allowed where they stand: with the others alone, nearly every example is refused for its first token.
QUIET = [
    "/", "//", "?", "=", "&", "#", "@", ":", ":443", ":80", ";", ".", "-", "*", "a", "0", "v1", "%2f", "%40",
    "evil.example",
]  # fmt: skip


def urls(tokens: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    texts = st.builds(lambda start, rest: start + "".join(rest), st.sampled_from(STARTS), st.lists(tokens, max_size=7))
    return texts.map(str.encode)


nasty_urls = urls(st.sampled_from(QUIET)) | urls(st.sampled_from(TOKENS) | st.text(max_size=2))


def allowed(text: bytes) -> Url | None:
    try:
        url = parse_url(text)
    except UrlError:
        return None
    return url if ALLOWLIST.match(url) else None


def by_urllib(text: bytes) -> tuple[str | None, int | None]:
    parts = urlsplit(text.decode())
    return parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]


def by_httpx(text: bytes) -> tuple[str | None, int | None]:
    parts = httpx.URL(text.decode())
    return parts.host.lower().strip("[]"), parts.port or {"http": 80, "https": 443}[parts.scheme]


def by_the_rfc(text: bytes) -> tuple[str | None, int | None]:
    """The regular expression of RFC 3986 appendix B, and the authority's last @ and last : as section 3.2 has them."""
    parts = re.fullmatch(r"(?s)(([^:/?#]+):)?(//([^/?#]*))?([^?#]*)(\?([^#]*))?(#(.*))?", text.decode())
    assert parts is not None
    host, _, port = (
        parts[4].rpartition("@")[2].rpartition(":") if re.search(r":[0-9]*\Z", parts[4]) else (parts[4], "", "")
    )
    return host.lower().strip("[]"), int(port or {"http": 80, "https": 443}[parts[2].lower()])


@settings(max_examples=600)
@given(nasty_urls)
@example(b"https://api.openai.com/v1?x#y")
@example(b"http://[::1]:80//x@evil.example:1/")
def test_what_is_allowed_is_on_the_same_host_for_every_parser(text: bytes) -> None:
    url = allowed(text)
    if url is None:
        return
    assert url.host in HOSTS
    for parser in (by_urllib, by_httpx, by_the_rfc):
        assert parser(text) == (url.host, url.port)


@pytest.mark.parametrize(
    "start", [b"https://api.openai.com", b"http://localhost:81", b"http://[::1]", b"http://127.0.0.1:9"]
)
@pytest.mark.parametrize("rest", [b"", b"/", b"/v1/x", b"/v1?x=@y", b"/v1#z", b"/a%2fb", b"//x", b"/x;y=%20"])
def test_the_property_above_is_about_urls_that_are_allowed(start: bytes, rest: bytes) -> None:
    url = allowed(start + rest)
    assert url is not None
    assert by_urllib(start + rest) == by_httpx(start + rest) == by_the_rfc(start + rest) == (url.host, url.port)


# An independent reading of pattern paths: as regular expressions, which may backtrack, on short inputs.

segments = st.sampled_from(["**", "*", "a", "b", "ab", "a*", "*b", "a*b", "*a*"])
patterns = st.lists(segments, min_size=1, max_size=5).map(lambda parts: "/" + "/".join(parts))
paths = st.lists(st.sampled_from(["a", "b", "ab", "aab", "c", ""]), min_size=1, max_size=6).map(
    lambda parts: "/" + "/".join(parts)
)


def as_regex(pattern: str) -> re.Pattern[str]:
    """`**` is any number of `/segment`, at the end at least one; `*` is any run without a slash, alone not empty."""
    text = ""
    for segment in pattern[1:].split("/"):
        if segment == "**":
            text += "(?:/[^/]*)*"
        else:
            wildcard = "(?=[^/])" if "*" in segment else ""
            text += "/" + wildcard + "[^/]*".join(map(re.escape, segment.split("*")))
    return re.compile(text.removesuffix("*") + "+" if pattern.endswith("/**") else text)


@settings(max_examples=600)
@given(patterns, paths)
@example("/**/a/**/b", "/a/a/b/b")
@example("/a/**", "/a")
@example("/a/**", "/a/")
def test_a_path_matches_as_the_regular_expression_of_its_pattern_would(pattern: str, path: str) -> None:
    match = Allowlist([f"https://a.example{pattern}"]).match(parse_url(f"https://a.example{path}".encode()))
    assert (match is not None) is (as_regex(pattern).fullmatch(path) is not None)


labels = st.sampled_from(["*", "a", "b", "ab", "a*", "*b", "a*b"])


def is_sound(pattern: list[str]) -> bool:
    """Patterns for hosts of one label that may be any, and for last labels with a loose end, are refused."""
    return pattern != ["*"] and (len(pattern) == 1 or pattern[-1] == "*" or not pattern[-1].endswith("*"))


@settings(max_examples=400)
@given(
    st.lists(labels, min_size=1, max_size=4).filter(is_sound),
    st.lists(st.sampled_from(["a", "b", "ab", "aab", "c"]), min_size=1, max_size=5),
)
def test_a_host_matches_as_the_regular_expression_of_its_pattern_would(pattern: list[str], host: list[str]) -> None:
    match = Allowlist([f"https://{'.'.join(pattern)}"]).match(parse_url(f"https://{'.'.join(host)}".encode()))
    deep = pattern[0] == "*" and len(pattern) > 1
    regex = r"\.".join("[^.]*".join(map(re.escape, label.split("*"))) for label in pattern[deep:])
    assert (match is not None) is (re.fullmatch(r"(?:[^.]+\.)+" * deep + regex, ".".join(host)) is not None)


@given(st.text(max_size=30))
def test_any_text_is_a_pattern_or_refused(text: str) -> None:
    with suppress(PatternError):
        Allowlist([text])


@given(st.text(alphabet="htps:/*.[]@0123456789ab%-_~?#\\", max_size=20).map(lambda text: "https://" + text))
def test_any_pattern_like_text_is_a_pattern_or_refused(text: str) -> None:
    with suppress(PatternError):
        Allowlist([text])
