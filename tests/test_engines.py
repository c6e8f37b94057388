"""The whole proxy with its streams in a real Redis or Valkey: what it says at its start, and its conformance."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kit.certificates import Authority
from tests.kit.engines import Engine, redis_binary, valkey_binary
from tests.kit.event_loops import python_path
from tests.kit.ports import free_port
from tests.kit.proxy_process import ProxyProcess, run_proxy

ROOT = Path(__file__).resolve().parent.parent
SECRET = "the service secret of these tests"
ALLOW = ["--allow", "http://localhost:*/**"]


def binary_of(name: str) -> str:
    binary = valkey_binary() if name == "valkey" else redis_binary()
    if binary is None:
        pytest.skip(f"there is no {name}")
    return binary


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    with Engine(binary_of("valkey"), tmp_path / "engine", has_port=True) as engine:
        yield engine


def refused(engine: Engine, *args: str, **environment: str) -> str:
    """What a proxy says that does not start."""
    done = run_proxy(["--port", "0", "--store-url", engine.url, *args], env={"PROXY_SECRET": SECRET} | environment)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    return done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("name", ["redis", "valkey"])
def test_the_proxy_s_conformance_suite_passes_on_it(tmp_path: Path, name: str) -> None:
    with (
        Engine(binary_of(name), tmp_path / "engine", has_port=True) as engine,
        ProxyProcess(
            ["--store-url", engine.url, *ALLOW, "--error-body-timeout-seconds", "1"], env={"PROXY_SECRET": SECRET}
        ) as proxy,
    ):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "tests/conformance", "-q", "-p", "no:cacheprovider"],
            cwd=ROOT,
            env=os.environ
            | {
                "PROXY_CONFORMANCE_URL": proxy.url,
                "PROXY_CONFORMANCE_SECRET": SECRET,
                "PYTHONPATH": python_path(ROOT),
            },
            capture_output=True,
            text=True,
            timeout=500,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-5000:]
        assert "Traceback" not in proxy.output, proxy.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "in memory only: a crash may lose everything since the last snapshot"),
        (("--appendonly", "yes", "--appendfsync", "everysec"), "in memory only: a crash may lose the last second"),
        (("--appendonly", "yes", "--appendfsync", "always"), "on the primary's disk"),
    ],
)
def test_a_line_at_the_start_says_what_an_acknowledgement_is_worth(
    tmp_path: Path, options: tuple[str, ...], words: str
) -> None:
    with (
        Engine(binary_of("valkey"), tmp_path / "engine", *options, has_port=True) as engine,
        ProxyProcess(["--store-url", engine.url, *ALLOW], env={"PROXY_SECRET": SECRET}) as proxy,
    ):
        assert f"Acknowledged means: {words}\n" in proxy.output


def test_a_server_that_evicts_keys_stops_the_start(tmp_path: Path) -> None:
    with Engine(binary_of("valkey"), tmp_path / "engine", "--maxmemory-policy", "allkeys-lru", has_port=True) as engine:
        assert "Set maxmemory-policy to noeviction" in refused(engine)


def test_a_server_that_is_not_there_stops_the_start(engine: Engine) -> None:
    engine.kill()
    assert f"127.0.0.1:{engine.port}" in refused(engine)


def test_passwords_are_taken_from_the_environment_or_a_file_and_shown_nowhere(tmp_path: Path) -> None:
    with Engine(binary_of("valkey"), tmp_path / "engine", has_port=True) as engine:
        rights = ("~ds:*", "&ds:*", "+@all", "-@admin", "+role", "+config|get")
        assert engine.ask("ACL", "SETUSER", "proxy", "on", ">pass:word@/", *rights) == b"+OK\r\n"
        assert engine.ask("ACL", "SETUSER", "default", "off") == b"+OK\r\n"
        at = f"127.0.0.1:{engine.port}"
        file = tmp_path / "url"
        file.write_text(f"redis://proxy:pass%3Aword%40%2F@{at}\n")
        environment = {"PROXY_SECRET": SECRET}
        with ProxyProcess(["--store-url-file", str(file), *ALLOW], env=environment) as proxy:
            assert "pass" not in proxy.output
        environment["PROXY_STORE_PASSWORD"] = "pass:word@/"
        with ProxyProcess(["--store-url", f"redis://proxy@{at}", *ALLOW], env=environment) as proxy:
            assert "pass" not in proxy.output
        wrong = run_proxy(
            ["--port", "0", "--store-url", f"redis://proxy@{at}"], env=environment | {"PROXY_STORE_PASSWORD": "a guess"}
        )
        assert (wrong.returncode, "WRONGPASS" in wrong.stderr, "a guess" in wrong.stderr) == (2, True, False)
        argument = run_proxy(["--store-url", f"redis://proxy:hidden@{at}"], env=environment)
        assert (argument.returncode, "hidden" in argument.stderr) == (2, False)
        assert "PROXY_STORE_PASSWORD" in argument.stderr


def test_a_server_is_spoken_to_over_tls_when_its_certificate_is_trusted(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.pair("server")
    port = free_port()
    options = (
        "--tls-port", str(port), "--tls-cert-file", str(pair.certificate), "--tls-key-file", str(pair.key),
        "--tls-ca-cert-file", str(authority.ca_file), "--tls-auth-clients", "no",
    )  # fmt: skip
    url = ["--store-url", f"rediss://localhost:{port}"]
    with Engine(binary_of("redis"), tmp_path / "engine", *options):
        with ProxyProcess([*url, "--ca-file", str(authority.ca_file), *ALLOW], env={"PROXY_SECRET": SECRET}) as proxy:
            assert "Storage is Redis" in proxy.output
        strange = run_proxy(["--port", "0", *url], env={"PROXY_SECRET": SECRET})
        assert (strange.returncode, "certificate" in strange.stderr.lower()) == (2, True), strange.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--store-url", "http://localhost"), "must be redis://HOST"),
        (("--store-url", "redis://localhost", "--store-url-file", "f"), "exclude each other"),
        (("--store-url", "redis://localhost", "--durable-streams-url", "http://localhost"), "exclude each other"),
        (("--store-url", "redis://localhost", "--store-prefix", "{a}"), "--store-prefix"),
        (("--store-url-file", "/nowhere/at/all"), "cannot be read"),
    ],
)
def test_a_url_that_cannot_be_used_stops_the_start_with_a_reason(args: tuple[str, ...], words: str) -> None:
    done = run_proxy(["--port", "0", *args], env={"PROXY_SECRET": SECRET})
    assert (done.returncode, words in done.stderr) == (2, True), done.stderr
