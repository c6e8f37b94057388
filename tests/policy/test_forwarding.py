"""Which fields cross: the create request to the upstream, and the upstream's answer back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.forwarding import (
    ForwardedHeaders,
    PassedHeaders,
    content_encoding,
    content_type,
    upstream_headers,
)
from proxy.policy.signed import signed_names
from proxy.wire.headers import Field, Headers
from proxy.wire.url import parse_url

URL = parse_url(b"https://api.example/v1")
PASSED = PassedHeaders(
    ["Retry-After", "Retry-After-Ms", "X-Should-Retry", "Request-Id", "X-Request-Id", "X-RateLimit-*",
     "Anthropic-RateLimit-*", "OpenAI-*"],
    max_bytes=8192,
)  # fmt: skip
NONE = ForwardedHeaders([])


def forwarded(*items: Field, url: bytes = b"https://api.example/v1") -> list[Field]:
    """What reaches the upstream beside Host and Accept-Encoding, which every test of them checks itself."""
    fields = list(upstream_headers(Headers(items), parse_url(url), NONE))
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
        b"cookie", b"origin", b"referer", b"sec-fetch-site", b"sec-ch-ua", b"sec-gpc", b"sec-anything-new", b"dnt",
        b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-anything", b"x-forwarded", b"x-real-ip",
        b"x-real-port", b"via", b"cf-connecting-ip", b"cf-ray", b"cdn-loop", b"true-client-ip", b"fastly-client-ip",
        b"x-amzn-trace-id", b"x-original-url", b"x-original-host", b"x-original-uri", b"x-rewrite-url",
        b"x-http-method-override", b"x-http-method", b"x-method-override", b"x-client-ip", b"x-cluster-client-ip",
        b"client-ip", b"x-envoy-external-address", b"x-cloud-trace-context", b"x-amz-cf-id", b"akamai-origin-hop",
        b"cloudfront-viewer-country", b"x-azure-clientip", b"x-appengine-country", b"fly-client-ip", b"early-data",
        b"x-vercel-forwarded-for", b"x-nf-client-connection-ip", b"client-cert", b"x-client-cert",
        b"x-amzn-mtls-clientcert",
        b"access-control-request-headers", b"save-data", b"x-request-start", b"x-host", b"proxy",
        b"x_forwarded_for", b"x-original_url",
    ],
)  # fmt: skip
def test_what_the_browser_or_a_gateway_says_of_the_first_hop_stops_here(name: bytes) -> None:
    assert forwarded((name, b"value"), (b"x", b"y")) == [(b"x", b"y")]
    assert forwarded((name.title(), b"value"), (name.upper(), b"again")) == []
    allowed = ForwardedHeaders([name.decode().title()])
    assert (name, b"value") in list(upstream_headers(Headers([(name, b"value")]), URL, allowed))


def test_fields_of_the_first_hop_are_let_through_by_name_or_prefix() -> None:
    items = [(b"cf-aig-authorization", b"1"), (b"cf-ray", b"2"), (b"origin", b"3"), (b"referer", b"4")]
    crossed = upstream_headers(Headers(items), URL, ForwardedHeaders(["CF-AIG-*", "Origin"]))
    assert [name for name, _ in crossed] == [b"host", b"cf-aig-authorization", b"origin", b"accept-encoding"]


def test_a_field_that_is_let_through_still_stops_where_connection_names_it() -> None:
    items = [(b"connection", b"origin"), (b"origin", b"1")]
    assert b"origin" not in upstream_headers(Headers(items), URL, ForwardedHeaders(["origin"]))


@pytest.mark.parametrize(
    "pattern",
    ["", "*", "a b", "*a", "a**", "Connection", "TE", "Host", "Authorization", "Content-Length", "Expect",
     "Accept-Encoding", "Upstream-URL", "upstream-*", "Proxy-Authorization", "Transfer-Encoding", "\u212aelvin"],
)  # fmt: skip
def test_a_setting_that_could_break_framing_or_give_away_our_credentials_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="forwarded header"):
        ForwardedHeaders(["Origin", pattern])


def test_a_wide_prefix_still_forwards_nothing_that_is_ours() -> None:
    names = [b"authorization", b"content-length", b"connection", b"host", b"upstream-url", b"upgrade", b"expect"]
    wide = ForwardedHeaders([f"{letter}*" for letter in "abcdefghijklmnopqrstvwxyz"] + ["up*", "ho*"])
    assert [name for name in names if name in wide] == []


@pytest.mark.parametrize(
    "name",
    [
        b"traceparent", b"tracestate", b"baggage", b"idempotency-key", b"x-amz-date", b"x-amz-security-token",
        b"x-goog-api-key", b"api-key", b"x-client-request-id", b"x-amzn-bedrock-trace", b"accept-language",
        b"last-event-id",
        b"user-agent", b"accept", b"content-type", b"content-encoding",
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
    fields = list(upstream_headers(Headers([named, (b"upstream-authorization", b"Bearer k")]), URL, NONE))
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
    headers = upstream_headers(Headers([(b"a", b"b"), (b"host", b"proxy.example")]), parse_url(url), NONE)
    assert next(iter(headers)) == (b"host", host)
    assert headers.get_all(b"host") == [host]


def test_identity_is_asked_for_whatever_the_caller_accepts() -> None:
    headers = upstream_headers(Headers([(b"accept-encoding", b"gzip"), (b"accept-encoding", b"br")]), URL, NONE)
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
    assert PASSED.of(headers) == ([(name, b"1"), (name, b"2")] if passes else [])


def test_what_the_upstreams_connection_names_does_not_come_back() -> None:
    headers = Headers([(b"connection", b"X-Request-Id"), (b"x-request-id", b"1"), (b"request-id", b"2")])
    assert PASSED.of(headers) == [(b"request-id", b"2")]


def test_an_empty_list_lets_nothing_back() -> None:
    assert PassedHeaders([], max_bytes=8192).of(Headers([(b"retry-after", b"1"), (b"x", b"y")])) == []


def test_a_wide_prefix_still_lets_nothing_dangerous_back() -> None:
    passed = PassedHeaders(["s*", "a*", "c*", "u*", "X-*"], max_bytes=8192)
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
        PassedHeaders(["Retry-After", pattern], max_bytes=8192)


def test_what_passes_back_is_bounded_and_small_fields_pass_beside_large_ones() -> None:
    """The record of a stream keeps them: without a bound an upstream could make it larger than what is read back."""
    passed = PassedHeaders(["x-*"], max_bytes=100)
    small, large = (b"x-small", b"1" * 10), (b"x-large", b"\xff" * 90)
    assert passed.of(Headers([small, large, small])) == [small, small]
    assert passed.of(Headers([large])) == []
    assert passed.of(Headers([(b"x-exact", b"1" * 89), small])) == [(b"x-exact", b"1" * 89)]
    many = passed.of(Headers([small] * 50))
    assert 0 < sum(len(name) + len(value) + len(": \r\n") for name, value in many) <= 100


# What a signature covers


def authorization(names: str, scheme: str = "AWS4-HMAC-SHA256") -> Field:
    value = f"{scheme} Credential=AKIA/20260101/us-east-1/bedrock/aws4_request, SignedHeaders={names}, Signature=ab12"
    return b"Upstream-Authorization", value.encode()


def test_a_signed_accept_encoding_is_forwarded_as_it_came_and_in_its_place() -> None:
    items = [authorization("accept;accept-encoding;host;x-amz-date"), (b"Accept-Encoding", b"gzip, br"), (b"x", b"1")]
    fields = list(upstream_headers(Headers(items), URL, NONE))
    assert [name for name, _ in fields] == [b"host", b"authorization", b"accept-encoding", b"x"]
    assert fields[2] == (b"accept-encoding", b"gzip, br")


def test_without_a_signature_over_it_identity_is_asked_for() -> None:
    items = [authorization("accept;host"), (b"accept-encoding", b"gzip")]
    headers = upstream_headers(Headers(items), URL, NONE)
    assert headers.get_all(b"accept-encoding") == [b"identity"]


@pytest.mark.parametrize(
    "name", [b"origin", b"referer", b"cookie", b"x-amzn-trace-id", b"via", b"sec-fetch-mode", b"priority"]
)
def test_a_signed_field_of_the_first_hop_is_forwarded(name: bytes) -> None:
    signed = upstream_headers(Headers([authorization(f"host;{name.decode()}"), (name, b"1")]), URL, NONE)
    assert signed.get_all(name) == [b"1"]


@pytest.mark.parametrize(
    "name",
    [b"connection", b"te", b"transfer-encoding", b"expect", b"upgrade", b"proxy-authorization", b"upstream-url",
     b"content-length", b"x-original-url", b"x-rewrite-url", b"x-http-method-override", b"x-forwarded-host"],
)  # fmt: skip
def test_no_signature_lets_through_what_frames_the_message_or_reroutes_it(name: bytes) -> None:
    """Anybody can write a list of signed names down; the allowlist must not depend on it."""
    assert name not in upstream_headers(Headers([authorization(f"host;{name.decode()}"), (name, b"1")]), URL, NONE)


def test_a_signature_for_the_proxy_itself_lets_nothing_through() -> None:
    value = authorization("accept-encoding;origin")[1]
    items = [(b"authorization", value), (b"accept-encoding", b"gzip"), (b"origin", b"1")]
    assert forwarded(*items) == []


@pytest.mark.parametrize(
    ("fields", "url"),
    [
        ([authorization("accept-encoding")], b"/"),
        ([authorization("Accept-Encoding;Host")], b"/"),
        ([authorization("accept-encoding;host", "AWS4-ECDSA-P256-SHA256")], b"/"),
        ([authorization("host;accept-encoding", "GOOG4-RSA-SHA256")], b"/"),
        (
            [
                (
                    b"upstream-authorization",
                    b"ACS3-HMAC-SHA256 Credential=a,SignedHeaders=accept-encoding;host,Signature=b",
                )
            ],
            b"/",
        ),
        ([(b"upstream-authorization", b"HMAC-SHA256 SignedHeaders=host;accept-encoding&Signature=b")], b"/"),
        ([(b"upstream-authorization", b"AWS4-HMAC-SHA256 SignedHeaders=accept-encoding,Signature=x")], b"/"),
        (
            [
                (
                    b"upstream-authorization",
                    b'Signature keyId="a",headers="(request-target) host accept-encoding",signature="b"',
                )
            ],
            b"/",
        ),
        ([(b"signature", b'keyId="a", headers="Accept-Encoding date"')], b"/"),
        ([(b"signature-input", b'sig1=("@method" "accept-encoding");created=1')], b"/"),
        ([], b"/?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-SignedHeaders=accept-encoding%3Bhost&X-Amz-Signature=b"),
        ([], b"/?x-goog-signedheaders=host;accept-encoding"),
    ],
)
def test_each_scheme_says_in_its_way_that_a_field_is_signed(fields: list[Field], url: bytes) -> None:
    assert b"accept-encoding" in signed_names(Headers(fields), parse_url(b"https://api.example" + url))


@pytest.mark.parametrize(
    "fields",
    [[], [(b"upstream-authorization", b"Bearer accept-encoding")], [authorization("host;accept-encoding-x")],
     [(b"upstream-authorization", b"Bearer xSignedHeaders=accept-encoding")],
     [(b"signature-input", b"accept-encoding")], [(b"authorization", authorization("accept-encoding")[1])]],
)  # fmt: skip
def test_a_field_that_no_signature_names_is_not_signed(fields: list[Field]) -> None:
    assert b"accept-encoding" not in signed_names(Headers(fields), URL)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"upstream-authorization", b"signature", b"signature-input"]),
            st.text(alphabet=' ,;="()%aSignedHeaders-', max_size=60).map(str.encode),
        )
    )
)
def test_no_signature_makes_forwarding_fail(items: list[Field]) -> None:
    upstream_headers(Headers.trusted(items), parse_url(b"https://a.example/?x-amz-signedheaders=%;%zz"), NONE)


# Spelling


def test_names_go_on_as_the_caller_spelled_them() -> None:
    lines = b"Host: proxy\r\nX-API-Key: k\r\nanthropic-Version: 1\r\nUPSTREAM-AUTHORIZATION: Bearer k\r\nACCEPT: a\r\n"
    assert upstream_headers(Headers.unread(lines), URL, NONE).encode() == (
        b"Host: api.example\r\nX-API-Key: k\r\nanthropic-Version: 1\r\nAuthorization: Bearer k\r\nACCEPT: a\r\n"
        b"Accept-Encoding: identity\r\n"
    )


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
        ([b"text/plain; a=" + b"b" * 1024], OCTETS),
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
        ([b", ".join([b"gzip"] * 300)], None),
    ],
)
def test_a_content_encoding_that_came_unasked_is_named(values: list[bytes], expected: bytes | None) -> None:
    assert content_encoding(Headers([(b"content-encoding", value) for value in values])) == expected
