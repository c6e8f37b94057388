"""Which fields cross: the create request to the upstream, and the upstream's answer back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.forwarding import PassedHeaders, content_encoding, content_type, passed_headers, upstream_headers
from proxy.wire.headers import Field, Headers
from proxy.wire.url import parse_url

URL = parse_url(b"https://api.example/v1")
PASSED = PassedHeaders(
    ["Retry-After", "Retry-After-Ms", "X-Should-Retry", "Request-Id", "X-Request-Id", "X-RateLimit-*",
     "Anthropic-RateLimit-*", "OpenAI-*"]
)  # fmt: skip


def forwarded(*items: Field, url: bytes = b"https://api.example/v1") -> list[Field]:
    """What reaches the upstream beside Host and Accept-Encoding, which every test of them checks itself."""
    fields = list(upstream_headers(Headers(items), parse_url(url)))
    assert fields[0][0] == b"host"
    assert fields[-1] == (b"accept-encoding", b"identity")
    return fields[1:-1]


def test_fields_cross_in_order_and_repeated_ones_stay_repeated() -> None:
    items = [
        (b"x-b", b"1"),
        (b"content-type", b"application/json"),
        (b"x-a", b"2"),
        (b"x-b", b"3"),
        (b"accept", b"*/*"),
    ]
    assert forwarded(*items) == items


@pytest.mark.parametrize(
    "name",
    [
        b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te",
        b"trailer", b"trailers", b"transfer-encoding", b"upgrade", b"authorization", b"expect", b"content-length",
        b"cookie", b"upstream-url", b"upstream-method", b"upstream-status", b"upstream-anything-new",
    ],
)  # fmt: skip
def test_what_is_for_this_hop_or_for_the_proxy_stops_here(name: bytes) -> None:
    assert forwarded((name, b"value"), (b"x", b"y")) == [(b"x", b"y")]
    assert forwarded((name.title(), b"value"), (name.upper(), b"again")) == []


@pytest.mark.parametrize(
    "name",
    [
        b"idempotency-key", b"origin", b"referer", b"user-agent", b"accept", b"content-type", b"content-encoding",
        b"openai-organization", b"anthropic-version", b"x-api-key", b"x-stainless-retry-count", b"range", b"if-match",
        b"x-upstream-url", b"x-authorization",
    ],
)  # fmt: skip
def test_the_rest_of_the_callers_fields_cross(name: bytes) -> None:
    assert forwarded((name, b"value")) == [(name, b"value")]


@pytest.mark.parametrize(
    "values",
    [
        [b"x-hop"],
        [b"X-Hop"],
        [b"close, X-Hop"],
        [b"close ,\tx-hop , ,"],
        [b"close", b"keep-alive", b"x-hop"],
        [b",x-hop,"],
    ],
)
def test_what_connection_names_is_for_this_hop(values: list[bytes]) -> None:
    connection = [(b"connection", value) for value in values]
    assert forwarded((b"x-hop", b"1"), *connection, (b"x-hop", b"2"), (b"x-hops", b"3")) == [(b"x-hops", b"3")]


def test_connection_cannot_take_away_what_the_proxy_sets() -> None:
    named = (b"connection", b"host, accept-encoding, authorization, upstream-authorization")
    fields = list(upstream_headers(Headers([named, (b"upstream-authorization", b"Bearer k")]), URL))
    assert fields == [(b"host", b"api.example"), (b"authorization", b"Bearer k"), (b"accept-encoding", b"identity")]


@pytest.mark.parametrize(
    ("url", "host"),
    [
        (b"https://api.example/", b"api.example"),
        (b"http://api.example:80/", b"api.example"),
        (b"https://api.example:8443/", b"api.example:8443"),
        (b"http://[::1]:4440/", b"[::1]:4440"),
    ],
)
def test_host_is_the_upstreams_and_comes_first(url: bytes, host: bytes) -> None:
    headers = upstream_headers(Headers([(b"a", b"b"), (b"host", b"proxy.example")]), parse_url(url))
    assert next(iter(headers)) == (b"host", host)
    assert headers.get_all(b"host") == [host]


def test_identity_is_asked_for_whatever_the_caller_accepts() -> None:
    headers = upstream_headers(Headers([(b"accept-encoding", b"gzip"), (b"accept-encoding", b"br")]), URL)
    assert headers.get_all(b"accept-encoding") == [b"identity"]


def test_upstream_authorization_replaces_authorization() -> None:
    fields = forwarded((b"authorization", b"Bearer service"), (b"a", b"1"), (b"Upstream-Authorization", b"Bearer sk"))
    assert fields == [(b"a", b"1"), (b"authorization", b"Bearer sk")]


@pytest.mark.parametrize("upstream", [[], [(b"upstream-authorization", b"")]])
def test_authorization_for_the_proxy_never_crosses(upstream: list[Field]) -> None:
    assert forwarded((b"authorization", b"Bearer service"), *upstream) == []


field_names = st.from_regex(rb"[a-z][a-z-]{0,12}", fullmatch=True)
field_lists = st.lists(st.tuples(field_names, st.sampled_from([b"1", b"a, b", b"keep-alive"])), max_size=12)


@given(field_lists)
def test_what_crosses_is_the_callers_list_with_some_left_out(items: list[Field]) -> None:
    remaining = iter(items)
    for item in forwarded(*items):
        assert item in remaining  # consumes up to the match: order and count are kept


@pytest.mark.parametrize(
    ("name", "passes"),
    [
        (b"retry-after", True), (b"retry-after-ms", True), (b"x-should-retry", True), (b"request-id", True),
        (b"x-request-id", True), (b"x-ratelimit-limit-requests", True), (b"x-ratelimit-", True),
        (b"anthropic-ratelimit-tokens-reset", True), (b"openai-organization", True), (b"openai-processing-ms", True),
        (b"set-cookie", False), (b"set-cookie2", False), (b"strict-transport-security", False), (b"server", False),
        (b"access-control-allow-origin", False), (b"content-security-policy", False), (b"x-ratelimit", False),
        (b"x-request-ids", False), (b"cf-ray", False), (b"location", False), (b"www-authenticate", False),
        (b"content-length", False), (b"transfer-encoding", False), (b"connection", False), (b"upstream-status", False),
        (b"stream-closed", False), (b"content-type", False), (b"cache-control", False), (b"link", False),
    ],
)  # fmt: skip
def test_of_the_upstreams_fields_only_the_listed_come_back(name: bytes, passes: bool) -> None:
    headers = Headers([(b"date", b"now"), (name, b"1"), (name, b"2")])
    assert passed_headers(headers, PASSED) == ([(name, b"1"), (name, b"2")] if passes else [])


def test_what_the_upstreams_connection_names_does_not_come_back() -> None:
    headers = Headers([(b"connection", b"X-Request-Id"), (b"x-request-id", b"1"), (b"request-id", b"2")])
    assert passed_headers(headers, PASSED) == [(b"request-id", b"2")]


def test_an_empty_list_lets_nothing_back() -> None:
    assert passed_headers(Headers([(b"retry-after", b"1"), (b"x", b"y")]), PassedHeaders([])) == []


def test_a_wide_prefix_still_lets_nothing_dangerous_back() -> None:
    passed = PassedHeaders(["s*", "a*", "c*", "u*", "X-*"])
    names = [
        b"set-cookie", b"strict-transport-security", b"access-control-allow-origin", b"alt-svc", b"content-length",
        b"content-security-policy-report-only", b"cross-origin-opener-policy", b"upstream-outcome",
        b"stream-next-offset", b"connection", b"upgrade", b"x-content-type-options", b"clear-site-data",
    ]  # fmt: skip
    assert [name for name in names if name in passed] == []
    assert b"server" in passed
    assert b"x-anything" in passed


@pytest.mark.parametrize(
    "pattern",
    ["", "*", "a b", "a*b", "*a", "a**", "X-Ümlaut", "X-\u212aelvin", "a:", "Set-Cookie", "set-cookie*",
     "Access-Control-*",
     "Upstream-*", "stream-closed", "Strict-Transport-Security", "Connection", "Content-Length"],
)  # fmt: skip
def test_a_setting_that_is_malformed_or_never_passes_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="passed header"):
        PassedHeaders(["Retry-After", pattern])


OCTETS = b"application/octet-stream"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([b"text/event-stream"], b"text/event-stream"),
        ([b"Text/HTML; charset=UTF-8"], b"Text/HTML; charset=UTF-8"),
        ([b'application/json ; q="a, b"'], b'application/json ; q="a, b"'),
        ([b"application/vnd.a+json;v=1"], b"application/vnd.a+json;v=1"),
        ([b"text/plain", b"text/plain"], b"text/plain"),
        ([], OCTETS),
        ([b""], OCTETS),
        ([b"text"], OCTETS),
        ([b"text/"], OCTETS),
        ([b"/plain"], OCTETS),
        ([b"text/plain, text/html"], OCTETS),
        ([b"text/pl\xe4in"], OCTETS),
        ([b"text/plain; charset=\xff"], OCTETS),
        ([b"text/plain", b"text/html"], OCTETS),
    ],
)
def test_the_content_type_is_the_upstreams_if_it_can_be_used(values: list[bytes], expected: bytes) -> None:
    assert content_type(Headers([(b"content-type", value) for value in values])) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], None),
        ([b""], None),
        ([b"identity"], None),
        ([b"Identity"], None),
        ([b"gzip"], b"gzip"),
        ([b"gzip, br"], b"gzip, br"),
        ([b"gzip", b"br"], b"gzip, br"),
        ([b"gz ip"], None),
        ([b"gzip\xff"], None),
    ],
)
def test_a_content_encoding_that_came_unasked_is_named(values: list[bytes], expected: bytes | None) -> None:
    assert content_encoding(Headers([(b"content-encoding", value) for value in values])) == expected
