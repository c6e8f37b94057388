"""Which upstream URLs are called, given the one pattern `http://localhost:*/**`; what is refused is never dialled."""

import httpx
import pytest

from tests.conformance.caller import Caller, code
from tests.kit.upstream import Upstream, fixed

REFUSED = (403, "UPSTREAM_NOT_ALLOWED")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/one",
        "/one/two/three/four/five",
        "/trailing/",
        "/double//slash",
        "/v1/models/a%2Fb",
        "/arn%3Aaws%5Cx",
        "/caf%C3%A9",
        "/%e2%9c%93",
        "/~user/(a),b;c=d/@e:f!$&'*+",
        "/.hidden/..name/a..b/...",
        "/q?x=1&x=2&y=%20&z=",
        "/q?url=http://other.example/../x",
        "/q??/",
    ],
)
def test_any_path_is_allowed_and_reaches_the_upstream_as_it_was_spelled(
    caller: Caller, upstream: Upstream, path: str
) -> None:
    route = upstream.serve(fixed(b"ok"), path=path)
    assert caller.create(route.url, "GET").whole().data == b"ok"
    [seen] = route.requests
    assert seen.target.decode() == route.url.removeprefix(upstream.url)


def test_a_url_without_path_asks_for_the_root(caller: Caller, upstream: Upstream) -> None:
    before = len(upstream.strays)
    answer = caller.post(upstream.url, "GET")
    assert (answer.status_code, answer.headers["upstream-status"]) == (502, "404")
    assert upstream.strays[before:] == [b"no route: /"]


def test_a_query_without_path_asks_for_the_root(caller: Caller, upstream: Upstream) -> None:
    before = len(upstream.strays)
    assert caller.post(upstream.url + "?a=b", "GET").headers["upstream-status"] == "404"
    assert upstream.strays[before:] == [b"no route: /?a=b"]


@pytest.mark.parametrize("spelled", ["HTTP://localhost", "http://LOCALHOST", "hTTp://LocalHost"])
def test_scheme_and_host_compare_without_case(caller: Caller, upstream: Upstream, spelled: str) -> None:
    route = upstream.serve(fixed(b"ok"))
    assert caller.create(route.url.replace("http://localhost", spelled), "GET").whole().data == b"ok"


def test_a_fragment_is_not_sent_to_the_upstream(caller: Caller, upstream: Upstream) -> None:
    route = upstream.serve(fixed(b"ok"))
    answer = caller.post(route.url + "#fragment", "GET")
    assert answer.status_code == 201 or code(answer) == REFUSED
    assert all(b"#" not in seen.target for seen in route.requests)


@pytest.mark.parametrize(
    "url",
    [
        "http://other.example{path}",
        "http://other.example:{port}{path}",
        "http://127.0.0.1:{port}{path}",
        "http://[::1]:{port}{path}",
        "http://[::ffff:127.0.0.1]:{port}{path}",
        "http://[::]:{port}{path}",
        "http://[fe80::1%25lo]:{port}{path}",
        "http://0.0.0.0:{port}{path}",
        "http://0:{port}{path}",
        "http://2130706433:{port}{path}",
        "http://0x7f000001:{port}{path}",
        "http://0x7f.0.0.1:{port}{path}",
        "http://0177.0.0.1:{port}{path}",
        "http://127.1:{port}{path}",
        "http://169.254.169.254{path}",
        "https://localhost:{port}{path}",
        "ftp://localhost:{port}{path}",
        "ws://localhost:{port}{path}",
        "file:///etc/hostname",
        "javascript:alert(1)",
        "data:text/plain,hello",
        "localhost:{port}{path}",
        "//localhost:{port}{path}",
        "{path}",
        "http:{path}",
        "http:/localhost:{port}{path}",
        "http:///localhost:{port}{path}",
        "http://:{port}{path}",
        "http://",
        "http://localhost.:{port}{path}",
        "http://.localhost:{port}{path}",
        "http://localhost.other.example:{port}{path}",
        "http://sub.localhost:{port}{path}",
        "http://notlocalhost:{port}{path}",
        "http://localhost%2eother.example:{port}{path}",
        "http://loc%61lhost:{port}{path}",
        "http://localhost%00:{port}{path}",
        "http://user@localhost:{port}{path}",
        "http://user:password@localhost:{port}{path}",
        "http://@localhost:{port}{path}",
        "http://:@localhost:{port}{path}",
        "http://localhost:{port}@other.example{path}",
        "http://localhost@other.example{path}",
        "http://other.example#@localhost:{port}{path}",
        "http://other.example?@localhost:{port}{path}",
        "http://other.example\\@localhost:{port}{path}",
        "http://localhost:{port}\\@other.example{path}",
        "http:\\\\localhost:{port}{path}",
        "http://localhost:{port}\\{path}",
        "http://localhost:99999{path}",
        "http://localhost:-1{path}",
        "http://localhost:+{port}{path}",
        "http://localhost:{port}x{path}",
        "http://localhost:0x50{path}",
        "http://localhost:{port}:80{path}",
        "http://[localhost]:{port}{path}",
        "http://localhost :{port}{path}",
        "http:// localhost:{port}{path}",
        "http://localhost:{port}{path}/a b",
        "http://localhost:{port}{path}/a\tb",
        "http://localhost:{port}{path}, http://localhost:{port}{path}",
    ],
)
def test_a_url_outside_the_pattern_is_refused(caller: Caller, upstream: Upstream, url: str) -> None:
    route, accepted = upstream.serve(fixed(b"no")), upstream.accepted
    path = route.url.removeprefix(upstream.url)
    assert code(caller.post(url.format(port=upstream.port, path=path), "GET")) == REFUSED
    assert (route.count, upstream.accepted) == (0, accepted)


@pytest.mark.parametrize(
    "path",
    [
        "/..",
        "/.",
        "/a/../b",
        "/a/./b",
        "/../../etc/passwd",
        "/a/%2e%2e/b",
        "/a/%2E%2E/b",
        "/a/.%2e/b",
        "/a/%2e./b",
        "/a/%2e/b",
        "/a/%252e%252e/b",
        "/a/%252E./b",
        "/a/..%2f..%2fb",
        "/a/..%5c..%5cb",
        "/a%00b",
        "/a%0ab",
        "/a%0d%0aHost:%20x",
        "/a%250d%250ab",
        "/a%1fb",
        "/a%7fb",
        "/a\\b",
        "/a\\..\\b",
    ],
)
def test_dot_segments_controls_and_backslashes_in_a_path_are_refused(
    caller: Caller, upstream: Upstream, path: str
) -> None:
    route = upstream.serve(fixed(b"no"))
    assert code(caller.post(route.url + path, "GET")) == REFUSED
    assert route.count == 0


@pytest.mark.parametrize(
    "host",
    [
        "localhost\u3002".encode(),  # an ideographic full stop
        "\uff4cocalhost".encode(),  # a full-width letter
        "localho\u017ft".encode(),  # a long s, equal to s without case
        "loca\u2113host".encode(),  # a script l
        b"localh\xf6st",
        "lo\u00adcalhost".encode(),  # a soft hyphen
    ],
)
def test_look_alikes_in_other_scripts_are_refused(caller: Caller, upstream: Upstream, host: bytes) -> None:
    accepted = upstream.accepted
    url = b"http://%b:%d/x" % (host, upstream.port)
    headers = [(b"authorization", caller.bearer["Authorization"].encode()), (b"upstream-method", b"GET")]
    answer = caller.http.post("/v1/proxy", headers=[*headers, (b"upstream-url", url)])
    assert answer.status_code in (400, 403)
    assert upstream.accepted == accepted


def test_two_upstream_urls_are_not_one(caller: Caller, upstream: Upstream) -> None:
    routes = [upstream.serve(fixed(b"no")) for _ in range(2)]
    headers = [*caller.bearer.items(), ("Upstream-Method", "GET")]
    answer = caller.http.post("/v1/proxy", headers=[*headers, *(("Upstream-URL", route.url) for route in routes)])
    assert answer.status_code in (400, 403)
    assert [route.count for route in routes] == [0, 0]


def test_nothing_is_said_about_the_patterns_in_a_refusal(caller: Caller) -> None:
    answer: httpx.Response = caller.post("http://other.example/", "GET")
    assert code(answer) == REFUSED
    assert "localhost" not in answer.text
