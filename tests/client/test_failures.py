"""An SDK behind a durable transport fails, retries and succeeds as it does on a direct connection, whatever happens.

Every test makes the same call twice, directly and through a real proxy process, and compares what the SDK raised or
returned, the `Retry-After` that it saw, and how often the upstream was called: through the proxy never more often.
"""

import importlib
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.client.sdks import KINDS, Kind, Sdk, dumped
from tests.kit.certificates import Certificates
from tests.kit.ports import refusing_port
from tests.kit.proxy_process import ProxyProcess
from tests.kit.scripts import HANG, RESET, Script, chunked, fixed
from tests.kit.upstream import Route, Upstream

SECRET = secrets.token_urlsafe(24)
RETRIES = 2

# One way of each SDK; the slow run has all of them.
CHOSEN = (Kind("openai", "httpx2", asynchronous=True), Kind("anthropic", "httpx2", asynchronous=False))
SDKS = [pytest.param(kind, id=str(kind), marks=() if kind in CHOSEN else pytest.mark.slow) for kind in KINDS]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    """A proxy with the embedded store."""
    allowed = ["http://localhost:*/**", "https://localhost:*/**", "http://*.invalid/**"]
    args = [part for each in allowed for part in ("--allow", each)]
    args += ["--data-dir", str(tmp_path_factory.mktemp("data"))]
    with ProxyProcess(args, env={"PROXY_SECRET": SECRET}) as proxy:
        yield proxy
        assert "Traceback" not in proxy.output


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """The service that is asked, directly and through the proxy."""
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(params=SDKS)
def sdk(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sdk]:
    """An SDK that waits hardly at all before it retries."""
    sdk = Sdk(request.param)
    monkeypatch.setattr(f"{sdk.kind.name}._base_client.INITIAL_RETRY_DELAY", 0.001)
    yield sdk
    sdk.close()


@dataclass(frozen=True)
class Seen:
    """What an SDK's caller saw: an exception with its status and wait, or the answer."""

    raised: type[BaseException] | None = None
    status: int | None = None
    retry_after: str | None = None
    answer: object = None


class Both:
    """The same calls, directly and through the proxy."""

    def __init__(self, sdk: Sdk, proxy: ProxyProcess) -> None:
        self._sdk = sdk
        self._proxy = proxy

    def call(self, url: str, *, durable: bool, streamed: bool = False, read: float = 20.0) -> Seen:
        """Make one call; `read` is the time-out for the next byte."""
        through = {"proxy": self._proxy.url, "secret": SECRET} if durable else {}
        library = importlib.import_module(self._sdk.kind.library)
        timeout = library.Timeout(20, read=read)
        client = self._sdk.client(url, max_retries=RETRIES, timeout=timeout, **through)
        try:
            if streamed:
                return Seen(answer=dumped(self._sdk.items(self._sdk.streamed(client))))
            return Seen(answer=self._sdk.whole(client).model_dump())
        except Exception as error:
            response = getattr(error, "response", None)
            if not isinstance(error, self._sdk.errors.APIStatusError) or response is None:
                return Seen(raised=type(error))
            return Seen(type(error), response.status_code, response.headers.get("retry-after"))

    def compare(self, upstream: Upstream, *scripts: Script, **options: Any) -> Seen:
        """Compare calls to an upstream that answers with these scripts, one request after the other."""
        routes: list[Route] = [upstream.serve(*scripts, path="") for _ in range(2)]
        direct, through = (
            self.call(route.url, durable=durable, **options)
            for durable, route in zip((False, True), routes, strict=True)
        )
        assert through == direct
        assert routes[1].count <= routes[0].count
        return direct


@pytest.fixture
def both(sdk: Sdk, proxy: ProxyProcess) -> Both:
    """Makes calls both ways."""
    return Both(sdk, proxy)


# Before the head


def test_a_refused_connection(both: Both, sdk: Sdk) -> None:
    with refusing_port() as port:
        url = f"http://localhost:{port}"
        direct, through = both.call(url, durable=False), both.call(url, durable=True)
    assert through == direct == Seen(sdk.errors.APIConnectionError)


def test_an_upstream_that_refuses_at_first(both: Both, sdk: Sdk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{sdk.kind.name}._base_client.INITIAL_RETRY_DELAY", 0.4)
    answer = b"".join(part for part in sdk.whole_script("Hello") if isinstance(part, bytes))
    seen = []
    for durable in (False, True):
        handler = type("Handler", (_Answering,), {"answer": answer})
        with ThreadingHTTPServer(("localhost", 0), handler, bind_and_activate=False) as server:
            server.server_bind()
            opening = threading.Timer(0.1, server.server_activate)
            serving = threading.Thread(target=server.serve_forever, args=(0.05,))
            opening.start()
            serving.start()
            seen.append(both.call(f"http://localhost:{server.server_port}", durable=durable))
            opening.join()
            server.shutdown()
            serving.join()
    assert seen[0] == seen[1]
    assert seen[0].answer


class _Answering(BaseHTTPRequestHandler):
    answer: bytes

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.wfile.write(self.answer)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def test_a_reset_before_every_head(both: Both, sdk: Sdk, upstream: Upstream) -> None:
    assert both.compare(upstream, [RESET]) == Seen(sdk.errors.APIConnectionError)


def test_a_reset_before_the_first_head(both: Both, sdk: Sdk, upstream: Upstream) -> None:
    assert both.compare(upstream, [RESET], sdk.whole_script("Hello")).answer


def test_an_answer_that_is_not_http(both: Both, sdk: Sdk, upstream: Upstream) -> None:
    assert both.compare(upstream, [b"SSH-2.0-x\r\n\r\n", HANG]) == Seen(sdk.errors.APIConnectionError)


def test_every_head_too_late(both: Both, sdk: Sdk, upstream: Upstream) -> None:
    assert both.compare(upstream, [HANG], read=0.2) == Seen(sdk.errors.APITimeoutError)


def test_the_first_head_too_late(both: Both, sdk: Sdk, upstream: Upstream) -> None:
    assert both.compare(upstream, [HANG], sdk.whole_script("Hello"), read=1.0).answer


def test_a_head_that_the_proxy_does_not_wait_for(sdk: Sdk, upstream: Upstream, tmp_path: Path) -> None:
    args = ["--allow", "http://localhost:*/**", "--data-dir", str(tmp_path), "--upstream-timeout-seconds", "0.5"]
    with ProxyProcess(args, env={"PROXY_SECRET": SECRET}) as hasty:
        late = upstream.serve([HANG], sdk.whole_script("Hello"), path="")
        assert Both(sdk, hasty).call(late.url, durable=True).answer
        assert late.count == 2
        never = upstream.serve([HANG], path="")
        assert Both(sdk, hasty).call(never.url, durable=True) == Seen(sdk.errors.APITimeoutError)
        assert never.count == 1 + RETRIES


def test_a_host_name_that_does_not_exist(both: Both, sdk: Sdk) -> None:
    url = "http://nosuchname.invalid"
    direct, through = both.call(url, durable=False), both.call(url, durable=True)
    assert through == direct == Seen(sdk.errors.APIConnectionError)


def test_a_certificate_that_nobody_trusts(both: Both, sdk: Sdk, tmp_path: Path) -> None:
    with Upstream(tls=Certificates.make(tmp_path).server) as upstream:
        assert both.compare(upstream, fixed(b"{}")) == Seen(sdk.errors.APIConnectionError)


# The head


STATUSES = [
    400, 401, 403, 404, 405, 408, 409, 410, 413, 418, 422, 425, 429, 451,
    500, 501, 502, 503, 504, 505, 507, 511, 520, 522, 524, 529, 530, 598, 599,
]  # fmt: skip


@pytest.mark.parametrize("wait", [("retry-after", "0"), ("retry-after-ms", "1")], ids=lambda field: field[0])
def test_an_error_of_every_status(both: Both, sdk: Sdk, upstream: Upstream, wait: tuple[str, str]) -> None:
    for status in STATUSES:
        seen = both.compare(upstream, sdk.error_script(status, wait))
        assert (seen.status, seen.retry_after) == (status, wait[1] if wait[0] == "retry-after" else None)


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503, 529])
def test_an_error_that_is_followed_by_success(both: Both, sdk: Sdk, upstream: Upstream, status: int) -> None:
    scripts = [sdk.error_script(status, ("retry-after-ms", "1")), sdk.whole_script("Hello")]
    assert both.compare(upstream, *scripts).answer


# After the head


def test_a_reset_within_every_whole_answer(both: Both, sdk: Sdk, upstream: Upstream) -> None:
    broken = chunked(b'{"id": ', RESET, content_type="application/json")
    assert both.compare(upstream, broken) == Seen(sdk.errors.APIConnectionError)


def test_a_reset_within_the_first_whole_answer(both: Both, sdk: Sdk, upstream: Upstream) -> None:
    broken = chunked(b'{"id": ', RESET, content_type="application/json")
    assert both.compare(upstream, broken, sdk.whole_script("Hello")).answer


def test_a_reset_within_a_stream(both: Both, sdk: Sdk, upstream: Upstream) -> None:
    seen = both.compare(upstream, chunked(*sdk.events("Hel", "lo")[:2], RESET), streamed=True)
    assert seen.raised is not None


def test_silence_within_a_stream(both: Both, sdk: Sdk, upstream: Upstream) -> None:
    seen = both.compare(upstream, chunked(*sdk.events("Hel", "lo")[:2], HANG), streamed=True, read=0.5)
    assert seen.raised is not None


def test_silence_within_every_whole_answer(both: Both, sdk: Sdk, upstream: Upstream) -> None:
    silent = chunked(b'{"id": ', HANG, content_type="application/json")
    assert both.compare(upstream, silent, read=0.2) == Seen(sdk.errors.APITimeoutError)
