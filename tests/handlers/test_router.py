"""The router: which path and method is whose, what every response carries, and that no failure tells insides."""

import asyncio
import json
import logging
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.base.errors import Code, Refusal
from proxy.handlers.call import Call
from proxy.handlers.router import Router, error_response
from proxy.handlers.routes import Gate, Route
from proxy.http.body import BodyError, Cut, TooLarge, read_all
from proxy.http.message import Request, Response
from proxy.policy.auth import Keyring
from proxy.policy.caller import Access
from proxy.policy.cors import Cors
from proxy.streams.answers import StorageError
from proxy.wire.headers import Headers
from tests.http.kit import serving
from tests.kit.calls import Answer, Client

ID = "00000000-0000-4000-8000-000000000000"
NOW = 1_700_000_000.0
ORIGIN = "https://app.example"


BEARER = {"authorization": "Bearer the secret"}
KEYRING = Keyring(("the secret",))


def router_of(
    failure: BaseException | None = None,
    *,
    origins: tuple[str, ...] = (),
    needs: Mapping[bytes, Access] | None = None,
) -> Router:
    """Every operation answers with its name, or fails so; each asks for what is given, or for nothing."""

    def operation(name: str):  # type: ignore[no-untyped-def]  # an Operation
        async def answer(call: Call) -> Response:
            if failure is not None:
                raise failure
            return Response(
                200, Headers([(b"upstream-status", b"200"), (b"x-name", f"{name} {call.stream_id}".strip().encode())])
            )

        return answer

    async def static(request: Request) -> Response:
        return Response(200, Headers([(b"x-name", b"static")]))

    def route(name: str) -> Route:
        needed = (needs or {}).get(name.encode(), Access.ANYONE)
        return Route(name, needed, operation(name))

    creating = {b"POST": route("create")}
    return Router(
        {
            b"/v1/proxy": creating,
            b"/v1/proxy/": creating,
            b"/health": dict.fromkeys((b"GET", b"HEAD"), route("health")),
        },
        {name: route(name.decode()) for name in (b"GET", b"HEAD", b"PATCH", b"DELETE")},
        static=static,
        gate=Gate(KEYRING, lambda: NOW),
        cors=Cors(origins, max_age=60),
    )


async def ask(method: str, target: str, router: Router | None = None, **headers: str) -> Answer:
    return await Client(router or router_of()).call(method, target, **headers)


@pytest.mark.parametrize(
    ("method", "target", "name"),
    [
        ("POST", "/v1/proxy", "create "),
        ("POST", "/v1/proxy/", "create "),
        ("POST", "/v1/proxy?secret=x", "create "),
        ("GET", f"/v1/proxy/{ID}?offset=1", f"GET {ID}"),
        ("HEAD", f"/v1/proxy/{ID}", f"HEAD {ID}"),
        ("PATCH", f"/v1/proxy/{ID}", f"PATCH {ID}"),
        ("DELETE", f"/v1/proxy/{ID}", f"DELETE {ID}"),
        ("GET", "/health", "health "),
        ("HEAD", "/health?x", "health "),
        ("GET", "/static/client/index.js", "static"),
    ],
)
async def test_each_operation_has_its_place(method: str, target: str, name: str) -> None:
    found = await ask(method, target)
    assert (found.status, (found["x-name"] or "").strip()) == (200, name.strip())


@pytest.mark.parametrize(
    ("method", "target", "allow"),
    [
        ("GET", "/v1/proxy", "POST, OPTIONS"),
        ("DELETE", "/v1/proxy/", "POST, OPTIONS"),
        ("POST", f"/v1/proxy/{ID}", "GET, HEAD, PATCH, DELETE, OPTIONS"),
        ("PUT", f"/v1/proxy/{ID}", "GET, HEAD, PATCH, DELETE, OPTIONS"),
        ("get", f"/v1/proxy/{ID}", "GET, HEAD, PATCH, DELETE, OPTIONS"),
        ("POST", "/health", "GET, HEAD, OPTIONS"),
        ("DELETE", "/static/x", "GET, HEAD, OPTIONS"),
        ("TRACE", "/health", "GET, HEAD, OPTIONS"),
    ],
)
async def test_another_method_on_a_known_path_is_refused_with_those_that_are_allowed(
    method: str, target: str, allow: str
) -> None:
    found = await ask(method, target)
    assert (found.status, found["allow"]) == (405, allow)
    assert json.loads(found.body)["error"]["code"] == "METHOD_NOT_ALLOWED"


@pytest.mark.parametrize(
    "target",
    ["/", "/v1", "/v1/", f"/v1/proxy/{ID}/", f"/v1/proxy/{ID}/x", "/v1/proxy//", "/v1/proxyx", "/v2/proxy",
     "/V1/proxy", "//v1/proxy", "/health/", "/healthz", "/static", "*", "/v1/%70roxy", "/v1/proxy;x"],
)  # fmt: skip
async def test_an_unknown_path_is_not_found(target: str) -> None:
    found = await ask("GET", target)
    assert (found.status, json.loads(found.body)["error"]["code"]) == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    "spelling",
    [ID.upper().replace("0", "A"), "{" + ID + "}", ID.replace("-", ""), ID + "%00", ID + ".record", "..",
     "%2e%2e", "x", ID[:-1], ID + "0", "urn:uuid:" + ID, " " + ID, ID.replace("0", "%30", 1)],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "HEAD", "PATCH", "DELETE"])
async def test_an_id_in_any_other_spelling_is_no_stream(method: str, spelling: str) -> None:
    found = await ask(method, f"/v1/proxy/{spelling}")
    assert (found.status, json.loads(found.body)["error"]["code"]) == (404, "STREAM_NOT_FOUND")


NEEDS = {
    b"create": Access.CREATE,
    b"GET": Access.READ,
    b"HEAD": Access.METADATA,
    b"PATCH": Access.ABORT,
    b"DELETE": Access.DELETE,
}


@pytest.mark.parametrize("spelling", [ID, ID.upper(), "some-id", "..", "x%00", "%C3%A9", "\xff"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PATCH", "DELETE"])
async def test_without_credentials_nothing_is_said_about_an_id(method: str, spelling: str) -> None:
    router = router_of(needs=NEEDS)
    found = await ask(method, f"/v1/proxy/{spelling}", router)
    expected = "MISSING_SIGNATURE" if method == "PATCH" else "MISSING_SECRET"
    assert (found.status, json.loads(found.body)["error"]["code"]) == (401, expected)
    half = await ask(method, f"/v1/proxy/{spelling}?signature=x&expires=9", router)
    expected = {"GET": "SIGNATURE_INVALID", "PATCH": "SIGNATURE_INVALID"}.get(method, "MISSING_SECRET")
    assert (half.status, json.loads(half.body)["error"]["code"]) == (401, expected)


async def test_the_method_is_looked_at_before_the_credential_and_the_credential_before_the_id() -> None:
    router = router_of(needs=NEEDS)
    assert (await ask("PUT", "/v1/proxy/some-id", router)).status == 405
    assert (await ask("GET", "/v1/proxy/some-id", router)).status == 401
    assert (await ask("GET", "/v1/proxy/some-id", router, **BEARER)).status == 404
    assert (await ask("GET", f"/v1/proxy/{ID}", router, **BEARER)).status == 200
    assert (await ask("POST", "/v1/proxy", router)).status == 401
    assert (await ask("POST", "/v1/proxy", router, **BEARER)).status == 200
    assert (await ask("GET", "/health", router)).status == 200


@pytest.mark.parametrize(
    ("method", "signed", "bearer", "status"),
    [
        ("GET", True, False, 200), ("GET", False, True, 200), ("GET", False, False, 401), ("GET", True, True, 200),
        ("PATCH", True, False, 200), ("PATCH", False, True, 401),
        ("HEAD", True, False, 401), ("HEAD", False, True, 200),
        ("DELETE", True, False, 401), ("DELETE", False, True, 200),
    ],
)  # fmt: skip
async def test_each_operation_takes_the_credential_that_its_route_declares(
    method: str, signed: bool, bearer: bool, status: int
) -> None:
    router = router_of(needs=NEEDS)
    expires = int(NOW) + 1
    query = f"?expires={expires}&signature={KEYRING.sign(ID, expires)}" if signed else ""
    assert (await ask(method, f"/v1/proxy/{ID}{query}", router, **(BEARER if bearer else {}))).status == status


async def test_the_gate_judges_by_the_clock_that_it_was_given() -> None:
    router = router_of(needs=NEEDS)
    for expires, status in ((int(NOW), 401), (int(NOW) + 1, 200)):
        target = f"/v1/proxy/{ID}?expires={expires}&signature={KEYRING.sign(ID, expires)}"
        assert (await ask("GET", target, router)).status == status


async def test_a_query_of_thousands_of_parameters_is_refused_before_it_is_parsed() -> None:
    router = router_of(needs=NEEDS)
    found = await ask("GET", f"/v1/proxy/{ID}?" + "a&" * 4000, router)
    assert (found.status, json.loads(found.body)["error"]["code"]) == (400, "INVALID_REQUEST")
    assert (await ask("GET", f"/v1/proxy/{ID}?" + "a&" * 31, router, **BEARER)).status == 200


@settings(max_examples=50)
@given(st.binary(max_size=40), st.sampled_from(["GET", "POST", "DELETE", "OPTIONS", "PATCH"]))
def test_any_target_gets_an_answer(target: bytes, method: str) -> None:
    router = router_of()
    for prefix in (b"/", b"/v1/proxy/", b"/v1/proxy?", b"/v1/proxy/" + ID.encode() + b"?"):
        request = Request(method.encode(), prefix + target, Headers())
        response = asyncio.run(_call(router, request))
        assert response.status in (200, 204, 400, 404, 405)


async def _call(router: Router, request: Request) -> Response:
    return await router(request)


async def test_options_is_answered_on_any_path_by_anyone() -> None:
    for target in ("/v1/proxy", f"/v1/proxy/{ID}", "/health", "/nowhere", "*", "/v1/proxy/x"):
        found = await ask("OPTIONS", target, origin=ORIGIN, access_control_request_headers="X-Own")
        assert (found.status, found.body) == (204, b"")
        assert "x-own" in (found["access-control-allow-headers"] or "")
        assert "PATCH" in (found["access-control-allow-methods"] or "")


SECRET_TEXT = "a sentence of the inside"
FAILURES: list[tuple[BaseException, Code]] = [
    (Refusal(Code.OVERLOADED, "later"), Code.OVERLOADED),
    (Refusal(Code.MISSING_SECRET, "who"), Code.MISSING_SECRET),
    (StorageError(SECRET_TEXT), Code.STORAGE_ERROR),
    (StorageError(SECRET_TEXT, is_final=True), Code.STORAGE_ERROR),
    (Refusal(Code.STORAGE_UNAVAILABLE, "later"), Code.STORAGE_UNAVAILABLE),
    (TooLarge(), Code.REQUEST_TOO_LARGE),
    (RuntimeError(SECRET_TEXT), Code.INTERNAL_ERROR),
    (KeyError(SECRET_TEXT), Code.INTERNAL_ERROR),
    (RecursionError(), Code.INTERNAL_ERROR),
    (OSError(24, SECRET_TEXT), Code.INTERNAL_ERROR),
]


@pytest.mark.parametrize(("failure", "expected"), FAILURES)
@pytest.mark.parametrize("origins", [(), (ORIGIN,)])
async def test_every_failure_is_json_without_insides_and_with_cors(
    failure: BaseException, expected: Code, origins: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    router = router_of(failure, origins=origins)
    found = await ask("GET", f"/v1/proxy/{ID}?signature=CANARY", router, origin=ORIGIN, authorization="Bearer CANARY")
    assert found.status == expected.status
    error = json.loads(found.body)
    assert set(error) == {"error"}
    assert set(error["error"]) == {"code", "message"}
    assert error["error"]["code"] == expected.value
    assert SECRET_TEXT not in found.body.decode()
    assert found["content-type"] == "application/json"
    assert found["cache-control"] == "no-store"
    assert found["access-control-allow-origin"] == (ORIGIN if origins else "*")
    assert found["x-content-type-options"] == "nosniff"
    assert found["cross-origin-resource-policy"] == "cross-origin"
    may_help = isinstance(failure, StorageError) and not failure.is_final
    assert (found["retry-after"] is not None) is (expected.status == 503 or may_help)
    assert (found["www-authenticate"] is not None) is (expected.status == 401)
    assert "CANARY" not in caplog.text


async def test_a_request_body_that_broke_off_and_a_cancellation_are_not_answered() -> None:
    with pytest.raises(BodyError):
        await ask("GET", f"/v1/proxy/{ID}", router_of(BodyError(Cut.RESET)))
    with pytest.raises(asyncio.CancelledError):
        await ask("GET", f"/v1/proxy/{ID}", router_of(asyncio.CancelledError()))


async def test_every_response_carries_cors_and_hardening() -> None:
    for method, target in (("GET", f"/v1/proxy/{ID}"), ("GET", "/health"), ("GET", "/static/x"), ("GET", "/no")):
        found = await ask(method, target)
        assert found["access-control-allow-origin"] == "*"
        assert found["x-content-type-options"] == "nosniff"
        exposed = ", ".join(value.decode() for value in found.headers.get_all(b"access-control-expose-headers"))
        assert "Upstream-Outcome" in exposed
    refused = router_of().refuse(Refusal(Code.BAD_REQUEST, "no"), None)
    assert (refused.status, refused.headers.get(b"access-control-allow-origin")) == (400, b"*")


def refused_requests(origin: bytes) -> dict[str, tuple[int, bytes]]:
    """Every kind of request that the HTTP server refuses by itself, and the status that it gets."""
    post = b"POST /v1/proxy HTTP/1.1\r\nHost: h\r\n" + origin
    chunked = post + b"Transfer-Encoding: chunked\r\n\r\n"
    return {
        "a bad request": (400, post + b"Content-Length: -1\r\n\r\n"),
        "a control character": (400, post + b"X: \x01\r\n\r\n"),
        "cut short in its head": (400, post),
        "cut short in its body": (400, post + b"Content-Length: 9\r\n\r\nhalf"),
        "a head too slow": (408, post + b"X"),
        "a body too slow": (408, post + b"Content-Length: 9\r\n\r\nhalf"),
        "a declared length too large": (413, post + b"Content-Length: 2000000\r\n\r\n"),
        "a length too large and unusual": (413, post + b"X:\r\nContent-Length: 2000000\r\n\r\n"),
        "a counted length too large": (413, chunked + b"%x\r\n%b" % (1 << 21, bytes(1 << 21))),
        "a target too long": (414, b"GET /%b HTTP/1.1\r\nHost: h\r\n%b\r\n" % (b"x" * 2000, origin)),
        "an expectation": (417, post + b"Expect: more\r\n\r\n"),
        "a head too large": (431, post + b"X: %b\r\n\r\n" % (b"x" * 5000)),
        "too many fields": (431, post + 60 * b"X: 1\r\n" + b"\r\n"),
        "a coding": (501, post + b"Transfer-Encoding: gzip\r\n\r\n"),
        "a version": (505, b"GET / HTTP/2.0\r\nHost: h\r\n%b\r\n" % origin),
    }


@pytest.mark.parametrize("name", refused_requests(b""))
async def test_what_the_server_itself_refuses_is_for_the_same_origins(name: str) -> None:
    async def reading(request: Request) -> Response:
        await read_all(request.body, 1 << 22)
        raise AssertionError("a refused request was run")

    line = b"Origin: " + ORIGIN.encode() + b"\r\n"
    foreign = b"Origin: https://evil.example\r\n"
    for origins, sent, allowed in (
        ((ORIGIN,), line, ORIGIN),
        ((ORIGIN,), line.replace(b"Origin:", b"ORIGIN: "), ORIGIN),
        ((ORIGIN,), foreign, None),
        ((ORIGIN,), b"", None),
        ((), line, "*"),
        ((), b"", "*"),
    ):
        status, raw = refused_requests(sent)[name]
        timeout = 0.05 if "slow" in name else 60.0
        refuse = router_of(origins=origins).refuse
        async with serving(reading, refuse, head_timeout_seconds=timeout, body_timeout_seconds=timeout) as served:
            peer = await served.connect(raw)
            if "cut short" in name:
                peer.writer.write_eof()
            answer = await peer.response()
            assert answer.status == status
            assert answer.headers.get("access-control-allow-origin") == allowed
            assert answer.headers.get("vary") == ("Origin" if origins else None)
            assert answer.headers["cross-origin-resource-policy"] == "cross-origin"


async def test_a_refused_request_behind_another_is_for_its_own_origin() -> None:
    router = router_of(origins=(ORIGIN,))
    first = b"GET /health HTTP/1.1\r\nHost: h\r\nOrigin: https://evil.example\r\n\r\n"
    second = b"GET /health HTTP/1.1\r\nHost: h\r\nOrigin: %b\r\nExpect: more\r\n\r\n" % ORIGIN.encode()
    async with serving(router, router.refuse) as served:
        peer = await served.connect(first + second)
        assert "access-control-allow-origin" not in (await peer.response()).headers
        refused = await peer.response()
        assert (refused.status, refused.headers["access-control-allow-origin"]) == (417, ORIGIN)


@pytest.mark.parametrize("code", list(Code))
def test_every_code_makes_its_answer(code: Code) -> None:
    response = error_response(Refusal(code, "why"))
    assert response.status == code.status
    assert response.body.length
