"""`python -m proxy` as a process: start-up line, settings, signals, where the secret is kept, and that none leaks."""

import os
import re
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import httpx
import pytest

from proxy.config import GROUPS
from proxy.version import __version__
from tests.conformance.caller import Caller, code
from tests.kit.npm_storage import NpmStorage
from tests.kit.proxy_process import ProxyProcess, run_here, run_proxy
from tests.kit.upstream import GATE, HANG, RESET, Script, Upstream, chunked, fixed
from tests.kit.waiting import SOON, until_blocking

SECRET = "a service secret, with a comma"
ENV = {"PROXY_SECRET": SECRET}
ALLOW = ["--allow", "http://localhost:*/**"]


@pytest.fixture(scope="module")
def storage() -> Iterator[NpmStorage]:
    with NpmStorage() as storage:
        yield storage


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture
def args(storage: NpmStorage, tmp_path: Path) -> list[str]:
    """Arguments of a proxy on the npm storage that keeps its files in the test's own directory."""
    return [*ALLOW, "--durable-streams-url", storage.url, "--data-dir", str(tmp_path / "data")]


def one_line(text: str) -> str:
    """`text` without its newline; AssertionError when it is not exactly one line."""
    assert text.count("\n") == 1, text
    assert text.endswith("\n"), text
    return text.strip()


def started(args: Sequence[str], env: Mapping[str, str] | None = None) -> str:
    """All that a proxy says when it starts and is stopped at once."""
    done = run_here(["--port", "0", *args], env=env)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Proxy running at " in done.stdout
    return done.stdout


# What it says


def test_help_names_the_settings_and_no_flag_for_the_secret() -> None:
    done = run_proxy(["--help"])
    assert (done.returncode, done.stderr) == (0, "")
    for flag in (
        "--port", "--host", "--durable-streams-url", "--allow", "--stream-ttl-seconds", "--url-expiration-seconds",
        "--max-response-bytes", "--public-url", "--data-dir", "--cors-origin", "--secret-file", "PROXY_SECRET",
    ):  # fmt: skip
        assert flag in done.stdout
    assert not re.search(r"--secret(?!-file)", done.stdout)


def test_help_has_the_groups_of_the_documentation_and_each_flag_in_its_own() -> None:
    text = run_here(["--help"]).stdout
    titles = [f"\n{group.title}:\n" for group in GROUPS]
    places = [text.index(title) for title in titles]
    assert places == sorted(places)
    ends = [*places[1:], text.index("\nenvironment:\n")]
    for group, start, end in zip(GROUPS, places, ends, strict=True):
        for setting in group.settings:
            if setting.flag is None:
                assert re.search(rf"^  {setting.env} ", text[ends[-1] :], re.MULTILINE), setting.env
            else:
                assert re.search(rf"^  {setting.flag}\b", text[start:end], re.MULTILINE), setting.flag


@pytest.mark.parametrize("flag", ["--version", "-V"])
@pytest.mark.parametrize("command", [[], ["serve"], ["store"], ["demo"], ["fetch"]])
def test_version_is_one_line(command: list[str], flag: str) -> None:
    done = run_here([*command, flag])
    assert done.returncode == 0
    assert __version__ in one_line(done.stdout)


def test_fetch_needs_nothing_of_the_server() -> None:
    """Neither its dependencies nor POSIX (`fcntl`), so that it runs on every system."""
    absent = ("apsw", "anyio", "h11", "jwt", "uvloop", "fcntl", "proxy.config", "proxy.http", "proxy.store")
    code = f"""
import sys
for name in {absent!r}:
    sys.modules[name] = None
sys.argv = ["proxy", "fetch", "--help"]
from proxy.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--request-id" in done.stdout


def test_the_start_up_line_says_where_and_localhost_is_both_families(args: list[str]) -> None:
    with ProxyProcess(args, env=ENV) as proxy:
        assert f"Proxy running at http://localhost:{proxy.port}\n" in proxy.output
        assert httpx.get(f"http://127.0.0.1:{proxy.port}/health").json() == {"status": "ok"}
        if socket.has_ipv6:
            assert httpx.get(f"http://[::1]:{proxy.port}/health").json() == {"status": "ok"}


def test_it_listens_at_every_host_that_is_given(args: list[str]) -> None:
    with ProxyProcess([*args, "--host", "127.0.0.1", "--host", "127.0.0.2"], env=ENV) as proxy:
        for host in ("127.0.0.1", "127.0.0.2"):
            assert httpx.get(f"http://{host}:{proxy.port}/health").json() == {"status": "ok"}
        assert f"Listening at http://127.0.0.2:{proxy.port}\n" in proxy.output


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6")
def test_every_address_is_reached_over_both_families(args: list[str]) -> None:
    with ProxyProcess([*args, "--host", "::"], env=ENV) as proxy:
        for host in ("127.0.0.1", "[::1]"):
            assert httpx.get(f"http://{host}:{proxy.port}/health").json() == {"status": "ok"}


def test_sizes_and_times_take_units(args: list[str], upstream: Upstream) -> None:
    with ProxyProcess([*args, "--max-response-bytes", "1KiB", "--url-expiration-seconds", "1h"], env=ENV) as proxy:
        caller = Caller(proxy.url, SECRET)
        stream = caller.create(upstream.serve(chunked(bytes(1024), b"and more")).url)
        assert stream.whole()[:2] == (bytes(1024), "truncated")
        assert 3500 < int(stream.signed["expires"]) - time.time() <= 3601
        caller.http.close()


def test_a_low_soft_limit_of_descriptors_is_raised_to_the_hard_one(args: list[str]) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    command = ["sh", "-c", 'ulimit -S -n 300; exec "$@"', "sh", sys.executable, "-m", "proxy", "--port", "0"]
    with subprocess.Popen([*command, *args], env={**os.environ, **ENV}, stdout=subprocess.PIPE, text=True) as proxy:
        assert proxy.stdout is not None
        while "running at" not in proxy.stdout.readline():
            assert proxy.poll() is None
        limits = Path(f"/proc/{proxy.pid}/limits").read_text()
        proxy.terminate()
        assert proxy.wait(20) == 0
    found = re.search(r"^Max open files +(\d+) +(\d+)", limits, re.MULTILINE)
    assert found is not None
    assert (int(found[1]), int(found[2])) == (min(hard, 1 << 20), hard)


def test_a_setting_comes_from_the_flag_before_the_environment(storage: NpmStorage, upstream: Upstream) -> None:
    env = ENV | {
        "DURABLE_STREAMS_URL": storage.url,
        "PROXY_ALLOWLIST": "https://api.example.com/**, http://localhost:*/**",
        "PROXY_PUBLIC_URL": "https://env.example.com",
        "PROXY_PORT": "1",
    }
    with ProxyProcess(["--public-url", "https://flag.example.com"], env=env) as proxy:
        caller = Caller(proxy.url, SECRET)
        answer = caller.post(upstream.serve(fixed(b"x")).url)
        assert answer.status_code == 201
        assert answer.headers["location"].startswith("https://flag.example.com/v1/proxy/")
        caller.http.close()


# Bad settings


@pytest.mark.parametrize(
    ("bad", "names"),
    [
        (["--port", "many"], "port"),
        (["--port", "70000"], "port"),
        (["--port", "-1"], "port"),
        (["--nonsense"], "nonsense"),
        (["surplus"], "surplus"),
        (["--allow", "http://localhost:*/**", "--allow", "http://bad host/"], "bad host"),
        (["--allow", "ftp://x/**"], "ftp://x/**"),
        (["--allow", "https://a..b/**"], "https://a..b/**"),
        (["--durable-streams-url", "ftp://localhost"], "durable-streams-url"),
        (["--durable-streams-url", "localhost"], "durable-streams-url"),
        (["--public-url", "app.example.com"], "public-url"),
        (["--stream-ttl-seconds", "0"], "stream-ttl-seconds"),
        (["--stream-ttl-seconds", "60"], "stream-ttl-seconds"),
        (["--stream-ttl-seconds", "1e3"], "stream-ttl-seconds"),
        (["--max-response-bytes", "-1"], "max-response-bytes"),
        (["--upstream-timeout-seconds", "0"], "upstream-timeout-seconds"),
        (["--upstream-timeout-seconds", "nan"], "upstream-timeout-seconds"),
        (["--upstream-timeout-seconds", "inf"], "upstream-timeout-seconds"),
        (["--cors-origin", "nonsense"], "cors-origin"),
        (["--pass-header", "bad header"], "pass-header"),
        (["--secret-file", "/nonexistent/secret"], "/nonexistent/secret"),
        (["--ca-file", "/nonexistent/ca.pem"], "/nonexistent/ca.pem"),
    ],
)
def test_a_bad_setting_stops_the_start_with_one_line_that_says_which(
    args: list[str], bad: list[str], names: str
) -> None:
    done = run_here(["--port", "0", *args, *bad], env=ENV)
    assert (done.returncode, done.stdout) == (2, "")
    assert names in one_line(done.stderr)


def test_a_bad_setting_ends_the_process_with_code_2(args: list[str]) -> None:
    done = run_proxy(["--port", "0", *args, "--allow", "ftp://x/**"], env=ENV)
    assert (done.returncode, done.stdout) == (2, "")
    assert "ftp://x/**" in one_line(done.stderr)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PROXY_PORT", "many"),
        ("PROXY_ALLOWLIST", "http://localhost:*/**,http://bad host/"),
        ("PROXY_MAX_RESPONSE_BYTES", "1 MX"),
        ("DURABLE_STREAMS_URL", "nonsense"),
    ],
)
def test_a_bad_variable_stops_the_start_and_is_named(tmp_path: Path, name: str, value: str) -> None:
    env = ENV | {"DURABLE_STREAMS_URL": "http://localhost:1", "PROXY_DATA_DIR": str(tmp_path)} | {name: value}
    done = run_here([] if name == "PROXY_PORT" else ["--port", "0"], env=env)
    assert (done.returncode, done.stdout) == (2, "")
    line = one_line(done.stderr)
    assert name in line or name.removeprefix("PROXY_").lower().replace("_", "-")[:5] in line.lower()


def test_a_port_in_use_stops_the_start_with_one_line(args: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_here(["--port", str(port), *args], env=ENV)
    assert done.returncode == 2
    assert str(port) in one_line(done.stderr)


# The secret


def test_a_secret_on_the_command_line_is_refused_and_not_repeated(args: list[str]) -> None:
    for spelled in (["--secret", "hunter2-canary"], ["--secret=hunter2-canary"]):
        done = run_here(["--port", "0", *args, *spelled], env=ENV)
        assert done.returncode == 2
        assert "hunter2-canary" not in done.stdout + done.stderr


def test_a_comma_is_part_of_the_secret(args: list[str]) -> None:
    with ProxyProcess(args, env=ENV) as proxy:
        assert _status(proxy, SECRET) == 400
        for part in SECRET.split(","):
            assert _status(proxy, part.strip()) == 401


def _status(proxy: ProxyProcess, secret: str) -> int:
    """400 with a valid secret (no upstream is named), 401 without."""
    return httpx.post(f"{proxy.url}/v1/proxy", headers={"Authorization": f"Bearer {secret}"}).status_code


def test_without_a_secret_one_is_made_and_kept_for_its_owner_alone(args: list[str], tmp_path: Path) -> None:
    path = tmp_path / "data" / "secret"
    secrets = set()
    for _ in range(2):
        with ProxyProcess(args) as proxy:
            secret = path.read_text().strip()
            secrets.add(secret)
            assert _status(proxy, secret) == 400
            assert str(path) in proxy.output
            proxy.stop()
            assert secret not in proxy.output
    assert len(secrets) == 1
    assert len(secrets.pop()) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_the_first_secret_of_a_file_signs_and_all_verify(args: list[str], tmp_path: Path, upstream: Upstream) -> None:
    file = tmp_path / "secrets"
    urls = []
    file.touch(mode=0o600)
    for lines in ("old\n", "new\nold\n", "new\n"):
        file.write_text(lines)
        with ProxyProcess([*args, "--secret-file", str(file)]) as proxy:
            for secret in ("old", "new"):
                assert _status(proxy, secret) == (400 if f"{secret}\n" in lines else 401)
            caller = Caller(proxy.url, lines.partition("\n")[0])
            urls.append(caller.create(upstream.serve(fixed(b"x")).url).url)
            statuses = [caller.http.get(url).status_code for url in urls]
            caller.http.close()
    assert statuses == [401, 200, 200]


@pytest.mark.parametrize("weak", ["x", "a" * 64])
def test_a_weak_secret_is_reported_at_the_start_and_not_shown(args: list[str], tmp_path: Path, weak: str) -> None:
    strong = "0123456789abcdef" * 4
    file = tmp_path / "secrets"
    file.touch(mode=0o600)
    file.write_text(f"{strong}\n{weak}\n")
    said = started(args, env={"PROXY_SECRET": weak})
    assert "The service secret is weak: it " in said
    assert weak not in said.replace("weak", "").split()
    said = started([*args, "--secret-file", str(file)])
    assert "Service secret 2 of 2 is weak: it " in said
    assert "Service secret 1" not in said
    assert "weak" not in started(args, env={"PROXY_SECRET": strong})


def test_fetch_finds_the_secret_that_a_proxy_on_this_machine_made(
    args: list[str], tmp_path: Path, upstream: Upstream
) -> None:
    fetch = ["fetch", "--state-dir", str(tmp_path / "state"), "-s"]
    env = {"PROXY_DATA_DIR": str(tmp_path / "data")}
    route = upstream.serve(fixed(b"the answer"))
    with ProxyProcess(args) as proxy:
        done = run_proxy([*fetch, "--proxy", proxy.url, route.url], env=env)
        assert (done.returncode, done.stdout) == (0, "the answer"), done.stderr
        for other in ("http://proxy.invalid:4440", "http://localhost.proxy.invalid"):
            refused = run_proxy([*fetch, "--proxy", other, route.url], env=env)
            assert (refused.returncode, refused.stdout) == (2, "")
            assert "PROXY_SECRET" in refused.stderr


def test_a_token_that_is_made_allows_what_it_says(args: list[str], tmp_path: Path, upstream: Upstream) -> None:
    route = upstream.serve(fixed(b"x"), fixed(b"x"))
    place = ["--data-dir", str(tmp_path / "data")]
    missing = run_proxy(["token", *place])
    assert (missing.returncode, missing.stdout) == (2, "")
    assert "the secret" in one_line(missing.stderr)
    with ProxyProcess(args) as proxy:

        def token(*options: str) -> str:
            return one_line(run_here(["token", *place, *options]).stdout)

        for made, status in (
            (token(), 201),
            (token("--scope", "read delete"), 403),
            (token("--upstream", "https://elsewhere.example/**"), 403),
            (token("--sub", "me", "--scope", "create", "--upstream", route.url, "--seconds", "90s"), 201),
        ):
            caller = Caller(proxy.url, made)
            assert caller.post(route.url).status_code == status
            caller.http.close()
    for bad in (["--scope", "everything"], ["--seconds", "0"], ["--seconds", "soon"], ["--upstream", "ftp://x"]):
        done = run_here(["token", *place, *bad])
        assert (done.returncode, done.stdout) == (2, ""), bad
        one_line(done.stderr)


def test_a_proxy_of_the_environment_that_is_not_used_is_named_at_the_start(args: list[str]) -> None:
    env = ENV | {"https_proxy": "http://user:canary@10.0.0.1:3128", "ALL_PROXY": "socks5://10.0.0.1"}
    said = started(args, env=env)
    assert "HTTPS_PROXY and ALL_PROXY set but not used: " in said
    assert "canary" not in said
    assert "not used" not in started([*args, "--egress-proxy", "http://127.0.0.1:3128"], env=env)


# Storage


@pytest.mark.parametrize("path", ["/elsewhere", "/elsewhere/"])
def test_a_storage_without_streams_at_its_path_is_named_in_the_log_with_the_setting(
    tmp_path: Path, upstream: Upstream, path: str
) -> None:
    with Upstream() as storage:
        args = [*ALLOW, "--durable-streams-url", f"{storage.url}{path}", "--data-dir", str(tmp_path)]
        with ProxyProcess(args, env=ENV) as proxy:
            caller = Caller(proxy.url, SECRET)
            route = upstream.serve(fixed())
            assert (code(caller.post(route.url)), route.count) == ((503, "STORAGE_UNAVAILABLE"), 0)
            caller.http.close()
            proxy.wait_for(f"storage answered 404 to PUT {storage.url}/elsewhere/")
            assert "--durable-streams-url" in proxy.output


# The allowlist


def test_the_allowlist_is_shown_as_it_is_understood(args: list[str]) -> None:
    more = ["--allow", "*.example.com/v1/**", "--allow-private", "http://db.internal"]
    said = started([*args, *more], env=ENV)
    assert "Allowed upstream: http://localhost:*/**\n" in said
    assert "Allowed upstream: https://*.example.com:443/v1/**\n" in said
    assert "Allowed at private addresses: http://db.internal:80/**\n" in said
    assert "No upstream is allowed: give --allow" in started(["--data-dir", args[-1]], env=ENV)


@pytest.mark.parametrize("pattern", ["*", "https://api.openai.com/v1/", "https://api.openai.com*"])
def test_a_pattern_that_cannot_mean_what_it_seems_to_stops_the_start_with_a_hint(args: list[str], pattern: str) -> None:
    for command in ([], ["check-url", "https://api.openai.com/v1/x"]):
        done = run_here([*command, *(args if not command else []), "--allow", pattern], env=ENV)
        assert done.returncode == 2
        assert re.search(r"--allow: .*; write \S+", one_line(done.stderr))


@pytest.mark.parametrize(
    ("url", "code", "said"),
    [
        ("https://api.example.com/v1/chat?x=1", 0, "allowed by 'api.example.com/v1/**', at public addresses"),
        ("http://localhost:8000/", 0, "allowed by 'http://localhost:*', at public and private addresses"),
        ("http://10.0.0.1/", 0, "allowed by 'http://10.0.0.1', at this address"),
        ("https://db.internal/", 0, "allowed by 'https://*.internal', at public and private addresses"),
        ("http://api.example.com/v1/chat", 1, "refused: it is not on the proxy's allowlist"),
        ("https://user@api.example.com/v1/chat", 1, "refused: "),
        ("nonsense", 1, "refused: "),
    ],
)
def test_a_url_is_checked_without_being_called(url: str, code: int, said: str) -> None:
    patterns = "api.example.com/v1/**,http://localhost:*,http://10.0.0.1,https://*.internal"
    env = {"PROXY_ALLOWLIST": patterns, "PROXY_ALLOW_PRIVATE": "https://db.internal"}
    done = run_here(["check-url", url], env=env)
    assert (done.returncode, done.stderr) == (code, "")
    assert one_line(done.stdout).startswith(said)


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_an_idle_proxy_at_once_and_in_order(args: list[str], number: signal.Signals) -> None:
    with ProxyProcess(args, env=ENV) as proxy, httpx.Client() as client:
        assert client.get(f"{proxy.url}/health").status_code == 200  # a connection is kept alive
        proxy.signal(number)
        assert proxy.wait(10) == 0
        assert "Traceback" not in proxy.output


_SIGNALLED_WHEN_IT_LISTENS = """
import os, signal, sys
from proxy import runtime
from proxy.cli import main

made = getattr(runtime, sys.argv[1])

def listening(config):
    server = made(config)
    os.kill(os.getpid(), signal.SIGTERM)
    return server

setattr(runtime, sys.argv[1], listening)
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.parametrize(("server", "command"), [("ProxyServer", "serve"), ("StoreServer", "store")])
def test_a_signal_that_comes_as_soon_as_it_listens_is_a_stop_in_order(
    tmp_path: Path, server: str, command: str
) -> None:
    arguments = [server, command, "--port", "0", "--data-dir", str(tmp_path / "data")]
    ended = subprocess.run(
        [sys.executable, "-c", _SIGNALLED_WHEN_IT_LISTENS, *arguments], capture_output=True, timeout=SOON, check=False
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b" running at " in ended.stdout


def test_a_stop_is_in_order_though_nobody_reads_what_is_said(args: list[str]) -> None:
    command = [sys.executable, "-m", "proxy", "--port", "0", *args]
    with subprocess.Popen(
        command, env={**os.environ, **ENV}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as proxy:
        assert proxy.stdout is not None
        assert proxy.stderr is not None
        while "running at" not in proxy.stdout.readline():
            pass
        proxy.stdout.close()
        proxy.send_signal(signal.SIGTERM)
        assert proxy.wait(20) == 0
        assert proxy.stderr.read() == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has /dev/full")
def test_a_full_disk_under_the_log_is_no_reason_not_to_start(args: list[str], tmp_path: Path) -> None:
    place = tmp_path / "s"
    with (
        Path("/dev/full").open("w") as full,
        subprocess.Popen(
            [sys.executable, "-m", "proxy", "--uds", str(place), *args],
            env={**os.environ, **ENV},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        ) as proxy,
    ):
        until_blocking(lambda: place.exists() or proxy.poll() is not None)
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(place), retries=3)) as client:
            assert client.get("http://localhost/health").status_code == 200
        proxy.send_signal(signal.SIGTERM)
        assert proxy.wait(20) == 0
        assert proxy.stderr is not None
        assert proxy.stderr.read() == ""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_does_not_end_within_the_drain_time_is_interrupted(
    args: list[str], upstream: Upstream, number: signal.Signals
) -> None:
    route = upstream.serve(chunked(b"so far", HANG))
    with ProxyProcess([*args, "--drain-timeout-seconds", "0.2"], env=ENV) as proxy:
        caller = Caller(proxy.url, SECRET)
        stream = caller.create(route.url)
        with stream.live() as live:
            live.until(b"so far")
            proxy.signal(number)
            live.to_end()
        assert live.controls[-1]["upstreamOutcome"] == "interrupted"
        assert proxy.wait(10) == 0
        caller.http.close()
        route.wait_cut()
        assert "Traceback" not in proxy.output
    with ProxyProcess(args, env=ENV) as proxy:
        caller = Caller(proxy.url, SECRET)
        again = caller.stream(httpx.Response(200, headers={"location": stream.url}))
        data, outcome, last = again.whole()
        assert (data, outcome) == (b"so far", "interrupted")
        assert last.headers["upstream-content-type"] == "text/event-stream"
        assert again.head().headers["upstream-outcome"] == "interrupted"
        caller.http.close()


def test_what_ends_within_the_drain_time_is_complete_and_nothing_new_begins(
    args: list[str], upstream: Upstream
) -> None:
    route, other = upstream.serve(chunked(b"so far", GATE, b", and on")), upstream.serve(fixed())
    with ProxyProcess(args, env=ENV) as proxy:
        caller = Caller(proxy.url, SECRET)
        stream = caller.create(route.url)
        stream.until(b"so far")
        with stream.live() as live:
            live.until(b"so far")
            proxy.signal(signal.SIGTERM)
            health = caller.http.get("/health")
            while health.status_code == 200:  # the signal is on its way
                health = caller.http.get("/health")
            assert health.status_code == 503
            assert "draining" in health.text.lower()
            assert code(caller.post(other.url)) == (503, "DRAINING")
            route.release()
            assert live.to_end() == b"so far, and on"
        assert live.controls[-1]["upstreamOutcome"] == "complete"
        caller.http.close()
        assert proxy.wait(20) == 0
    assert other.count == 0


def test_a_stop_says_what_runs_and_a_second_signal_ends_it_at_once(args: list[str], upstream: Upstream) -> None:
    with ProxyProcess([*args, "--drain-timeout-seconds", "600"], env=ENV) as proxy:
        caller = Caller(proxy.url, SECRET)
        for _ in range(2):
            caller.create(upstream.serve(chunked(b"so far", HANG)).url).until(b"so far")
        caller.http.close()
        proxy.signal(signal.SIGINT)
        proxy.wait_for("Stopping: 2 transfers are running and have 600 s to end; a second signal (Ctrl-C) ends them")
        proxy.signal(signal.SIGINT)
        assert proxy.wait(20) == 0
        assert "Traceback" not in proxy.output
        assert proxy.output.endswith("Stopped: transfers that ended by themselves: 0, interrupted: 2\n")


def test_a_stop_says_what_ended_by_itself(args: list[str], upstream: Upstream) -> None:
    route = upstream.serve(chunked(b"so far", GATE))
    with ProxyProcess(args, env=ENV) as proxy:
        caller = Caller(proxy.url, SECRET)
        caller.create(route.url).until(b"so far")
        caller.http.close()
        proxy.signal(signal.SIGTERM)
        proxy.wait_for("Stopping: 1 transfer is running and has 30 s to end")
        route.release()
        assert proxy.wait(20) == 0
        assert proxy.output.endswith("Stopped: transfers that ended by themselves: 1, interrupted: 0\n")


def test_a_stop_without_transfers_asks_for_no_patience(args: list[str]) -> None:
    with ProxyProcess(args, env=ENV) as proxy:
        assert proxy.stop() == 0
        assert proxy.output.endswith("Stopping: no transfer is running\nStopped\n")


# Nothing tells a secret


def test_no_secret_is_in_any_output_or_argument(args: list[str], upstream: Upstream) -> None:
    canaries = {
        "service secret": SECRET,
        "upstream key": "Bearer sk-canary-5391",
        "query": "canary-query-7412",
        "body": "canary-body-9921",
        "storage token": "canary-token-3377",
        "idempotency key": "canary-idempotency-1186",
        "custom header": "canary-header-8844",
    }
    private = [("Upstream-Authorization", canaries["upstream key"]), ("X-Api-Key", canaries["custom header"])]
    once = {"Idempotency-Key": canaries["idempotency key"]}
    env = ENV | {"DURABLE_STREAMS_TOKEN": canaries["storage token"]}
    with ProxyProcess([*args, "--drain-timeout-seconds", "0.1"], env=env) as proxy:
        caller = Caller(proxy.url, SECRET)
        body, query = canaries["body"].encode(), f"/x?key={canaries['query']}"
        scripts: list[Script] = [fixed(body), fixed(body, status=500), fixed(body, status=302), chunked(b"a", HANG)]
        scripts += [[RESET], [b"garbage\r\n\r\n"]]
        signatures = []
        for script in scripts:
            answer = caller.post(upstream.serve(script, path=query).url, headers=private, content=body)
            if answer.status_code == 201:
                stream = caller.stream(answer)
                signatures.append(stream.signed["signature"])
                stream.get()
                stream.get(signature="A" * 43)
                stream.head()
        caller.post(upstream.serve(fixed(body)).url, headers=once)
        caller.post(upstream.serve(fixed(body)).url, headers=once)
        caller.http.get("/nothing", params={"secret": SECRET})
        with caller.raw() as peer:
            peer.send(f"GET /v1/proxy?secret={SECRET} HTTP/9\r\nAuthorization: Bearer {SECRET}\r\n\r\n".encode())
            peer.rest()
        cmdline = Path(f"/proc/{proxy.pid}/cmdline").read_bytes().decode()
        caller.http.close()
        assert proxy.stop() == 0
        told = proxy.output + cmdline
    assert signatures
    leaked = [name for name, canary in canaries.items() if canary in told]
    assert not leaked, told
    assert not [signature for signature in signatures if signature in told], told
    assert "Traceback" not in told
