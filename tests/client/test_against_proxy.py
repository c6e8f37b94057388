"""The client and the real proxy: what the SDKs get, and what survives cuts, kills, expiry and slow storage."""

import importlib
import secrets
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.client import (
    FileStorage,
    IncompleteStream,
    MemoryStorage,
    NetworkError,
    Outcome,
    Retry,
    Timeouts,
    create_durable_fetch,
    durable_request,
)
from tests.client.sdks import KINDS, Sdk, dumped
from tests.client.test_command import Shell
from tests.kit import oracle
from tests.kit.npm_storage import NpmStorage
from tests.kit.ports import free_port
from tests.kit.proxy_process import ProxyProcess
from tests.kit.relay import Cut, Relay, Way
from tests.kit.scripts import GATE, HANG, RESET, chunked
from tests.kit.upstream import Upstream

SECRET = secrets.token_urlsafe(24)
PATIENT = Timeouts(answer=20, data=20)
BODY = b"".join(oracle.pieces(5, 1, 300))
PIECES = [BODY[at : at + 640] for at in range(0, len(BODY), 640)]

Start = Callable[..., ProxyProcess]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """The service that is asked, directly or by way of the proxy."""
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts proxies on one data directory, killed in the end."""
    started: list[ProxyProcess] = []

    def start(*args: str) -> ProxyProcess:
        common = ["--allow", "http://localhost:*/**", "--data-dir", str(tmp_path / "data"), *args]
        started.append(ProxyProcess(common, env={"PROXY_SECRET": SECRET}))
        return started[-1]

    yield start
    for proxy in started:
        proxy.kill()
        assert "Traceback" not in proxy.output


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProxyProcess]:
    """A proxy with the embedded store."""
    args = ["--allow", "http://localhost:*/**", "--data-dir", str(tmp_path_factory.mktemp("data"))]
    with ProxyProcess(args, env={"PROXY_SECRET": SECRET}) as proxy:
        yield proxy
        assert "Traceback" not in proxy.output


def connect(url: str, **options: Any) -> Any:
    defaults: dict[str, Any] = {"proxy_authorization": SECRET, "timeouts": PATIENT}
    return create_durable_fetch(url, **(defaults | options))


# The SDKs


# Each SDK, library and way once; `test_sdks` has them all.
CHOSEN = [kind for kind in KINDS if (kind.library == "httpx2") == (kind.asynchronous or kind.name == "anthropic")]


@pytest.fixture(params=CHOSEN, ids=str)
def sdk(request: pytest.FixtureRequest) -> Iterator[Sdk]:
    """An SDK."""
    sdk = Sdk(request.param)
    yield sdk
    sdk.close()


def test_an_sdk_gets_what_it_gets_without_us(sdk: Sdk, upstream: Upstream, proxy: ProxyProcess) -> None:
    scripts: list[Any] = [sdk.stream_script("Hel", "lo ", "wörld"), sdk.tool_script(), sdk.whole_script("Hello")]
    scripts += [sdk.error_script(status, ("retry-after-ms", "1")) for status in (400, 429, 529)]
    seen = []
    for durable in (False, True):
        route = upstream.serve(*scripts, path="")
        through = {"proxy": proxy.url, "secret": SECRET} if durable else {}
        client = sdk.client(route.url, max_retries=0, **through)
        results: list[Any] = [dumped(sdk.items(sdk.streamed(client))) for _ in range(2)]
        whole = sdk.whole(client)
        results += [whole.model_dump(), whole._request_id]
        for _ in range(3):
            with pytest.raises(sdk.errors.APIStatusError) as raised:
                sdk.whole(client)
            error = raised.value
            results.append((type(error), error.status_code, error.body, error.request_id, str(error)))
        seen.append(results)
        assert route.count == len(scripts)
    assert seen[0] == seen[1]


def test_an_sdks_stream_survives_a_network_that_is_cut(sdk: Sdk, upstream: Upstream, proxy: ProxyProcess) -> None:
    events = sdk.events("Hel", "lo ", "wörld")
    direct = upstream.serve(chunked(*events), path="")
    whole = dumped(sdk.items(sdk.streamed(sdk.client(direct.url))))
    route = upstream.serve(chunked(*events[:2], GATE, *events[2:]), path="")
    with Relay(proxy.url) as relay:
        client = sdk.client(route.url, proxy=relay.url, secret=SECRET)
        stream = sdk.streamed(client)
        first = dumped(sdk.first(stream))
        relay.cut_next(Cut(Way.TO_CLIENT, 100), Cut(Way.TO_CLIENT, 900, "fin"))
        relay.cut_all()
        route.release()
        assert first + dumped(sdk.items(stream)) == whole
        assert relay.accepted >= 3
    assert route.count == 1


def test_leaving_an_sdks_stream_cuts_the_upstream(sdk: Sdk, upstream: Upstream, proxy: ProxyProcess) -> None:
    route = upstream.serve(chunked(*sdk.events("Hel")[:3], HANG), path="")
    stream = sdk.streamed(sdk.client(route.url, proxy=proxy.url, secret=SECRET))
    sdk.first(stream)
    sdk.run(stream.close())
    route.wait_cut()


def test_an_sdk_in_another_process_resumes(sdk: Sdk, upstream: Upstream, proxy: ProxyProcess, tmp_path: Path) -> None:
    events = sdk.events("Hel", "lo")
    route = upstream.serve(chunked(*events[:3], GATE, *events[3:]), path="")
    options: dict[str, Any] = {"proxy": proxy.url, "secret": SECRET, "durable": {"storage": FileStorage(tmp_path)}}
    with durable_request("turn"):
        stream = sdk.streamed(sdk.client(route.url, **options))
    sdk.first(stream)
    route.release()
    with durable_request("turn"):
        again = dumped(sdk.items(sdk.streamed(sdk.client(route.url, **options))))
    direct = upstream.serve(chunked(*events), path="")
    assert again == dumped(sdk.items(sdk.streamed(sdk.client(direct.url))))
    assert route.count == 1
    sdk.run(stream.close())


def test_an_upstream_that_breaks_off_never_looks_whole_to_an_sdk(
    sdk: Sdk, upstream: Upstream, proxy: ProxyProcess
) -> None:
    route = upstream.serve(chunked(*sdk.events("Hel", "lo")[:3], RESET), path="")
    stream = sdk.streamed(sdk.client(route.url, proxy=proxy.url, secret=SECRET))
    library = importlib.import_module(sdk.kind.library)
    with pytest.raises((sdk.errors.APIConnectionError, library.ReadError)):
        sdk.items(stream)


# Faults


def read_cut(upstream: Upstream, fetch: Any, relay: Relay, at: int, how: Any) -> None:
    route = upstream.serve(chunked(*PIECES[:12]))
    relay.cut_next(Cut(Way.TO_CLIENT, at, how))
    response = fetch(route.url)
    oracle.check(response.read(), 5, 1, length=640 * 12)
    assert route.count == 1
    relay.cut_all()


def test_a_cut_anywhere_in_create_or_read_gives_identical_bytes(upstream: Upstream, proxy: ProxyProcess) -> None:
    with Relay(proxy.url) as relay, connect(relay.url, retry=Retry(first_delay=0.0)) as fetch:
        for number, at in enumerate(range(0, 12_000, 397)):
            read_cut(upstream, fetch, relay, at, ("rst", "fin")[number % 2])


@pytest.mark.slow
def test_a_cut_at_every_byte_of_create_and_read_gives_identical_bytes(upstream: Upstream, proxy: ProxyProcess) -> None:
    with Relay(proxy.url) as relay, connect(relay.url, retry=Retry(first_delay=0.0)) as fetch:
        for at in range(12_000):
            read_cut(upstream, fetch, relay, at, ("rst", "fin")[at % 2])


def test_a_proxy_that_is_killed_and_started_again_leaves_an_answer_that_does_not_look_whole(
    upstream: Upstream, start: Start
) -> None:
    port = str(free_port())
    first = start("--port", port)
    route = upstream.serve(chunked(*PIECES[:5], HANG))
    with connect(first.url, retry=Retry(reads=30, max_delay=1.0)) as fetch:
        response = fetch(route.url, request_id="turn")
        pieces = response.iter_bytes()
        got = next(pieces)
        while len(got) < 640 * 5:
            got += next(pieces)
        first.kill()
        start("--port", port)
        with pytest.raises(IncompleteStream) as raised:
            next(pieces)
        assert raised.value.outcome is Outcome.INTERRUPTED
        oracle.check(got, 5, 1, length=640 * 5)
        assert fetch.resume("turn") is None


def test_a_proxy_that_is_started_again_goes_on_giving_a_whole_answer(upstream: Upstream, start: Start) -> None:
    port = str(free_port())
    first = start("--port", port)
    big = b"".join(oracle.pieces(5, 2, 60_000))
    route = upstream.serve(chunked(*(big[at : at + 60_000] for at in range(0, len(big), 60_000))))
    with connect(first.url, retry=Retry(reads=30, max_delay=1.0)) as fetch:
        response = fetch(route.url)
        pieces = response.iter_bytes()
        got = [next(pieces)]
        with connect(first.url) as other:
            whole = other(route.url)  # by the time this one is read whole, so is the first one stored
            assert len(whole.read()) == len(big)
        first.kill()
        start("--port", port)
        got += pieces
        oracle.check(b"".join(got), 5, 2, length=len(big))
        assert response.outcome is Outcome.COMPLETE
    assert route.count == 2


def test_storage_that_hangs_for_a_while_is_waited_for(upstream: Upstream, start: Start) -> None:
    with NpmStorage() as storage, Relay(storage.url) as relay:
        proxy = start("--durable-streams-url", relay.url)
        route = upstream.serve(chunked(*PIECES[:3], GATE, *PIECES[3:6]))
        with connect(proxy.url) as fetch:
            pieces = fetch(route.url).iter_bytes()
            got = next(pieces)
            relay.hold()
            route.release()
            threading.Timer(0.5, relay.flow).start()
            got += b"".join(pieces)
            oracle.check(got, 5, 1, length=640 * 6)


def test_an_expired_url_is_replaced_by_the_secret(upstream: Upstream, start: Start) -> None:
    proxy = start("--url-expiration-seconds", "1")
    route = upstream.serve(chunked(b"one", GATE, b"two"))
    expired = threading.Event()
    with connect(proxy.url) as fetch:
        response = fetch(route.url, request_id="turn")
        assert next(response.iter_bytes()) == b"one"
        response.close()
        expired.wait(2.1)
        route.release()
        again = fetch(route.url, request_id="turn")
        assert (again.was_resumed, again.read()) == (True, b"onetwo")
    assert route.count == 1


def test_two_processes_that_resume_one_id_both_get_the_whole(
    upstream: Upstream, proxy: ProxyProcess, tmp_path: Path
) -> None:
    route = upstream.serve(chunked(*PIECES[:4], GATE, *PIECES[4:8]))
    readers = [connect(proxy.url, storage=FileStorage(tmp_path)) for _ in range(3)]
    responses = [fetch(route.url, content=b"q", request_id="turn") for fetch in readers]
    assert [response.was_resumed for response in responses] == [False, True, True]
    route.release()
    for response, fetch in zip(responses, readers, strict=True):
        oracle.check(response.read(), 5, 1, length=640 * 8)
        fetch.close()
    assert route.count == 1
    assert list(tmp_path.iterdir()) == []


def test_an_answer_past_the_limit_is_truncated_and_says_so(upstream: Upstream, start: Start) -> None:
    proxy = start("--max-response-bytes", "1000")
    route = upstream.serve(chunked(PIECES[0], GATE, *PIECES[1:4]))
    with connect(proxy.url) as fetch:
        response = fetch(route.url)
        route.release()
        with pytest.raises(IncompleteStream) as raised:
            response.read()
    assert (raised.value.outcome, raised.value.bytes_read) == (Outcome.TRUNCATED, 1000)


def test_a_proxy_that_is_down_is_reported_within_bounds(start: Start, upstream: Upstream) -> None:
    proxy = start()
    route = upstream.serve(chunked(b"one", HANG))
    storage = MemoryStorage()
    with connect(proxy.url, storage=storage, retry=Retry(reads=3, first_delay=0.01)) as fetch:
        response = fetch(route.url, request_id="turn")
        assert next(response.iter_bytes()) == b"one"
        proxy.kill()
        with pytest.raises(NetworkError):
            response.read()
        with pytest.raises(NetworkError):
            fetch.resume("turn")
        with pytest.raises(NetworkError):
            fetch(route.url, request_id="turn")
    assert route.count == 1


def test_fetch_on_the_command_line_resumes_after_an_interrupt(
    upstream: Upstream, proxy: ProxyProcess, tmp_path: Path
) -> None:
    shell = Shell(proxy.url, SECRET, tmp_path, ["-m", "proxy", "fetch"])
    route = upstream.serve(chunked(b"one ", GATE, b"two"))
    process = shell.start(route.url, "-d", "{}", "--request-id", "turn")
    assert process.stdout is not None
    with process:
        assert process.stdout.read(4) == b"one "
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130
    route.release()
    assert shell.run("--request-id", "turn")[:2] == (0, b"one two")
    assert route.count == 1
    code, _, err = shell.run("https://not-allowed.test/")
    assert (code, "UPSTREAM_NOT_ALLOWED" in err) == (3, True)
