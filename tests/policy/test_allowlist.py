"""The allowlist, rule by rule: what each pattern lets through and what it does not, and which patterns are refused."""

from dataclasses import replace

import pytest

from proxy.policy.addresses import Reach
from proxy.policy.allowlist import Allowlist, Match
from proxy.policy.pattern import PatternError, compile_pattern
from proxy.wire.url import UrlError, parse_url


def allowed(patterns: list[str], url: str) -> Match | None:
    """What the whole decision is: a URL that cannot be parsed is not allowed."""
    try:
        return Allowlist(patterns).match(parse_url(url.encode()))
    except UrlError:
        return None


RULES: dict[str, tuple[list[str], list[str]]] = {
    "https://api.openai.com/**": (
        ["https://api.openai.com/", "https://api.openai.com", "https://api.openai.com/v1/chat/completions",
         "https://api.openai.com:443/v1", "HTTPS://API.OPENAI.COM/v1",
         "https://api.openai.com/v1?x=https://evil.example/", "https://api.openai.com/v1#part",
         "https://api.openai.com//", "https://api.openai.com/@evil.example/", "https://api.openai.com/a%2fb%5Cc",
         "https://api.openai.com/x:y/*/**"],
        ["http://api.openai.com/v1", "https://api.openai.com:444/v1", "https://api.openai.com:80/",
         "https://openai.com/v1", "https://x.api.openai.com/v1", "https://api.openai.com.evil.example/v1",
         "https://evil-api.openai.com/", "https://api.openai.com-evil.example/", "https://apixopenai.com/v1",
         "https://api.openai.co/v1", "https://api.openai.com./v1", "https://evil.example/api.openai.com/",
         "https://evil.example/?https://api.openai.com/", "https://evil.example/#api.openai.com",
         "https://user@api.openai.com/", "https://api.openai.com@evil.example/",
         "https://api.openai.com\\@evil.example/", "https://evil.example\\@api.openai.com/",
         "https://evil.example#@api.openai.com/", "https://evil.example?@api.openai.com/",
         "https://api.openai.com#@evil.example/", "https://api.openai.com?@evil.example/", "//api.openai.com/v1",
         "https:/api.openai.com/v1", "https:api.openai.com/v1", "https://api%2eopenai.com/",
         "https://api.openai。com/", "https://ａpi.openai.com/", "https://арі.openai.com/",
         "https://xn--80a1acn.openai.com/", "https://api.openai.com/../x", "https://api.openai.com/%2e%2e/x",
         "https://api.openai.com/%252e%252e/x", "https://api.openai.com/%00", "https://api.openai.com/ x",
         "https://api.openai.com/\r\nx: y"],
    ),
    "https://api.openai.com": (
        ["https://api.openai.com", "https://api.openai.com/", "https://api.openai.com/v1/x%2fy"],
        ["http://api.openai.com", "https://api.openai.com:8443/", "https://a.api.openai.com/"],
    ),
    "https://a.example/v1": (
        ["https://a.example/v1", "https://a.example/v1?x=1"],
        ["https://a.example/v1/", "https://a.example/", "https://a.example/v1/x"],
    ),
    "https://api.anthropic.com/v1/*": (
        ["https://api.anthropic.com/v1/messages", "https://api.anthropic.com/v1/messages?beta=true/x",
         "https://api.anthropic.com/v1/*"],
        ["https://api.anthropic.com/v1/", "https://api.anthropic.com/v1",
         "https://api.anthropic.com/v1/messages/batches", "https://api.anthropic.com/v1/messages/",
         "https://api.anthropic.com/v1//", "https://api.anthropic.com/v1//x", "https://api.anthropic.com//v1/x",
         "https://api.anthropic.com/V1/messages", "https://api.anthropic.com/v10/x",
         "https://api.anthropic.com/v1/a%2fb", "https://api.anthropic.com/v1/a%2Fb",
         "https://api.anthropic.com/v1/a%5cb", "https://api.anthropic.com/v1/a%252fb",
         "https://api.anthropic.com/v1/a%25%32%66b", "https://api.anthropic.com/v1/a%25%35Cb",
         "https://api.anthropic.com/v1/a%2525%32fb", "https://api.anthropic.com/v1/a%25252%2566b",
         "https://api.anthropic.com/v1/%c0%af", "https://api.anthropic.com/v1/%e0%80%af",
         "https://api.anthropic.com/v1/%25e0%2580%25af", "https://api.anthropic.com/v1/%f0%80%80%af",
         "https://api.anthropic.com/v1/%25u002f", "https://api.anthropic.com/v1/%e0%80%ae%e0%80%ae/x",
         "https://api.anthropic.com/v1/a%25255Cb", "https://api.anthropic.com/%76%31/x", "https://api.anthropic.com/",
         "https://api.anthropic.com"],
    ),
    "https://a.example/v1/**": (
        ["https://a.example/v1/", "https://a.example/v1/x", "https://a.example/v1/x/y/",
         "https://a.example/v1//x", "https://a.example/v1/%20"],
        ["https://a.example/v1", "https://a.example/v1?x", "https://a.example/", "https://a.example/v",
         "https://a.example/v1x", "https://a.example/v1x/y",
         "https://a.example/x/v1/", "https://a.example//v1/x", "https://a.example/v1/x%2fy",
         "https://a.example/v1%2fx", "https://a.example/v1/..", "https://a.example/v1/../x",
         "https://a.example/v1/..;/x"],
    ),
    "https://a.example/**/end": (
        ["https://a.example/end", "https://a.example/x/end", "https://a.example/x/y/end", "https://a.example/end/end"],
        ["https://a.example/", "https://a.example/end/", "https://a.example/xend", "https://a.example/end/x"],
    ),
    "https://a.example/**/b/**/c": (
        ["https://a.example/b/c", "https://a.example/x/b/c", "https://a.example/b/x/c", "https://a.example/b/b/x/c/c"],
        ["https://a.example/c/b", "https://a.example/b", "https://a.example/c", "https://a.example/x/c",
         "https://a.example/bc"],
    ),
    "https://a.example/**/**": (["https://a.example", "https://a.example/x/y"], ["https://b.example/"]),
    "https://a.example/*/x": (
        ["https://a.example/v1/x", "https://a.example/%20/x"],
        ["https://a.example//x", "https://a.example/x", "https://a.example/a/b/x"],
    ),
    "https://a.example/v*": (
        ["https://a.example/v1", "https://a.example/v", "https://a.example/v1*"],
        ["https://a.example/", "https://a.example/v1/x", "https://a.example/xv", "https://a.example/v1%2fx"],
    ),
    "https://a.example/models/*:stream*Content": (
        ["https://a.example/models/gemini-2:streamGenerateContent", "https://a.example/models/:streamContent",
         "https://a.example/models/x:stream:streamContentContent"],
        ["https://a.example/models/gemini-2:generateContent", "https://a.example/models/x:streamContent/",
         "https://a.example/models/a/b:streamContent", "https://a.example/models/x:streamConten"],
    ),
    "https://a.example/a*a": (
        ["https://a.example/aa", "https://a.example/aba", "https://a.example/aaa"],
        ["https://a.example/a", "https://a.example/ab"],
    ),
    "https://a.example/a*b*b": (
        ["https://a.example/abb", "https://a.example/axbxb"],
        ["https://a.example/ab", "https://a.example/axb"],
    ),
    "https://a.example/x*a*a*": (
        ["https://a.example/xaa", "https://a.example/x-a-a-"],
        ["https://a.example/xa", "https://a.example/x-a-"],
    ),
    "https://a.example/x%20y/@me": (
        ["https://a.example/x%20y/@me"],
        ["https://a.example/x y/@me", "https://a.example/x+y/@me", "https://a.example/x%20y/%40me"],
    ),
    "https://*.example.com/api/**": (
        ["https://a.example.com/api/x", "https://a.b.c.example.com/api/", "https://A.EXAMPLE.com/api//",
         "https://xn--bcher-kva.example.com/api/x"],
        ["https://example.com/api/x", "https://a.example.com/api", "https://x.example.com/api?q=/",
         "https://a.example.com/x", "https://aexample.com/api/x",
         "https://.example.com/api/x", "https://a.example.com.evil.test/api/x", "https://a.example.comx/api/x",
         "http://a.example.com/api/x", "https://a.example.com:8443/api/x", "https://evil.test/a.example.com/api/x",
         "https://1.2.3.4/api/x"],
    ),
    "https://api-*.example.com": (
        ["https://api-1.example.com/", "https://api-eu-west.example.com/x"],
        ["https://api-.example.com/", "https://api-a.b.example.com/", "https://x.api-1.example.com/",
         "https://api.example.com/"],
    ),
    "https://*api.example.com": (
        ["https://api.example.com/", "https://myapi.example.com/"],
        ["https://my.api.example.com/", "https://apix.example.com/"],
    ),
    "https://api.*.example.com": (
        ["https://api.eu.example.com/"],
        ["https://api.example.com/", "https://api.eu.west.example.com/", "https://x.api.eu.example.com/"],
    ),
    "https://*.*.example.com": (
        ["https://a.b.example.com/", "https://a.b.c.example.com/"],
        ["https://a.example.com/", "https://example.com/"],
    ),
    "https://example.*": (["https://example.com/", "https://example.dev/"], ["https://example.co.uk/",
    "https://a.example.com/"]),
    "https://*.EXAMPLE.com": (["https://a.example.com/"], ["https://example.com/"]),
    "https://back*": (["https://backend/x", "https://backend-2/"], ["https://back.example/", "https://b/"]),
    "https://**": (
        ["https://localhost/", "https://a.example/x%2fy", "https://a.b.c.d.example/"],
        ["http://a.example/", "https://a.example:8443/", "https://8.8.8.8/", "https://[2606:4700::1]/",
         "https://user@a.example/"],
    ),
    "http://**:*/v1/**": (["http://a.example:81/v1/x", "http://b/v1/"], ["https://a.example:81/v1/x", "http://b/v2"]),
    "http://localhost:*/**": (
        ["http://localhost:1/", "http://localhost:65535/x/y", "http://localhost/", "http://LOCALHOST:8080/"],
        ["https://localhost:1/", "http://localhost.evil.example:1/", "http://127.0.0.1:1/", "http://[::1]:1/",
         "http://xlocalhost:1/", "http://localhost:0/", "http://localhost:99999/", "http://localhost:/"],
    ),
    "localhost:*/x/**": (
        ["https://localhost:9/x/y", "https://localhost/x/"],
        ["http://localhost:9/x/y", "https://localhost:9/y", "https://localhost/x"],
    ),
    "a.example": (["https://a.example/x"], ["http://a.example/x", "https://a.example:444/x"]),
    "https://a.example:8443/**": (
        ["https://a.example:8443/x"],
        ["https://a.example/x", "https://a.example:443/x", "https://a.example:84430/x", "http://a.example:8443/x"],
    ),
    "https://a.example:443": (["https://a.example/x", "https://a.example:443/x"], ["https://a.example:80/x"]),
    "http://a.example:80": (["http://a.example/x", "http://a.example:80/x"], ["https://a.example/",
    "http://a.example:443/"]),
    "http://a.example:443": (["http://a.example:443/x"], ["https://a.example/x", "http://a.example/x"]),
    "HTTPS://API.Example/V1/**": (["https://api.example/V1/x"], ["https://api.example/v1/x"]),
    "http://127.0.0.1:*/**": (
        ["http://127.0.0.1:8080/x"],
        ["http://127.1:8080/x", "http://2130706433:8080/", "http://0x7f.0.0.1/", "http://0177.0.0.1/",
         "http://localhost/", "http://127.0.0.1.:8080/x", "http://[::ffff:127.0.0.1]/",
         "http://127.0.0.1.evil.example/"],
    ),
    "http://[::1]:*/**": (
        ["http://[::1]:8080/x", "http://[::1]/"],
        ["http://[0:0:0:0:0:0:0:1]/", "http://[::2]/", "http://[::1%25lo]/", "http://127.0.0.1/", "http://localhost/"],
    ),
    "https://xn--bcher-kva.example/**": (
        ["https://xn--bcher-kva.example/", "https://XN--BCHER-KVA.example/"],
        ["https://bücher.example/", "https://b%c3%bccher.example/", "https://bucher.example/"],
    ),
}  # fmt: skip

CASES = [(pattern, url, True) for pattern, (good, _) in RULES.items() for url in good]
CASES += [(pattern, url, False) for pattern, (_, bad) in RULES.items() for url in bad]


@pytest.mark.parametrize(("pattern", "url", "passes"), CASES)
def test_a_pattern_lets_through_what_it_says_and_nothing_else(pattern: str, url: str, passes: bool) -> None:
    match = allowed([pattern], url)
    assert (match is not None) is passes
    assert match is None or match.pattern == pattern


@pytest.mark.parametrize("url", ["https://a.example/", "http://localhost/", "https://127.0.0.1/"])
def test_an_empty_list_rejects_everything(url: str) -> None:
    assert allowed([], url) is None


def test_any_pattern_of_the_list_lets_through() -> None:
    patterns = ["https://a.example/v1/*", "https://a.example/v2/*", "http://b.example", "https://*.c.example"]
    for url in ("https://a.example/v1/x", "https://a.example/v2/x", "http://b.example/", "https://x.c.example/"):
        assert allowed(patterns, url)
    assert allowed(patterns, "https://a.example/v3/x") is None


REACHES = [
    ("http://localhost:*/**", "http://localhost:1/", Reach.PRIVATE),
    ("http://127.0.0.1", "http://127.0.0.1/", Reach.LITERAL),
    ("http://[::1]", "http://[::1]/", Reach.LITERAL),
    ("http://169.254.169.254", "http://169.254.169.254/", Reach.LITERAL),
    ("https://llm.internal/**", "https://llm.internal/", Reach.PUBLIC),
    ("https://localhost.internal/**", "https://localhost.internal/", Reach.PUBLIC),
    ("https://*.internal", "https://llm.internal/", Reach.PUBLIC),
    ("https://llm.*", "https://llm.internal/", Reach.PUBLIC),
    ("https://local*", "https://localhost/", Reach.PUBLIC),
    ("https://**", "https://localhost/", Reach.PUBLIC),
]


@pytest.mark.parametrize(("pattern", "url", "reach"), REACHES)
def test_only_localhost_and_ip_literals_reach_into_private_networks(pattern: str, url: str, reach: Reach) -> None:
    assert allowed([pattern], url) == Match(pattern, reach)


@pytest.mark.parametrize(
    ("private", "url", "reach"),
    [
        ("http://llm.internal", "http://llm.internal/v1", Reach.PRIVATE),
        ("http://llm.internal/v1/**", "http://llm.internal/v1/x", Reach.PRIVATE),
        ("http://llm.internal/v1/**", "http://llm.internal/v2/x", Reach.PUBLIC),
        ("http://llm.internal:81", "http://llm.internal/", Reach.PUBLIC),
        ("llm.internal", "http://llm.internal/", Reach.PUBLIC),
        ("http://*.internal", "http://llm.internal/", Reach.PRIVATE),
        ("http://**", "http://127.0.0.1/", Reach.LITERAL),
    ],
)
def test_a_pattern_of_private_urls_lifts_the_address_rules(private: str, url: str, reach: Reach) -> None:
    match = Allowlist(["http://llm.internal", "http://127.0.0.1"], [private]).match(parse_url(url.encode()))
    assert match is not None
    assert match.reach is reach


def test_a_pattern_of_private_urls_allows_nothing_by_itself() -> None:
    assert Allowlist([], ["http://llm.internal"]).match(parse_url(b"http://llm.internal/")) is None
    assert Allowlist(["https://a.example"], ["http://**"]).match(parse_url(b"http://llm.internal/")) is None
    with pytest.raises(PatternError):
        Allowlist(["https://a.example"], ["http://*"])


def test_a_pattern_that_names_the_host_goes_before_one_that_does_not() -> None:
    for patterns in (["http://**", "http://localhost/v1/*"], ["http://localhost/v1/*", "http://**"]):
        assert allowed(patterns, "http://localhost/v1/x") == Match("http://localhost/v1/*", Reach.PRIVATE)
        assert allowed(patterns, "http://localhost/v2/x") == Match("http://**", Reach.PUBLIC)


def why_not(pattern: str, url: str) -> str:
    allowlist = Allowlist([pattern])
    assert allowlist.match(parse_url(url.encode())) is None
    return allowlist.why_not(parse_url(url.encode()))


@pytest.mark.parametrize("encoded", ["%2f", "%5C", "%252F", "%25%32%66", "%2525255c"])
def test_a_refusal_for_an_encoded_separator_says_so(encoded: str) -> None:
    pattern = "https://bedrock.example/model/*/converse"
    assert "%2F" in why_not(pattern, f"https://bedrock.example/model/arn{encoded}x/converse")
    assert "%2F" not in why_not(pattern, f"https://elsewhere.example/model/arn{encoded}x/converse")
    assert "%2F" not in why_not(pattern, "https://bedrock.example/model/arn/x/converse")
    assert "allowlist" in why_not(pattern, "https://bedrock.example/model/arn/x/converse")


BAD = {
    "empty": [""],
    "write ** for any name": ["*", "https://*", "http://*:8000/**", "https://*/v1/**", "*:*"],
    "for everything below": [
        "https://api.openai.com/v1/", "https://api.openai.com/", "api.openai.com/", "https://a.example/v1/*/",
        "https://a.example/**/", "https://a.example/v1/**/", "http://localhost:11434/",
    ],
    "empty segment": ["https://a.example//v1", "https://a.example/v1//**", "https://a.example//**", "a.example/x,https://b/x"],
    "does not reach into the path": ["https://api.openai.com*", "https://api.openai.com*/**", "*.example.c*"],
    "space, a control or a non-ASCII": [
        " ", " https://a.example", "https://a.example ", "https://a.example/\n", "https://a.example\x00",
        "https://a b/", "https://bücher.example/**", "https://ａ.example", "\u200bhttps://a.example",
        "https://a.example/\x7f",
    ],
    "backslash": ["https:\\\\a.example", "https://a.example\\x", "https://a.example/\\*"],
    "query": ["https://a.example/?x=1", "https://a.example?", "https://a.example/v?"],
    "fragment": ["https://a.example/#x", "https://a.example#"],
    "userinfo": ["https://user@a.example", "https://u:p@a.example/**", "https://@a.example", "*@a.example",
    "u:p@a.example"],
    "scheme": ["ftp://a.example", "ws://a.example/**", "*://a.example", "http*://a.example", "://a.example",
    "file:///etc"],
    "no host": ["https://", "http:///v1", "/v1/**", "//a.example/**", ":443", "https://:443/**", "/"],
    "port": [
        "https://a.example:", "https://a.example:0", "https://a.example:65536", "https://a.example:80*",
        "https://a.example:**", "https://a.example:+1", "https://a.example:080", "https://a.example:x/**",
        "https:/a.example", "http://[::1]:", "https://a.example:-1", "https://a.example:1_0",
    ],
    "plain name": [
        "https://a..example", "https://.example", "https://a.example.", "https://*..example", "https://-a.example",
        "https://*.-a", "https://*.", "https://{a,b}.example", "https://a$b", "https://" + "a" * 64,
    ],
    "character that no host name has": ["https://*.a,b", "https://*%2eexample", "https://[*]/", "https://[::*]"],
    "must stand alone": [
        "https://**.example.com", "https://a.**", "https://a.**.example", "https://a**", "https://***", "https://**x/",
    ],
    "number": ["http://2130706433", "http://127.1", "http://0x7f000001", "http://010.0.0.1",
    "http://a*.0x1"],
    "an address cannot contain a wildcard": ["http://*.1", "http://10.0.0.*", "http://10.*", "http://*.0.0.1",
    "http://192.168.*.*", "http://1*"],
    "canonical": ["http://[0:0:0:0:0:0:0:1]", "http://[::0001]", "http://[fe80::1%25eth0]", "http://[::1.2.3.4]"],
    "disguise": ["http://[::ffff:102:304]"],
    "IPv6": ["http://[]", "http://[x]", "http://[127.0.0.1]"],
    "malformed": ["a.example:80:80", "http://[::1", "http://::1", "http://::1]/**", "http://[::1]x/", "http://x[::1]/"],
    "whole segment": ["https://a.example/x**", "https://a.example/**x", "https://a.example/***",
    "https://a.example/a**b/c"],
    "segment": ["https://a.example/../x", "https://a.example/./**", "https://a.example/.", "https://a.example/%2e%2e/x",
                "https://a.example/..;/x"],
    "encoded": ["https://a.example/%00", "https://a.example/%0a/**", "https://a.example/%c0%ae", "https://a.example/%252525252541"],
    "character that no path has": [
        "https://a.example/{a,b}", "https://a.example/[ab]", "https://a.example/a|b", "https://a.example/<x>",
        "https://a.example/%", "https://a.example/%2", "https://a.example/%zz", "https://a.example/^x",
        'https://a.example/"',
    ],
    "path is free": ["https://a.example/a%2fb", "https://a.example/a%5C*/**", "https://a.example/%252f", "https://a.example/%25%32%66*"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("reason", "pattern"), [(reason, pattern) for reason, texts in BAD.items() for pattern in texts]
)
def test_a_bad_pattern_stops_the_start_with_its_text_and_the_reason(reason: str, pattern: str) -> None:
    with pytest.raises(PatternError) as error:
        Allowlist(["https://fine.example/**", pattern])
    assert error.value.pattern == pattern
    assert reason in error.value.reason
    assert repr(pattern) in str(error.value)
    assert error.value.reason in str(error.value)
    assert "\n" not in str(error.value)


def test_hostile_paths_do_not_make_matching_explode() -> None:
    """With backtracking these would not end: they are long repetitions that fail at their last byte."""
    stars = Allowlist(["https://a.example/" + "a*" * 40 + "b", "https://a.example/" + "**/a*a/" * 20 + "b"])
    for path in ("a" * 8000, "a/" * 4000, "aa/" * 2500 + "c"):
        assert stars.match(parse_url(f"https://a.example/{path}".encode())) is None
    hosts = Allowlist(["https://" + "a*" * 20 + "b.example", "https://" + "*." * 30 + "b"])
    for host in ("a" * 60 + ".example", "a." * 100 + "a"):
        assert hosts.match(parse_url(f"https://{host}/".encode())) is None


@pytest.mark.parametrize(
    ("pattern", "whole"),
    [
        ("api.example.com", "https://api.example.com:443/**"),
        ("HTTP://LocalHost:*/a/**", "http://localhost:*/a/**"),
        ("https://*.example.com/v1/*/a*b", "https://*.example.com:443/v1/*/a*b"),
        ("http://[::1]:8080/**/b", "http://[::1]:8080/**/b"),
        ("**", "https://**:443/**"),
    ],
)
def test_a_rule_is_shown_as_a_pattern_that_leaves_nothing_out(pattern: str, whole: str) -> None:
    rule = compile_pattern(pattern)
    assert str(rule) == whole
    assert replace(compile_pattern(whole), pattern=pattern) == rule
