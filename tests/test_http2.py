"""HTTP/2 at the port of a real process: other clients than ours, many reads on one connection, and no smuggling."""

import asyncio
import base64
import json
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.conformance.caller import Caller
from tests.kit.certificates import Authority
from tests.kit.h2_peers import H2Peer, H2Response
from tests.kit.proxy_process import ProxyProcess
from tests.kit.scripts import GATE, chunked, fixed
from tests.kit.upstream import Upstream

SECRET = "a-secret-of-more-than-thirty-two-bytes-in-all"
ALLOW = "http://localhost:*/**"


def needs(command: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(command) is None, reason=f"there is no {command}")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    data = ["--data-dir", str(tmp_path_factory.mktemp("data")), "--allow", ALLOW]
    with ProxyProcess(data, env={"PROXY_SECRET": SECRET}) as proxy:
        yield proxy
        assert "Traceback" not in proxy.output, proxy.output
        assert proxy.stop() == 0


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Other clients


@needs("curl")
def test_curl_creates_and_reads_by_prior_knowledge(proxy: ProxyProcess, upstream: Upstream, tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(b"request " * 50_000)
    route = upstream.serve(fixed(b"answer" * 40_000))
    call = ("curl", "-sS", "--http2-prior-knowledge", "-w", "%{stderr}%{http_version} %{http_code}")
    headers = (
        "-H",
        f"Authorization: Bearer {SECRET}",
        "-H",
        f"Upstream-URL: {route.url}",
        "-H",
        "Upstream-Method: POST",
    )
    head = run(*call, "-D", "-", "-o", "/dev/null", *headers, "--data-binary", f"@{body}", f"{proxy.url}/v1/proxy")
    assert head.startswith("HTTP/2 201")
    location = next(line.split(": ", 1)[1] for line in head.splitlines() if line.lower().startswith("location: "))
    url = location if "://" in location else proxy.url + location
    assert route.requests[0].body == body.read_bytes()
    got = run(*call, f"{url}&offset=-1&live=long-poll")
    assert got  # as much as has arrived
    assert ("answer" * 40_000).startswith(got)


@needs("curl")
def test_curl_agrees_on_http2_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    data = ["--data-dir", str(tmp_path / "data"), "--allow", ALLOW]
    with ProxyProcess([*authority.pair("proxy").flags, *data], env={"PROXY_SECRET": SECRET}) as proxy:
        for flag, version in (("--http2", "2"), ("--http1.1", "1.1")):
            call = ("curl", "-sS", flag, "--cacert", str(authority.ca_file), "-o", "/dev/null")
            assert run(*call, "-w", "%{http_version} %{http_code}", f"{proxy.url}/health") == f"{version} 200"
        assert proxy.stop() == 0


@needs("nghttp")
def test_nghttp_fetches_many_at_once(proxy: ProxyProcess) -> None:
    """nghttp sends priorities and pushes its own settings, and it is the library that many clients use."""
    output = run("nghttp", "-nv", "-m", "20", "--no-dep", f"{proxy.url}/health")
    assert output.count(":status: 200") == 20


@needs("h2load")
def test_h2load_gets_every_answer(proxy: ProxyProcess) -> None:
    output = run("h2load", "-n", "3000", "-c", "4", "-m", "100", f"{proxy.url}/health")
    assert "3000 succeeded, 0 failed, 0 errored" in output


def _has(response: H2Response, text: bytes) -> bool:
    return base64.b64encode(text) in response.body


async def test_many_live_streams_are_read_on_one_connection_while_another_is_created_and_aborted(
    proxy: ProxyProcess, upstream: Upstream
) -> None:
    """Over HTTP/1.1 a browser has six connections: with as many reads open its own POST and its abort never leave.

    Not with httpx: one of its idle readers waits for the socket while others wait behind it with what they need.
    """
    place = urlsplit(proxy.url)
    peer = H2Peer(*await asyncio.open_connection(place.hostname, place.port))

    async def create(url: str) -> str:
        fields = (("authorization", f"Bearer {SECRET}"), ("upstream-url", url), ("upstream-method", "POST"))
        created = await peer.response(peer.ask("/v1/proxy", "POST", fields))
        assert created.status == 201
        return created.headers["location"].removeprefix(proxy.url)

    routes = [upstream.serve(chunked(b"first", GATE, b"last")) for _ in range(12)]
    reads = [peer.ask(f"{await create(route.url)}&offset=-1&live=sse") for route in routes]
    for word in (b"first", b"last"):
        for stream in reads:
            await peer.until(partial(_has, peer.responses[stream], word))
        if word == b"first":
            other = upstream.serve(chunked(b"never ending", GATE))
            aborted = await peer.response(peer.ask(f"{await create(other.url)}&action=abort", "PATCH"))
            assert aborted.status in (200, 204)
            await asyncio.to_thread(other.wait_cut)
            for route in routes:
                route.release()
    for stream in reads:
        assert (await peer.response(stream)).ended
    peer.close()


# Smuggling: what arrives over HTTP/2 goes on over HTTP/1.1, as one request or not at all

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"

FIELDS: dict[str, list[tuple[bytes, bytes]]] = {
    "transfer-encoding": [(b"transfer-encoding", b"chunked")],
    "transfer-encoding, not chunked": [(b"transfer-encoding", b"identity")],
    "transfer-encoding in upper case": [(b"Transfer-Encoding", b"chunked")],
    "transfer_encoding": [(b"transfer_encoding", b"chunked")],
    "transfer-encoding with a blank": [(b"transfer-encoding ", b"chunked")],
    "transfer-encoding in a value": [(b"x", b"y\r\ntransfer-encoding: chunked")],
    "transfer-encoding behind a bare line feed": [(b"x", b"y\ntransfer-encoding: chunked")],
    "transfer-encoding in a name": [(b"x: y\r\ntransfer-encoding", b"chunked")],
    "a length that is too short": [(b"content-length", b"0")],
    "a length that is too long": [(b"content-length", b"10000")],
    "two lengths": [(b"content-length", b"%d" % len(SMUGGLED)), (b"content-length", b"0")],
    "a length with a sign": [(b"content-length", b"+%d" % len(SMUGGLED))],
    "a length with a zero before it": [(b"content-length", b"0%d" % len(SMUGGLED))],
    "a length in a list": [(b"content-length", b"%d, %d" % (len(SMUGGLED), len(SMUGGLED)))],
    "content_length": [(b"content_length", b"0")],
    "a request in a value": [(b"x", b"y\r\n\r\n" + SMUGGLED)],
    "a request in a name": [(b"x: y\r\n\r\nGET /smuggled HTTP/1.1\r\nz", b"y")],
    "a request in the upstream's method": [(b"upstream-method", b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\nPOST")],
    "a request in the path": [(b":path", b"/v1/proxy HTTP/1.1\r\n\r\n" + SMUGGLED)],
    "a request in the method": [(b":method", b"POST / HTTP/1.1\r\n\r\n" + SMUGGLED + b"POST")],
    "a request in the authority": [(b":authority", b"h\r\n\r\n" + SMUGGLED)],
    "a request in the scheme": [(b":scheme", b"http://x/ HTTP/1.1\r\n\r\n" + SMUGGLED)],
    "connection": [(b"connection", b"content-length")],
    "upgrade": [(b"upgrade", b"h2c"), (b"connection", b"upgrade")],
    "expect": [(b"expect", b"100-continue")],
    "trailer": [(b"trailer", b"content-length")],
    "te": [(b"te", b"trailers")],
    "host": [(b"host", b"other")],
    "nothing odd": [],
}


@pytest.mark.parametrize("case", FIELDS)
async def test_a_request_goes_on_as_one_request_or_not_at_all(
    proxy: ProxyProcess, upstream: Upstream, case: str
) -> None:
    route = upstream.serve(fixed(b"ok"))
    place = urlsplit(proxy.url)
    peer = H2Peer(*await asyncio.open_connection(place.hostname, place.port), checks=False)
    odd = dict(FIELDS[case])
    head = {b":method": b"POST", b":scheme": b"http", b":authority": b"h", b":path": b"/v1/proxy"}
    own = {
        b"authorization": b"Bearer " + SECRET.encode(),
        b"upstream-url": route.url.encode(),
        b"upstream-method": b"POST",
    }
    fields = [(name, odd.get(name, value)) for name, value in (head | own).items()]
    fields += [field for field in FIELDS[case] if field[0] not in head | own]
    stream = peer.ask_raw(fields, SMUGGLED)
    response = await peer.response(stream)
    peer.close()
    is_odd = bool(FIELDS[case]) and case not in ("expect", "trailer", "te")
    assert (response.status or 400) // 100 == (4 if is_odd else 2), response
    assert len(route.requests) == (0 if is_odd else 1)
    assert upstream.strays == []
    for request in route.requests:
        assert request.body == SMUGGLED
        assert [name.lower() for name, _ in request.headers].count(b"content-length") == 1
        assert request.get("transfer-encoding") is None


def test_what_went_on_over_http2_is_what_goes_on_over_http1(proxy: ProxyProcess, upstream: Upstream) -> None:
    """The same request in both versions reaches the upstream with the same fields and body."""
    seen = []
    for http2 in (False, True):
        route = upstream.serve(fixed(b"ok"))
        caller = Caller(proxy.url, SECRET, http2=http2)
        more = [("X-One", "1"), ("X-Two", "a, b"), ("Accept", "text/plain"), ("Cookie", "a=1; b=2"), ("X-Empty", "")]
        caller.create(route.url, headers=more, content=json.dumps({"a": 1}).encode())
        caller.http.close()
        (request,) = route.requests
        seen.append((request.method, sorted((name.lower(), value) for name, value in request.headers), request.body))
    assert seen[0] == seen[1]
