"""CORS and the hardening fields, as they stand on every response."""

import pytest

from proxy.policy.cors import Cors
from proxy.wire.headers import Headers

HARDENING = {(b"x-content-type-options", b"nosniff"), (b"cross-origin-resource-policy", b"cross-origin")}
EXPOSED = {
    b"location", b"upstream-content-type", b"upstream-content-encoding", b"upstream-status", b"upstream-outcome",
    b"idempotent-replay", b"etag", b"retry-after", b"retry-after-ms", b"x-should-retry", b"request-id", b"x-request-id",
    b"stream-next-offset", b"stream-cursor", b"stream-up-to-date", b"stream-closed", b"stream-sse-data-encoding",
    b"stream-ttl", b"stream-expires-at",
}  # fmt: skip


def names(value: bytes | None) -> set[bytes]:
    return {name.strip().lower() for name in (value or b"").split(b",") if name.strip()}


@pytest.mark.parametrize("origins", [[], ["*"], ["https://a.example", "*"]])
@pytest.mark.parametrize("origin", [None, b"https://a.example", b"null", b"", b"\xff"])
def test_by_default_any_origin_may_read(origins: list[str], origin: bytes | None) -> None:
    headers = Headers(Cors(origins, max_age=5).response_headers(origin))
    assert headers.get_all(b"access-control-allow-origin") == [b"*"]
    assert b"vary" not in headers
    assert b"access-control-allow-credentials" not in headers
    assert set(headers) >= HARDENING
    assert names(headers.get(b"access-control-expose-headers")) == EXPOSED


@pytest.mark.parametrize("origin", [b"https://a.example", b"http://localhost:3000", b"tauri://localhost"])
def test_a_configured_origin_is_named_with_vary(origin: bytes) -> None:
    cors = Cors(["https://A.example:443", "http://localhost:3000", "tauri://localhost"], max_age=5)
    headers = Headers(cors.response_headers(origin))
    assert headers.get_all(b"access-control-allow-origin") == [origin]
    assert headers.get_all(b"vary") == [b"Origin"]
    assert set(headers) >= HARDENING
    assert names(headers.get(b"access-control-expose-headers")) == EXPOSED


@pytest.mark.parametrize(
    "origin",
    [None, b"", b"null", b"*", b"http://a.example", b"https://a.example.evil", b"https://evil-a.example",
     b"https://a.example:444", b"https://a.example/", b"https://sub.a.example", b"\xff"],
)  # fmt: skip
def test_another_origin_gets_no_access_and_still_varies(origin: bytes | None) -> None:
    headers = Headers(Cors(["https://a.example"], max_age=5).response_headers(origin))
    assert b"access-control-allow-origin" not in headers
    assert headers.get_all(b"vary") == [b"Origin"]
    assert set(headers) >= HARDENING


def test_the_fields_are_made_once() -> None:
    cors = Cors(["https://a.example"], max_age=5)
    assert cors.response_headers(b"https://a.example") is cors.response_headers(b"https://a.example")
    assert cors.response_headers(None) is cors.response_headers(b"https://b.example")


@pytest.mark.parametrize(
    "origin",
    ["", "a.example", "https://", "https://a.example/", "https://a.example/x", "https://u@a.example",
     "https://*.example",
     "null", "https://a.example:0", "https://a example", "https://ä.example", "https://\u212aelvin.example",
     "https://a.example\r\nX: y"],
)  # fmt: skip
def test_an_origin_that_no_browser_sends_is_refused(origin: str) -> None:
    with pytest.raises(ValueError, match="CORS origin"):
        Cors(["https://b.example", origin], max_age=5)


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST", b"PATCH", b"DELETE", b"OPTIONS"])
def test_preflight_allows_the_methods(method: bytes) -> None:
    headers = Cors([], max_age=5).preflight(Headers())
    assert method.lower() in names(headers.get(b"access-control-allow-methods"))


ALWAYS_ALLOWED = {
    b"upstream-url", b"upstream-authorization", b"upstream-method", b"content-type", b"authorization",
    b"idempotency-key", b"if-none-match",
}  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "more"),
    [
        ([], set()),
        ([b""], set()),
        ([b"x-stainless-os"], {b"x-stainless-os"}),
        ([b"X-A, x-b,,x-a", b"X-C"], {b"x-a", b"x-b", b"x-c"}),
        ([b"Upstream-URL,content-type"], set()),
        ([b"a b, x-ok, \xff, c:d"], {b"x-ok"}),
    ],
)
def test_preflight_allows_our_fields_and_whatever_the_browser_asks_for(asked: list[bytes], more: set[bytes]) -> None:
    request = Headers([(b"access-control-request-headers", value) for value in asked])
    headers = Cors([], max_age=5).preflight(request)
    assert len(headers.get_all(b"access-control-allow-headers")) == 1
    allowed = (headers.get(b"access-control-allow-headers") or b"").split(b", ")
    assert set(allowed) == ALWAYS_ALLOWED | more
    assert len(allowed) == len(set(allowed))


def test_preflight_carries_what_every_response_does_and_how_long_it_holds() -> None:
    cors = Cors(["https://a.example"], max_age=600)
    headers = cors.preflight(Headers([(b"origin", b"https://a.example")]))
    assert set(cors.response_headers(b"https://a.example")) <= set(headers)
    assert headers.get(b"access-control-max-age") == b"600"
    assert b"access-control-allow-origin" not in cors.preflight(Headers([(b"origin", b"https://b.example")]))


def test_fields_of_a_prefix_are_exposed_when_they_are_there() -> None:
    response = Headers(
        [
            (b"x-ratelimit-limit", b"1"),
            (b"openai-version", b"2"),
            (b"x-ratelimit-limit", b"3"),
            (b"stream-forked-from", b"x"),
        ]
    )
    (field,) = Cors([], max_age=5).exposed(response)
    assert field == (b"access-control-expose-headers", b"x-ratelimit-limit, openai-version, stream-forked-from")


def test_nothing_is_added_for_what_is_exposed_already_or_needs_no_exposing() -> None:
    cors = Cors([], max_age=5)
    own = [(name, b"1") for name in EXPOSED]
    plain = [(b"content-type", b"a/b"), (b"content-length", b"1"), (b"cache-control", b"no-store"), (b"date", b"now")]
    assert cors.exposed(Headers([*own, *plain, *cors.response_headers(None)])) == ()


def test_every_field_is_fit_for_the_wire() -> None:
    cors = Cors(["https://a.example"], max_age=5)
    for fields in (cors.response_headers(b"https://a.example"), cors.response_headers(None), cors.preflight(Headers())):
        assert list(Headers(fields)) == list(fields)  # Headers validates, and would lower the case of names
