"""A JavaScript SDK on durable fetch fails, retries and succeeds as on a direct connection: the twin of `test_failures`.

Each call is made twice, directly and through a real proxy process, and what the SDK's caller saw is compared, and how
often the upstream was called: through the proxy never more often.
"""

import json
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.client.sdks import Kind, Sdk
from tests.client.test_failures import STATUSES
from tests.kit.certificates import Certificates
from tests.kit.ports import refusing_port
from tests.kit.proxy_process import ProxyProcess
from tests.kit.scripts import HANG, RESET, Script, chunked, fixed
from tests.kit.upstream import Route, Upstream

_TESTS = Path(__file__).resolve().parent.parent
_SECRET = secrets.token_urlsafe(24)
_RETRIES = 2

pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node"),
    pytest.mark.skipif(not (_TESTS / "node_modules" / "openai").exists(), reason="run scripts/setup-js first"),
]

Seen = dict[str, Any]


class Caller:
    """The JavaScript process that makes the calls, one after the other."""

    def __init__(self, proxy: str) -> None:
        self._proxy = proxy
        self._process = subprocess.Popen(
            ["node", "js/sdk-caller.mjs"], cwd=_TESTS, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def call(self, sdk: str, url: str, *, durable: bool, streamed: bool = False, timeout: int = 20_000) -> Seen:
        """Make one call; `timeout` is the SDK's, in milliseconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        plan: Seen = {"sdk": sdk, "url": url, "streamed": streamed, "timeout": timeout, "maxRetries": _RETRIES}
        plan |= {"proxy": self._proxy, "secret": _SECRET} if durable else {}
        self._process.stdin.write(json.dumps(plan) + "\n")
        self._process.stdin.flush()
        seen: Seen = json.loads(self._process.stdout.readline())
        return seen

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="module")
def caller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    """Calls go directly, or through a proxy with the embedded store."""
    allowed = ["http://localhost:*/**", "https://localhost:*/**", "http://*.invalid/**"]
    args = [part for each in allowed for part in ("--allow", each)]
    args += ["--data-dir", str(tmp_path_factory.mktemp("data"))]
    with ProxyProcess(args, env={"PROXY_SECRET": _SECRET}) as proxy:
        caller = Caller(proxy.url)
        yield caller
        caller.close()
        assert "Traceback" not in proxy.output


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """The service that is asked, directly and through the proxy."""
    with Upstream() as upstream:
        yield upstream


class Both:
    """The same calls of one SDK, directly and through the proxy."""

    def __init__(self, caller: Caller, sdk: Sdk) -> None:
        self._caller = caller
        self.sdk = sdk

    def call(self, url: str, **options: Any) -> Seen:
        """Compare calls to one URL."""
        direct, through = (
            self._caller.call(self.sdk.kind.name, url, durable=each, **options) for each in (False, True)
        )
        assert through == direct
        return direct

    def compare(self, upstream: Upstream, *scripts: Script, **options: Any) -> Seen:
        """Compare calls to an upstream that answers with these scripts, one request after the other."""
        routes: list[Route] = [upstream.serve(*scripts, path="") for _ in range(2)]
        direct, through = (
            self._caller.call(self.sdk.kind.name, route.url, durable=durable, **options)
            for durable, route in zip((False, True), routes, strict=True)
        )
        assert through == direct
        assert routes[1].count <= routes[0].count
        return direct


@pytest.fixture(params=["openai", "anthropic"])
def both(request: pytest.FixtureRequest, caller: Caller) -> Iterator[Both]:
    """Makes calls both ways."""
    sdk = Sdk(Kind(request.param, "httpx2", asynchronous=False))  # for its answers
    yield Both(caller, sdk)
    sdk.close()


def _failed(seen: Seen) -> str:
    assert seen["status"] is None
    return str(seen["raised"])


# Before the head


def test_a_refused_connection(both: Both) -> None:
    with refusing_port() as port:
        assert _failed(both.call(f"http://localhost:{port}")) == "APIConnectionError"


def test_a_host_name_that_does_not_exist(both: Both) -> None:
    assert _failed(both.call("http://nosuchname.invalid")) == "APIConnectionError"


def test_a_certificate_that_nobody_trusts(both: Both, tmp_path: Path) -> None:
    with Upstream(tls=Certificates.make(tmp_path).server) as upstream:
        assert _failed(both.compare(upstream, fixed(b"{}"))) == "APIConnectionError"


def test_a_reset_before_every_head(both: Both, upstream: Upstream) -> None:
    assert _failed(both.compare(upstream, [RESET])) == "APIConnectionError"


def test_a_reset_before_the_first_head(both: Both, upstream: Upstream) -> None:
    assert both.compare(upstream, [RESET], both.sdk.whole_script("Hello"))["answer"]


def test_an_answer_that_is_not_http(both: Both, upstream: Upstream) -> None:
    assert _failed(both.compare(upstream, [b"SSH-2.0-x\r\n\r\n", HANG])) == "APIConnectionError"


def test_every_head_too_late(both: Both, upstream: Upstream) -> None:
    assert _failed(both.compare(upstream, [HANG], timeout=200)) == "APIConnectionTimeoutError"


def test_the_first_head_too_late(both: Both, upstream: Upstream) -> None:
    assert both.compare(upstream, [HANG], both.sdk.whole_script("Hello"), timeout=1000)["answer"]


def test_a_head_that_the_proxy_does_not_wait_for(both: Both, upstream: Upstream, tmp_path: Path) -> None:
    args = ["--allow", "http://localhost:*/**", "--data-dir", str(tmp_path), "--upstream-timeout-seconds", "0.5"]
    with ProxyProcess(args, env={"PROXY_SECRET": _SECRET}) as hasty:
        caller = Caller(hasty.url)
        late = upstream.serve([HANG], both.sdk.whole_script("Hello"), path="")
        assert caller.call(both.sdk.kind.name, late.url, durable=True)["answer"]
        never = upstream.serve([HANG], path="")
        assert _failed(caller.call(both.sdk.kind.name, never.url, durable=True)) == "APIConnectionTimeoutError"
        assert (late.count, never.count) == (2, 1 + _RETRIES)
        caller.close()


# The head


@pytest.mark.parametrize("wait", [("retry-after", "0"), ("retry-after-ms", "1")], ids=lambda field: field[0])
def test_an_error_of_every_status(both: Both, upstream: Upstream, wait: tuple[str, str]) -> None:
    for status in STATUSES:
        seen = both.compare(upstream, both.sdk.error_script(status, wait))
        assert (seen["status"], seen["wait"]) == (status, wait[1] if wait[0] == "retry-after" else None)


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503, 529])
def test_an_error_that_is_followed_by_success(both: Both, upstream: Upstream, status: int) -> None:
    scripts = [both.sdk.error_script(status, ("retry-after-ms", "1")), both.sdk.whole_script("Hello")]
    assert both.compare(upstream, *scripts)["answer"]


# After the head


def test_a_whole_answer_and_a_stream(both: Both, upstream: Upstream) -> None:
    assert "Hello" in both.compare(upstream, both.sdk.whole_script("Hello"))["answer"]
    assert "Hel" in both.compare(upstream, both.sdk.stream_script("Hel", "lo"), streamed=True)["answer"]


def test_a_reset_within_every_whole_answer(both: Both, upstream: Upstream) -> None:
    broken = chunked(b'{"id": ', RESET, content_type="application/json")
    assert both.compare(upstream, broken)["raised"]


def test_a_reset_within_a_stream(both: Both, upstream: Upstream) -> None:
    script = chunked(*both.sdk.events("Hel", "lo")[:2], RESET)
    assert both.compare(upstream, script, streamed=True)["raised"]
