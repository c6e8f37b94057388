"""The proxy as a library and as a process: start, stop, restart, and what is left of a proxy that was killed."""

import asyncio
import gc
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from proxy.config import Config, ConfigError
from proxy.server import ProxyServer, create_proxy_server
from proxy.standalone import StoreServer
from tests.conformance.caller import Caller, Stream, code
from tests.kit.proxy_process import ProxyProcess
from tests.kit.upstream import GATE, HANG, Upstream, chunked, fixed

SECRET = "the service secret"
ALLOW = "http://localhost:*/**"


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


async def started(directory: Path, **settings: object) -> ProxyServer:
    values = {"port": 0, "allowlist": [ALLOW], "secret": SECRET, "data_dir": str(directory)}
    return await create_proxy_server(**{**values, **settings})


async def in_thread(server: ProxyServer, work: object, *args: object) -> object:
    """Run a synchronous conversation beside the server's loop."""

    def talk() -> object:
        caller = Caller(server.url, SECRET)
        try:
            return work(caller, *args)  # type: ignore[operator]  # a function of a caller
        finally:
            caller.http.close()

    return await asyncio.to_thread(talk)


def one_stream(caller: Caller, upstream: Upstream, data: bytes) -> tuple[bytes, str | None]:
    return caller.create(upstream.serve(fixed(data)).url).whole()[:2]


async def test_a_start_that_fails_leaves_no_socket_behind(tmp_path: Path) -> None:
    place = tmp_path / "s"
    async with await started(tmp_path / "data"):
        with pytest.raises(ConfigError, match="--data-dir"):
            await started(tmp_path / "data", uds=str(place))
    assert not place.exists()


async def test_a_server_runs_inside_another_program_s_loop_and_leaves_it_as_it_was(
    tmp_path: Path, upstream: Upstream
) -> None:
    before = asyncio.all_tasks()
    async with await started(tmp_path) as server:
        assert server.url == f"http://localhost:{server.port}"
        assert SECRET not in repr(server)
        assert await in_thread(server, one_stream, upstream, b"one") == (b"one", "complete")
    assert asyncio.all_tasks() == before
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0
    await server.stop()  # harmless


async def test_many_servers_share_a_loop(tmp_path: Path, upstream: Upstream) -> None:
    servers = [await started(tmp_path / str(number)) for number in range(4)]
    assert len({server.port for server in servers}) == 4
    found = await asyncio.gather(*(in_thread(each, one_stream, upstream, b"%d" % each.port) for each in servers))
    assert found == [(b"%d" % each.port, "complete") for each in servers]
    await asyncio.gather(*(server.stop() for server in servers))


async def test_a_stop_ends_running_streams_readers_and_half_made_creates(tmp_path: Path, upstream: Upstream) -> None:
    before = asyncio.all_tasks()
    descriptors = len(os.listdir("/proc/self/fd"))
    server = await started(tmp_path)
    running = upstream.serve(chunked(b"one", HANG))
    thinking = upstream.serve([HANG])

    async with httpx.AsyncClient(base_url=server.url, timeout=20) as http:
        secret = {"Authorization": f"Bearer {SECRET}"}

        async def post(url: str) -> httpx.Response:
            headers = {"Upstream-URL": url, "Upstream-Method": "POST"} | secret
            return await http.post("/v1/proxy", headers=headers)

        created = await post(running.url)
        path = created.headers["location"].partition("?")[0]
        reading = asyncio.ensure_future(http.get(f"{path}?live=sse&offset=-1", headers=secret))
        late = asyncio.ensure_future(post(thinking.url))
        await asyncio.to_thread(thinking.wait_requests)
        await server.stop()
        await asyncio.to_thread(running.wait_cut)
        await asyncio.to_thread(thinking.wait_cut)
        live = await reading
        assert '"upstreamOutcome":"interrupted"' in live.text
        with pytest.raises(httpx.HTTPError):
            await late
    assert asyncio.all_tasks() == before
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) <= descriptors + 2  # the upstream's thread closes its own a little later

    again = await started(tmp_path)
    found = await in_thread(again, lambda caller: Stream(caller, f"{again.url}{created.headers['location']}").whole())
    assert found[:2] == (b"one", "interrupted")  # type: ignore[index]  # a Whole
    await again.stop()


async def test_a_second_stop_waits_for_the_end_of_the_first(tmp_path: Path, upstream: Upstream) -> None:
    before = asyncio.all_tasks()
    server = await started(tmp_path)
    route = upstream.serve(chunked(b"one", GATE))
    await in_thread(server, lambda caller: caller.create(route.url).until(b"one"))
    first = asyncio.ensure_future(server.stop(drain_seconds=30))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(server.stop())
    await asyncio.sleep(0.05)
    assert not second.done()
    route.release()
    async with asyncio.timeout(10):
        await asyncio.gather(first, second)
    assert asyncio.all_tasks() == before
    async with await started(tmp_path):  # the data directory is free
        pass


@pytest.mark.parametrize("turns", [0, 1, 2, 10, 100])
async def test_a_stop_whose_caller_is_cancelled_goes_on_to_its_end(
    tmp_path: Path, upstream: Upstream, turns: int
) -> None:
    before = asyncio.all_tasks()
    server = await started(tmp_path)
    route = upstream.serve(chunked(b"one", HANG))
    await in_thread(server, lambda caller: caller.create(route.url).until(b"one"))
    stopping = asyncio.ensure_future(server.stop())
    for _ in range(turns):
        await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.gather(stopping, return_exceptions=True)
    async with asyncio.timeout(10):
        await server.stop()
    assert asyncio.all_tasks() == before
    async with await started(tmp_path) as again:
        assert again.port
    await asyncio.to_thread(route.wait_cut)


async def test_what_was_stored_is_there_after_a_restart_with_all_that_was_known(
    tmp_path: Path, upstream: Upstream
) -> None:
    def make(caller: Caller) -> list[str]:
        special = caller.create(upstream.serve(fixed(b"whole", content_type="text/x-special")).url)
        special.whole()
        cut = caller.create(upstream.serve(chunked(b"part", HANG)).url)
        cut.until(b"part")
        assert cut.abort().status_code == 204
        return [special.url, cut.url]

    first = await started(tmp_path)
    urls = await in_thread(first, make)
    assert isinstance(urls, list)
    await first.stop()
    second = await started(tmp_path)
    paths = [url.partition("/v1/")[2] for url in urls]

    def read(caller: Caller) -> None:
        whole, cut = (Stream(caller, f"{second.url}/v1/{path}").whole() for path in paths)
        assert whole[:2] == (b"whole", "complete")
        assert whole.last.headers["upstream-content-type"] == "text/x-special"
        assert cut[:2] == (b"part", "aborted")

    await in_thread(second, read)
    await second.stop()


async def test_settings_are_those_of_config_and_lists_and_strings_are_taken(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        await create_proxy_server(colour="red")
    with pytest.raises(ConfigError, match="--allow"):
        await started(tmp_path, allowlist=["https://"])
    for allowlist in (ALLOW, [ALLOW], (ALLOW,)):
        for secret in (SECRET, [SECRET], (SECRET, "older")):
            async with await started(tmp_path, allowlist=allowlist, secret=secret, host="127.0.0.1") as server:
                assert server._app._config.access.allowlist == (ALLOW,)
                assert server._app._config.access.secret[0] == SECRET
    async with await started(tmp_path, data_dir=tmp_path / "a path", max_readers=1) as server:
        assert (tmp_path / "a path" / "streams.db").exists()
        assert server._app._config.read.max_readers == 1


async def test_a_start_that_fails_leaves_nothing(tmp_path: Path) -> None:
    before = asyncio.all_tasks()
    async with await started(tmp_path) as server:
        running = asyncio.all_tasks()
        with pytest.raises(ConfigError, match="--data-dir"):
            await started(tmp_path)  # the directory belongs to one at a time
        with pytest.raises(ConfigError):
            await started(tmp_path / "other", port=server.port)
        with pytest.raises(ConfigError, match="--ca-file"):
            await started(tmp_path / "third", ca_file="/nowhere")
        broken = tmp_path / "broken"
        broken.mkdir()
        (broken / "streams.db").write_bytes(b"not a database, but of some length" * 50)
        for _ in range(2):  # the directory is let go again
            with pytest.raises(ConfigError, match=r"--data-dir: (?!.*in use)"):
                await started(broken)
        assert asyncio.all_tasks() == running
    assert asyncio.all_tasks() == before
    async with await started(tmp_path):
        pass


async def test_it_listens_on_a_unix_socket_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "proxy.sock"
    async with await started(tmp_path / "data", uds=str(path)) as server:
        assert server.url == f"unix:{path}"
        assert path.stat().st_mode & 0o777 == 0o600
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport, base_url="http://proxy") as http:
            assert (await http.get("/health")).json() == {"status": "ok"}


async def test_storage_may_be_a_store_on_a_unix_socket(tmp_path: Path, upstream: Upstream) -> None:
    place = tmp_path / "the store?#.sock"
    store = StoreServer(Config.of(uds=str(place), data_dir=str(tmp_path / "data")))
    soon = {"storage_timeout_seconds": 0.5, "append_budget_seconds": 0.5}  # storage that is away is not insisted on
    async with await started(tmp_path, durable_streams_url=f"unix:{place}", **soon) as server:
        assert await in_thread(server, one_stream, upstream, b"through a socket") == (b"through a socket", "complete")
        await store.stop()
        answer = await in_thread(server, lambda caller: code(caller.post(upstream.serve(fixed()).url)))
        assert answer in ((502, "STORAGE_ERROR"), (503, "STORAGE_UNAVAILABLE"))  # as soon as it is known


async def test_a_full_store_refuses_before_the_upstream_is_paid(tmp_path: Path, upstream: Upstream) -> None:
    route = upstream.serve(fixed(bytes(20_000)))
    key = {"Idempotency-Key": f"full {route.url}"}

    def fill(caller: Caller) -> None:
        whole = caller.create(route.url, headers=key)
        assert whole.whole().outcome == "complete"
        while (answer := caller.post(route.url)).status_code == 201:
            caller.stream(answer).whole()
        full = (503, "STORAGE_UNAVAILABLE")
        assert code(answer) == full
        calls = route.count
        for headers in ({}, {"Idempotency-Key": f"another {route.url}"}):
            assert code(caller.post(route.url, headers=headers)) == full
        assert caller.post(route.url, headers=key).status_code == 200
        assert route.count == calls
        assert whole.whole().outcome == "complete"

    async with await started(tmp_path, store_max_bytes=300_000, append_budget_seconds=0.2) as server:
        await in_thread(server, fill)


# A process that is killed


def process(directory: Path) -> ProxyProcess:
    return ProxyProcess(["--allow", ALLOW, "--data-dir", str(directory)], env={"PROXY_SECRET": SECRET})


def test_a_killed_proxy_loses_nothing_acknowledged_and_its_streams_are_interrupted(
    tmp_path: Path, upstream: Upstream
) -> None:
    finished = upstream.serve(fixed(b"finished"))
    half = [upstream.serve(chunked(b"half %d" % number, HANG)) for number in range(20)]
    key = {"Idempotency-Key": "a key"}
    with process(tmp_path) as proxy:
        caller = Caller(proxy.url, SECRET)
        whole = caller.create(finished.url, headers=key)
        whole.whole()
        streams = [caller.create(route.url) for route in half]
        for number, stream in enumerate(streams):
            stream.until(b"half %d" % number)
        assert streams[0].abort().status_code == 204
        proxy.kill()
        caller.http.close()
    for route in half:
        route.wait_closed()
    with process(tmp_path) as proxy:
        caller = Caller(proxy.url, SECRET)
        began = time.monotonic()

        def now(url: str) -> Stream:
            return Stream(caller, f"{proxy.url}/v1/{url.partition('/v1/')[2]}")

        assert now(whole.url).whole()[:2] == (b"finished", "complete")
        for number, stream in enumerate(streams):
            expected = "interrupted" if number else "aborted"
            assert now(stream.url).whole()[:2] == (b"half %d" % number, expected)
        assert time.monotonic() - began < 15
        replay = caller.post(finished.url, headers=key)
        assert (replay.status_code, finished.count) == (200, 1)
        assert code(caller.post(finished.url, headers=key, content=b"other")) == (409, "IDEMPOTENCY_CONFLICT")
        assert "Traceback" not in proxy.output
        caller.http.close()


def test_a_reader_that_waits_through_a_crash_gets_its_end(tmp_path: Path, upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"one", GATE, b"two"))
    with process(tmp_path) as proxy:
        caller = Caller(proxy.url, SECRET)
        stream = caller.create(route.url)
        stream.until(b"one")
        proxy.kill()
        caller.http.close()
    with process(tmp_path) as proxy:
        caller = Caller(proxy.url, SECRET)
        url = f"{proxy.url}/v1/{stream.url.partition('/v1/')[2]}"
        with Stream(caller, url).live() as live:
            live.to_end()
        assert Stream(caller, url).whole()[:2] == (b"one", "interrupted")
        caller.http.close()
    assert route.count == 1


def test_a_key_whose_call_a_crash_cut_off_is_free_at_once(tmp_path: Path, upstream: Upstream) -> None:
    route = upstream.serve([HANG], fixed(b"whole"))
    key = {"Idempotency-Key": f"crash {route.url}"}
    with process(tmp_path) as proxy, Caller(proxy.url, SECRET).raw() as peer:
        fields = {"Authorization": f"Bearer {SECRET}", "Upstream-URL": route.url, "Upstream-Method": "POST", **key}
        lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        peer.send(f"POST /v1/proxy HTTP/1.1\r\nHost: {peer.host}\r\nContent-Length: 0\r\n{lines}\r\n".encode())
        route.wait_requests(1)
        proxy.kill()
    with process(tmp_path) as proxy:
        caller = Caller(proxy.url, SECRET)
        assert caller.create(route.url, headers=key).whole()[:2] == (b"whole", "complete")  # within its time-out
        caller.http.close()
    assert route.count == 2


def test_a_fault_that_every_request_meets_does_not_fill_the_log(tmp_path: Path) -> None:
    args = ["--data-dir", str(tmp_path), "--durable-streams-url", f"unix:{tmp_path / 'no store'}"]
    with ProxyProcess(args, env={"PROXY_SECRET": SECRET}) as proxy:
        caller = Caller(proxy.url, SECRET)
        stream = "/v1/proxy/00000000-0000-4000-8000-000000000000"
        for _ in range(20):
            assert code(caller.http.get(stream, headers=caller.bearer)) == (502, "STORAGE_ERROR")
        caller.http.close()
        proxy.stop()
    assert proxy.output.count("storage failed") == 1
