"""Which headers cross, to the upstream and back, and the CORS and hardening headers of every answer."""

import gzip
import uuid
from collections.abc import Callable

import httpx
import pytest

from tests.conformance.caller import Caller
from tests.kit.upstream import HANG, Seen, Upstream, chunked, fixed

Fields = list[tuple[str, str]]


def _sent(caller: Caller, upstream: Upstream, *fields: tuple[str, str], content: bytes = b"") -> Seen:
    """What the upstream sees of a create with these fields."""
    route = upstream.serve(fixed())
    caller.create(route.url, headers=fields, content=content)
    [seen] = route.requests
    return seen


# To the upstream


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Custom", "value"),
        ("x-lower", "value"),
        ("X-Api-Key", "sk-1234"),
        ("Anthropic-Version", "2023-06-01"),
        ("OpenAI-Organization", "org-1"),
        ("Content-Type", "application/json; charset=utf-8"),
        ("Accept", "text/event-stream, */*;q=0.1"),
        ("Accept-Language", "de, en;q=0.5"),
        ("User-Agent", "someone/1.0 (and more)"),
        ("If-None-Match", '"abc"'),
        ("Range", "bytes=0-9"),
        ("Idempotency-Key", "opaque"),
        ("Traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("Tracestate", "vendor=1"),
        ("X-Odd", "a  b\tc,;=\"'"),
        ("X-Empty", ""),
        ("Stream-Seq", "1"),
        ("X-Upstream-Url", "not ours"),
        ("Date", "Tue, 15 Nov 1994 08:12:31 GMT"),
    ],
)
def test_the_callers_headers_go_upstream_as_they_are(caller: Caller, upstream: Upstream, name: str, value: str) -> None:
    if name == "Idempotency-Key":
        value += str(uuid.uuid4())
    assert _sent(caller, upstream, (name, value)).get_all(name) == [value]


def test_a_value_that_is_not_ascii_goes_upstream_byte_for_byte(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(fixed())
    plain = [*caller.bearer.items(), ("Upstream-URL", route.url), ("Upstream-Method", "GET")]
    headers = [(name.encode(), value.encode()) for name, value in plain]
    caller.stream(caller.http.post("/v1/proxy", headers=[*headers, (b"X-Name", "J\u00f6rg".encode())]))
    assert (b"x-name", "J\u00f6rg".encode()) in [(name.lower(), value) for name, value in route.requests[0].headers]


def test_repeated_headers_stay_repeated_and_in_order(caller: Caller, upstream: Upstream) -> None:
    fields = [("X-A", "1"), ("X-B", "2"), ("X-A", "3"), ("x-c", "4"), ("X-a", "1")]
    seen = _sent(caller, upstream, *fields)
    kept = [(name.decode().lower(), value.decode()) for name, value in seen.headers if name.lower().startswith(b"x-")]
    assert kept == [(name.lower(), value) for name, value in fields]


@pytest.mark.http1_only
@pytest.mark.parametrize("more", [[], [("X-Odd", "a\tb")]], ids=["a plain head", "an unusual head"])
def test_names_go_upstream_as_they_were_spelled(
    caller: Caller, upstream: Upstream, more: list[tuple[str, str]]
) -> None:
    fields = [("X-API-Key", "1"), ("anthropic-Version", "2"), ("x-lower", "3"), *more]
    names = {name.decode() for name, _ in _sent(caller, upstream, *fields, ("upstream-authorization", "k")).headers}
    assert names >= {"X-API-Key", "anthropic-Version", "x-lower", "Host", "Authorization"}


def test_a_field_that_the_request_s_signature_covers_goes_upstream_as_it_came(
    caller: Caller, upstream: Upstream
) -> None:
    signature = "AWS4-HMAC-SHA256 Credential=A/20260101/us-east-1/bedrock/aws4_request, SignedHeaders={}, Signature=ab"
    for names, sent in (("accept;accept-encoding;host", "gzip, br"), ("accept;host", "identity")):
        fields = [("Upstream-Authorization", signature.format(names)), ("Accept-Encoding", "gzip, br")]
        seen = _sent(caller, upstream, *fields)
        assert seen.get_all("Accept-Encoding") == [sent]
        assert seen.get("Authorization") == signature.format(names)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Connection", "keep-alive"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Authenticate", "Basic"),
        ("Proxy-Authorization", "Basic Zm9v"),
        ("Proxy-Connection", "keep-alive"),
        ("TE", "trailers"),
        ("Trailer", "X-After"),
        ("Trailers", "X-After"),
        ("Upgrade", "websocket"),
        ("Cookie", "session=of-the-proxys-origin"),
        ("Origin", "https://app.example.com"),
        ("Referer", "https://app.example.com/chat"),
        ("Sec-Fetch-Site", "cross-site"),
        ("sec-ch-ua-platform", "Linux"),
        ("DNT", "1"),
        ("Forwarded", "for=192.0.2.1"),
        ("X-Forwarded-For", "192.0.2.1"),
        ("X-Forwarded-Host", "proxy.example.com"),
        ("X-Real-IP", "192.0.2.1"),
        ("Via", "1.1 edge"),
        ("CF-Connecting-IP", "192.0.2.1"),
        ("CDN-Loop", "cloudflare"),
        ("True-Client-IP", "192.0.2.1"),
        ("Fastly-FF", "abc"),
        ("X-Amzn-Trace-Id", "Root=1-67891233-abcdef012345678912345678"),
        ("X-Original-URL", "/admin"),
        ("X-Rewrite-URL", "/admin"),
        ("X-HTTP-Method-Override", "DELETE"),
        ("Upstream-Something", "of this protocol"),
        ("Upstream-Outcome", "complete"),
        ("uPsTrEaM-x", "of this protocol"),
    ],
)
def test_what_belongs_to_this_hop_stops_here(caller: Caller, upstream: Upstream, name: str, value: str) -> None:
    assert value not in _sent(caller, upstream, (name, value)).get_all(name)


@pytest.mark.http1_only
@pytest.mark.parametrize("connection", ["X-Hop", "x-hop, close", "keep-alive ,X-HOP", "close,,x-hop,"])
def test_a_header_that_connection_names_stops_here(caller: Caller, upstream: Upstream, connection: str) -> None:
    seen = _sent(caller, upstream, ("Connection", connection), ("X-Hop", "1"), ("X-Stays", "2"))
    assert (seen.get("X-Hop"), seen.get("X-Stays")) == (None, "2")


def test_the_protocols_own_headers_stop_here(caller: Caller, upstream: Upstream) -> None:
    seen = _sent(caller, upstream, ("Upstream-Authorization", "Bearer sk-up"))
    assert not [name for name, _ in seen.headers if name.lower().startswith(b"upstream-")]


def test_the_host_is_the_upstreams_with_its_port(caller: Caller, upstream: Upstream) -> None:
    assert _sent(caller, upstream).get("Host") == f"localhost:{upstream.port}"


@pytest.mark.parametrize("value", ["Bearer sk-upstream", "Basic Zm9vOmJhcg==", "sk-plain", 'Signature keyId="a",x="y"'])
def test_upstream_authorization_becomes_authorization(caller: Caller, upstream: Upstream, value: str) -> None:
    assert _sent(caller, upstream, ("Upstream-Authorization", value)).get("Authorization") == value


def test_the_service_secret_goes_nowhere(caller: Caller, upstream: Upstream) -> None:
    seen = _sent(caller, upstream)
    assert seen.get("Authorization") is None
    route = upstream.serve(fixed(), path="/q?mine=1")
    headers = {"Upstream-URL": route.url, "Upstream-Method": "GET"}
    caller.http.post("/v1/proxy", params={"secret": caller.secret}, headers=headers)
    for request in (seen, *route.requests):
        assert caller.secret not in request.target.decode()
        assert caller.secret.encode() not in b"".join(name + value for name, value in request.headers)


def test_an_authorization_that_is_not_ours_goes_nowhere_either(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(fixed())
    headers = {"Upstream-URL": route.url, "Upstream-Method": "GET", "Authorization": "Basic Zm9v"}
    assert caller.http.post("/v1/proxy", params={"secret": caller.secret}, headers=headers).status_code == 201
    assert route.requests[0].get("Authorization") is None


@pytest.mark.parametrize("asked", ["gzip, br", "identity", "*", ""])
def test_the_upstream_is_asked_for_identity(caller: Caller, upstream: Upstream, asked: str) -> None:
    assert _sent(caller, upstream, ("Accept-Encoding", asked)).get_all("Accept-Encoding") == ["identity"]


@pytest.mark.parametrize("content", [b"", b"12345"])
@pytest.mark.parametrize("by_chunks", [False, True])
def test_the_framing_is_the_proxys(caller: Caller, upstream: Upstream, content: bytes, by_chunks: bool) -> None:
    route = upstream.serve(fixed())
    caller.create(route.url, content=iter([content] if content else []) if by_chunks else content)
    [seen] = route.requests
    assert seen.body == content
    assert len(seen.get_all("Content-Length")) + len(seen.get_all("Transfer-Encoding")) <= 1


def test_expect_is_between_the_caller_and_the_proxy(caller: Caller, upstream: Upstream) -> None:
    seen = _sent(caller, upstream, ("Expect", "100-continue"), content=b"body")
    assert (seen.get("Expect"), seen.body) == (None, b"body")


# Back from the upstream

PASSED: Fields = [
    ("Retry-After", "7"),
    ("Retry-After-Ms", "7000"),
    ("X-Should-Retry", "false"),
    ("Request-Id", "req_1"),
    ("X-Request-Id", "req_2"),
    ("X-RateLimit-Limit-Requests", "60"),
    ("x-ratelimit-reset-tokens", "6m0s"),
    ("Anthropic-RateLimit-Tokens-Remaining", "5"),
    ("OpenAI-Processing-Ms", "12"),
    ("OpenAI-Organization", "org"),
]
KEPT_BACK: Fields = [
    ("Set-Cookie", "a=b"),
    ("Access-Control-Allow-Credentials", "true"),
    ("Access-Control-Allow-Headers", "x-evil"),
    ("Strict-Transport-Security", "max-age=1"),
    ("Content-Security-Policy", "default-src x"),
    ("Server", "upstream/1"),
    ("X-Powered-By", "upstream"),
    ("Via", "1.1 upstream"),
    ("ETag", '"upstream"'),
    ("WWW-Authenticate", "Basic"),
    ("X-Custom", "value"),
    ("Upstream-Outcome", "complete"),
    ("Stream-Next-Offset", "9"),
    ("Idempotent-Replay", "true"),
    ("Keep-Alive", "timeout=99"),
    ("Alt-Svc", 'h3=":1"'),
    ("Clear-Site-Data", '"*"'),
]


@pytest.mark.parametrize("status", [200, 429])
@pytest.mark.parametrize(("name", "value"), PASSED)
def test_what_sdks_go_by_passes(caller: Caller, upstream: Upstream, status: int, name: str, value: str) -> None:
    answer = caller.post(upstream.serve(fixed(b"{}", (name, value), status=status)).url)
    assert answer.status_code == (201 if status == 200 else 502)
    assert answer.headers.get_list(name) == [value]
    exposed = {each.strip().lower() for each in answer.headers["access-control-expose-headers"].split(",")}
    assert name.lower() in exposed


@pytest.mark.parametrize("status", [200, 429])
@pytest.mark.parametrize(("name", "value"), KEPT_BACK)
def test_whatever_else_the_upstream_says_stays_back(
    caller: Caller, upstream: Upstream, status: int, name: str, value: str
) -> None:
    answer = caller.post(upstream.serve(fixed(b"{}", (name, value), status=status)).url)
    assert answer.status_code == (201 if status == 200 else 502)
    assert value not in answer.headers.get_list(name)


@pytest.mark.parametrize("status", [200, 500])
def test_the_upstreams_cors_headers_do_not_replace_ours(caller: Caller, upstream: Upstream, status: int) -> None:
    script = fixed(b"", ("Access-Control-Allow-Origin", "https://evil.example"), status=status)
    answer = caller.post(upstream.serve(script).url, headers={"Origin": "https://app.example.com"})
    assert answer.headers.get_list("access-control-allow-origin") in (["*"], ["https://app.example.com"])


def test_an_encoding_that_came_unasked_is_named_and_the_bytes_stay(caller: Caller, upstream: Upstream) -> None:
    data = gzip.compress(b"inflated nowhere" * 10)
    answer = caller.post(upstream.serve(fixed(data, ("Content-Encoding", "gzip"))).url)
    assert answer.headers["upstream-content-encoding"] == "gzip"
    assert "content-encoding" not in answer.headers
    whole = caller.stream(answer).whole()
    assert whole.data == data
    assert whole.last.headers["upstream-content-encoding"] == "gzip"
    assert "content-encoding" not in whole.last.headers


def test_no_encoding_is_not_named(caller: Caller, upstream: Upstream) -> None:
    answer = caller.post(upstream.serve(fixed(b"x")).url)
    assert "upstream-content-encoding" not in answer.headers
    assert "upstream-content-encoding" not in caller.stream(answer).whole().last.headers


# On every answer


def _answers() -> dict[str, Callable[[Caller, Upstream], httpx.Response]]:
    def stream_of(caller: Caller, upstream: Upstream, data: bytes = b"x") -> str:
        stream = caller.create(upstream.serve(fixed(data)).url)
        stream.whole()
        return stream.url

    missing = f"/v1/proxy/{uuid.uuid4()}"
    return {
        "health": lambda caller, _: caller.http.get("/health"),
        "201": lambda caller, upstream: caller.post(upstream.serve(fixed()).url),
        "400": lambda caller, _: caller.post(None),
        "401": lambda caller, _: caller.http.get(missing),
        "403": lambda caller, _: caller.post("http://other.example/"),
        "404 path": lambda caller, _: caller.http.get("/nothing"),
        "404 stream": lambda caller, _: caller.http.get(missing, headers=caller.bearer),
        "405": lambda caller, _: caller.http.put("/v1/proxy"),
        "502 of upstream": lambda caller, upstream: caller.post(upstream.serve(fixed(b"", status=500)).url),
        "read": lambda caller, upstream: caller.http.get(stream_of(caller, upstream)),
        "read bad offset": lambda caller, upstream: caller.http.get(stream_of(caller, upstream) + "&offset=x"),
        "head": lambda caller, upstream: caller.http.head(
            stream_of(caller, upstream).partition("?")[0], headers=caller.bearer
        ),
        "sse": lambda caller, upstream: caller.http.get(stream_of(caller, upstream) + "&offset=-1&live=sse"),
        "abort": lambda caller, upstream: caller.http.patch(stream_of(caller, upstream) + "&action=abort"),
        "delete": lambda caller, _: caller.http.delete(missing, headers=caller.bearer),
        "preflight": lambda caller, _: caller.http.options("/v1/proxy"),
    }


@pytest.mark.parametrize("which", list(_answers()))
def test_every_answer_is_open_to_browsers_and_hardened(caller: Caller, upstream: Upstream, which: str) -> None:
    answer = _answers()[which](caller, upstream)
    assert answer.headers.get_list("access-control-allow-origin") == ["*"]
    assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
    assert answer.headers.get_list("cross-origin-resource-policy") == ["cross-origin"]


def test_a_304_is_open_to_browsers_too(caller: Caller, upstream: Upstream) -> None:
    stream = caller.create(upstream.serve(fixed(b"x")).url)
    stream.whole()
    etag = stream.get(offset="-1").headers["etag"]
    answer = stream.get(offset="-1", headers={"If-None-Match": etag})
    assert answer.status_code == 304
    assert answer.headers["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("which", ["201", "read", "head", "sse", "502 of upstream"])
def test_scripts_may_read_every_header_of_the_protocol_that_is_sent(
    caller: Caller, upstream: Upstream, which: str
) -> None:
    answer = _answers()[which](caller, upstream)
    exposed = {each.strip().lower() for each in answer.headers["access-control-expose-headers"].split(",")}
    ours = {
        name for name in answer.headers if name.startswith(("stream-", "upstream-")) or name in ("location", "etag")
    }
    assert ours <= exposed
    assert {"location", "upstream-content-type", "upstream-status", "upstream-outcome", "idempotent-replay"} <= exposed


# Preflight


@pytest.mark.parametrize("path", ["/v1/proxy", f"/v1/proxy/{uuid.uuid4()}", "/health", "/anything", "/"])
def test_a_preflight_is_answered_on_every_path_without_a_credential(caller: Caller, path: str) -> None:
    headers = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "POST"}
    answer = caller.http.options(path, headers=headers)
    assert (answer.status_code, answer.content) == (204, b"")
    methods = {each.strip() for each in answer.headers["access-control-allow-methods"].split(",")}
    assert {"GET", "POST", "PATCH", "DELETE", "HEAD"} <= methods


def test_a_preflight_allows_the_protocols_headers_and_whatever_else_is_asked_for(caller: Caller) -> None:
    asked = "x-custom, anthropic-version,X-Api-Key"
    headers = {"Origin": "https://app.example.com", "Access-Control-Request-Headers": asked}
    answer = caller.http.options("/v1/proxy", headers=headers)
    allowed = {each.strip().lower() for each in answer.headers["access-control-allow-headers"].split(",")}
    assert allowed >= {
        "upstream-url", "upstream-authorization", "upstream-method", "content-type", "authorization", "idempotency-key",
        "if-none-match", "x-custom", "anthropic-version", "x-api-key",
    }  # fmt: skip


def test_options_star_is_answered(caller: Caller) -> None:
    with caller.raw() as peer:
        peer.send(f"OPTIONS * HTTP/1.1\r\nHost: {peer.host}\r\n\r\n".encode())
        assert peer.response().status == 204


def test_a_read_in_progress_names_its_headers_before_the_end(caller: Caller, upstream: Upstream) -> None:
    stream = caller.create(upstream.serve(chunked(b"one", HANG)).url)
    with stream.live() as live:
        live.until(b"one")
        assert live.response.headers["access-control-allow-origin"] == "*"
        assert live.response.headers["upstream-content-type"] == "text/event-stream"
        assert "upstream-outcome" not in live.response.headers
    stream.abort()
