"""`fetch` as a process: what it writes, where it ends, what it remembers, and that it keeps secrets to itself."""

import argparse
import io
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from proxy.client import command
from tests.client.processes import Child
from tests.client.scripted_proxy import ScriptedProxy, error_answer

ROOT = Path(__file__).resolve().parent.parent.parent
RUN = """
import argparse, sys
from proxy.client import command
parser = argparse.ArgumentParser("fetch")
command.add_arguments(parser)
sys.exit(command.main(parser.parse_args()))
"""
URL = "http://upstream.test/v1"


class Shell:
    """A shell with a proxy in its environment and a home of its own."""

    def __init__(self, url: str, secret: str, home: Path, program: Sequence[str] = ("-c", RUN)) -> None:
        self._proxy = {"PROXY_URL": url, "PROXY_SECRET": secret}
        self._program = program
        self.home = home

    def environment(self, extra: Mapping[str, str]) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
        return kept | {"PYTHONPATH": str(ROOT), "HOME": str(self.home)} | self._proxy | dict(extra)

    def start(
        self,
        *args: str,
        env: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
        stderr: int = subprocess.PIPE,
    ) -> Child:
        return Child(
            [sys.executable, *self._program, *args],
            env=self.environment(env or {}),
            cwd=self.home,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=stderr,
        )

    def run(self, *args: str, env: Mapping[str, str] | None = None, stdin: bytes = b"") -> tuple[int, bytes, str]:
        with self.start(*args, env=env, stdin=subprocess.PIPE) as process:
            out, err = process.communicate(stdin, timeout=30)
        assert b"Traceback" not in err, err.decode()
        return process.returncode, out, err.decode()


Run = Callable[..., tuple[int, bytes, str]]


@pytest.fixture
def run(
    proxy: ScriptedProxy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsysbinary: pytest.CaptureFixture[bytes],
) -> Run:
    """The command in this process, which is quicker: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, env: Mapping[str, str] | None = None, stdin: bytes = b"") -> tuple[int, bytes, str]:
        home = {"HOME": str(tmp_path), "PROXY_URL": proxy.url, "PROXY_SECRET": proxy.secret}
        for name, value in (home | dict(env or {})).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        parser = argparse.ArgumentParser("fetch")
        command.add_arguments(parser)
        code = command.main(parser.parse_args(arguments))
        out, err = capsysbinary.readouterr()
        return code, out, err.decode()

    return run


class ScriptedShell(Shell):
    """A shell and its scripted proxy."""

    def __init__(self, proxy: ScriptedProxy, home: Path) -> None:
        super().__init__(proxy.url, proxy.secret, home)
        self.proxy = proxy


@pytest.fixture
def shell(proxy: ScriptedProxy, tmp_path: Path) -> ScriptedShell:
    """Where the command is run."""
    return ScriptedShell(proxy, tmp_path)


def test_the_answer_is_written_as_it_came_and_nothing_else(shell: ScriptedShell) -> None:
    body = bytes(range(256)) * 100
    shell.proxy.stream(body)
    assert shell.run(URL) == (0, body, "")
    (asked,) = shell.proxy.creates
    assert (asked.headers["upstream-url"], asked.headers["upstream-method"], asked.body) == (URL, "GET", b"")


def test_data_makes_it_a_post_of_json_unless_told_otherwise(proxy: ScriptedProxy, run: Run, tmp_path: Path) -> None:
    (tmp_path / "body").write_bytes(b"\x00file")
    (tmp_path / "headers").write_text("X-One: 1\n\nContent-Type: text/csv\n")
    for arguments, stdin in (
        (["-d", '{"q": 1}'], b""),
        (["-X", "PUT", "-d", "@body", "-H", "@headers"], b""),
        (["-d", "@-", "-H", "X-Two:2"], b"from stdin"),
    ):
        proxy.stream(b"ok")
        assert run(URL, *arguments, stdin=stdin)[:2] == (0, b"ok")
    seen = [(asked.headers["upstream-method"], asked.headers["content-type"], asked.body) for asked in proxy.creates]
    assert seen == [
        ("POST", "application/json", b'{"q": 1}'),
        ("PUT", "text/csv", b"\x00file"),
        ("POST", "application/json", b"from stdin"),
    ]
    assert [proxy.creates[1].headers["x-one"], proxy.creates[2].headers["x-two"]] == ["1", "2"]


def test_secrets_come_from_the_environment_or_from_files(proxy: ScriptedProxy, run: Run, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(f"{proxy.secret}\nan older one\n")
    proxy.stream(b"ok")
    env = {"PROXY_SECRET": "", "UPSTREAM_AUTHORIZATION": "Bearer sk-1"}
    assert run(URL, "--secret-file", "secret", env=env)[0] == 0
    assert proxy.creates[0].headers["upstream-authorization"] == "Bearer sk-1"
    code, _, err = run(URL, env={"PROXY_SECRET": ""})
    assert code == 2
    assert "PROXY_SECRET" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "URL"),
        (["--abort"], "--request-id"),
        ([URL, "-C"], "--request-id"),
        ([URL, "-H", "nothing"], "Name: value"),
        ([URL, "-d", "@missing"], "missing"),
        ([URL, "--secret-file", "missing"], "missing"),
        ([URL, "--proxy", "proxy.test"], "proxy_url"),
        (["no-url"], "url"),
        (["--request-id", "unknown"], "remembered"),
        (["--request-id", "unknown", "--abort"], "remembered"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(run: Run, arguments: list[str], told: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out, err.count("\n")) == (2, b"", 1)
    assert told in err


def test_what_can_never_be_sent_is_bad_usage(proxy: ScriptedProxy, run: Run) -> None:
    for arguments, env in (
        (["-H", "bad name: x", "--request-id", "turn"], {}),
        ([], {"PROXY_SECRET": "one\ntwo"}),
    ):
        code, out, err = run(URL, *arguments, env=env)
        assert (code, out, err.count("\n"), "header" in err, "two" in err) == (2, b"", 1, True, False)
    proxy.stream(b"ok")
    assert run(URL, "--request-id", "turn")[:2] == (0, b"ok")


def test_a_user_without_a_home_is_asked_to_choose_a_place(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    code, out, err = run(URL)
    assert (code, out, err.count("\n"), "--state-dir" in err) == (2, b"", 1, True)


@pytest.mark.parametrize(("redirect", "asked"), [(">/dev/full", 1), (">&-", 0)])
def test_an_output_that_cannot_be_written_is_one_line_and_an_exit_code(
    shell: ScriptedShell, redirect: str, asked: int
) -> None:
    shell.proxy.stream(b"hello", outcome=None)
    program = ["sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, "-c", RUN, URL]
    done = subprocess.run(program, env=shell.environment({}), capture_output=True, timeout=30, check=False)
    assert (done.returncode, done.stdout, done.stderr.count(b"\n")) == (23, b"", 1), done.stderr
    assert b"stdout" in done.stderr
    assert len(shell.proxy.creates) == asked


def test_a_closed_stderr_costs_the_words_and_not_the_answer(shell: ScriptedShell) -> None:
    for url, expected in ((URL, (0, b"hello")), ("no-url", (2, b""))):
        shell.proxy.stream(b"hello")
        program = ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", RUN, url]
        done = subprocess.run(program, env=shell.environment({}), capture_output=True, timeout=30, check=False)
        assert (done.returncode, done.stdout) == expected


def test_the_exit_code_says_what_went_wrong(proxy: ScriptedProxy, run: Run) -> None:
    proxy.answers.append(error_answer(403, "UPSTREAM_NOT_ALLOWED"))
    code, out, err = run(URL)
    assert (code, out, "UPSTREAM_NOT_ALLOWED" in err) == (3, b"", True)

    proxy.answers.append(error_answer(502, "x", message="own words", headers={"Upstream-Status": "429"}))
    code, out, err = run(URL)
    assert (code, b"own words" in out, "429" in err) == (22, True, True)

    proxy.stream(b"half", outcome="upstream_error")
    code, out, err = run(URL)
    assert (code, out, "upstream_error" in err) == (18, b"half", True)

    code, out, err = run(URL, "--proxy", "http://127.0.0.1:1")
    assert (code, out, "could not be reached" in err) == (7, b"", True)


HOSTILE = "\x1b]0;owned\x07\x1b[2J\rdone\n\x9b31m\u202e\u2028"


def is_harmless(text: str) -> bool:
    return all(each.isprintable() for each in text.replace("\n", "")) and text.count("\n") == 1


def test_an_error_message_reaches_the_terminal_escaped(proxy: ScriptedProxy, run: Run) -> None:
    proxy.answers.append(error_answer(403, "UPSTREAM_NOT_ALLOWED", message=f"no {HOSTILE} host"))
    code, out, err = run(URL)
    assert (code, out) == (3, b"")
    assert is_harmless(err)
    assert r"no \x1b]0;owned\x07\x1b[2J\rdone\n\x9b31m\u202e\u2028 host" in err


def test_a_broken_answer_reaches_the_terminal_escaped(proxy: ScriptedProxy, run: Run) -> None:
    proxy.answers += [b"HTTP/1.1 \x1b[31m\x07 x\r\n\r\n"] * 3
    code, _, err = run(URL)
    assert code == 7
    assert is_harmless(err)


def test_a_file_that_cannot_be_read_is_named_escaped(run: Run) -> None:
    code, _, err = run(URL, "--secret-file", "no\x1b[2Jfile")
    assert code == 2
    assert is_harmless(err)
    assert r"no\x1b[2Jfile" in err


def test_after_an_interrupt_the_request_id_brings_the_answer_back(shell: ScriptedShell) -> None:
    stream = shell.proxy.stream(b"one ", outcome=None)
    process = shell.start(URL, "--request-id", "turn 1")
    assert process.stdout is not None
    with process:
        assert process.stdout.read(4) == b"one "
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, b"")
    assert b"--request-id" in err
    assert b"Traceback" not in err
    assert shell.proxy.aborts == []
    shell.proxy.close(stream, "complete", b"two")
    assert shell.run("--request-id", "turn 1")[:2] == (0, b"one two")
    assert len(shell.proxy.creates) == 1
    assert shell.run("--request-id", "turn 1")[0] == 2


def test_only_what_is_kept_is_promised(shell: ScriptedShell) -> None:
    code, _, err = shell.run(URL, "--request-id", "turn", "--proxy", "http://127.0.0.1:1")
    assert (code, "repeat the command with the same --request-id turn" in err, "kept:" in err) == (7, True, False)

    shell.proxy.answers.append(b"")
    with shell.start(URL, "--request-id", "turn") as process:
        assert shell.proxy.asked.wait(10)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    assert process.returncode == 130
    assert b"repeat the command with the same --request-id turn" in told

    shell.proxy.stream(b"one ", outcome=None)
    process = shell.start(URL, "--request-id", "turn")
    assert process.stdout is not None
    with process:
        assert process.stdout.read(4) == b"one "
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    assert b"resume it with --request-id turn" in told


def test_continue_brings_the_rest_and_repeats_the_last_piece_at_most(shell: ScriptedShell) -> None:
    stream = shell.proxy.stream(b"one ", outcome=None)
    process = shell.start(URL, "--request-id", "turn")
    assert process.stdout is not None
    with process:
        assert process.stdout.read(4) == b"one "
        shell.proxy.append(stream, b"two ")
        assert process.stdout.read(4) == b"two "
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    shell.proxy.close(stream, "complete", b"three")
    code, out, _ = shell.run(URL, "-C", "--request-id", "turn")
    assert code == 0
    assert out in (b"two three", b"three")  # whether "two" was noted before the interrupt is a race


def test_an_interrupt_without_an_id_stops_the_upstream(shell: ScriptedShell) -> None:
    stream = shell.proxy.stream(b"one ", outcome=None)
    process = shell.start(URL)
    assert process.stdout is not None
    with process:
        assert process.stdout.read(4) == b"one "
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130
    assert shell.proxy.aborts == [stream.id]


def test_abort_stops_the_upstream_of_an_id(shell: ScriptedShell) -> None:
    stream = shell.proxy.stream(b"one ", outcome=None)
    process = shell.start(URL, "--request-id", "turn")
    assert process.stdout is not None
    with process:
        assert process.stdout.read(4) == b"one "
        assert shell.run("--request-id", "turn", "--abort") == (0, b"", "")
        process.wait(30)
    assert process.returncode == 18
    assert shell.proxy.aborts == [stream.id]


def test_a_reader_that_has_seen_enough_ends_it_quietly(shell: ScriptedShell) -> None:
    stream = shell.proxy.stream(b"one ", outcome=None)
    process = shell.start(URL, "--request-id", "turn")
    assert process.stdout is not None
    with process:
        assert process.stdout.read(4) == b"one "
        process.stdout.close()
        shell.proxy.append(stream, b"two")
        assert process.wait(30) == 141
        assert process.stderr is not None
        assert process.stderr.read() == b""


@pytest.mark.parametrize("silent", [[], ["-s"]])
def test_progress_is_shown_to_a_terminal_that_the_answer_does_not_go_to(
    shell: ScriptedShell, silent: list[str]
) -> None:
    shell.proxy.stream(b"x" * 1234)
    ours, its = pty.openpty()
    with shell.start(URL, *silent, stderr=its) as process:
        out, _ = process.communicate(timeout=30)
    os.close(its)
    shown = b""
    while select.select([ours], [], [], 0)[0]:
        try:
            shown += os.read(ours, 1024)
        except OSError:
            break
    os.close(ours)
    assert out == b"x" * 1234
    assert (b"1,234 bytes" in shown) is (silent == [])


def test_what_is_remembered_is_private_and_where_it_belongs(shell: ScriptedShell, tmp_path: Path) -> None:
    for env, place in (
        ({}, ".local/state/durable-proxy"),
        ({"XDG_STATE_HOME": str(tmp_path / "x")}, "x/durable-proxy"),
    ):
        stream = shell.proxy.stream(b"one ", outcome=None)
        process = shell.start(URL, "--request-id", "turn", env=env)
        assert process.stdout is not None
        with process:
            assert process.stdout.read(4) == b"one "
            (file,) = (tmp_path / place).glob("*.json")
            assert file.stat().st_mode & 0o777 == 0o600
            shell.proxy.close(stream)
        assert list((tmp_path / place).iterdir()) == []


def test_help_tells_the_exit_codes_and_no_option_takes_a_secret() -> None:
    parser = argparse.ArgumentParser("fetch")
    command.add_arguments(parser)
    text = parser.format_help()
    assert "exit codes" in text
    assert not {"--secret", "--proxy-authorization", "--token"} & set(text.split())
