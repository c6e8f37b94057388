"""`python -m proxy` as a real process: secrets by environment, start-up line awaited, output collected."""

import asyncio
import contextlib
import io
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from unittest.mock import patch

from proxy.cli import main
from tests.kit.event_loops import python_path

__all__ = ["ProxyProcess", "run_here", "run_proxy"]

_ROOT = Path(__file__).resolve().parent.parent.parent
_RUNNING = re.compile(r"(?:Proxy|Store) running at (\S+)")


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without the proxy settings of the developer's shell, plus `extra`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PROXY_", "DURABLE_STREAMS_"))}
    return kept | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": python_path(_ROOT)} | dict(extra)


def run_proxy(
    args: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout: float = 20
) -> subprocess.CompletedProcess[str]:
    """Run the proxy until it exits by itself (`--help`, a bad setting); stdout and stderr apart, as text."""
    return subprocess.run(
        [sys.executable, "-m", "proxy", *args],
        env=_environment(env or {}),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


class _Stopped:
    """Signals of a server that is asked to stop before it has started."""

    def __init__(self) -> None:
        self.first = asyncio.Event()
        self.second = asyncio.Event()
        self.first.set()


def run_here(args: Sequence[str], *, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """As `run_proxy`, but in this process: for commands that end by themselves, without the start of an interpreter.

    A server that starts after all is stopped at once, and the exit code is 0. What the proxy changes in its process
    (limits, memory, signals) is left alone.
    """
    out, err = io.StringIO(), io.StringIO()
    with contextlib.ExitStack() as stack:
        for name in ("raise_descriptor_limit", "keep_freed_memory", "seek_cycles_seldom"):
            stack.enter_context(patch(f"proxy.runtime.{name}"))
        stack.enter_context(patch("proxy.runtime.Signals", _Stopped))
        stack.enter_context(patch.dict(os.environ, _environment(env or {}), clear=True))
        stack.enter_context(contextlib.redirect_stdout(out))
        stack.enter_context(contextlib.redirect_stderr(err))
        try:
            code = main(args)
        except SystemExit as ended:
            code = int(ended.code or 0)
    return subprocess.CompletedProcess(list(args), code, out.getvalue(), err.getvalue())


class ProxyProcess:
    """`with ProxyProcess(["--allow", …], env={"PROXY_SECRET": …}) as proxy:` and `proxy.url` answers.

    The port is free (`--port 0`) unless `args` name one. `output` is stdout and stderr as they came. It never outlives
    the process that started it.
    """

    def __init__(
        self, args: Sequence[str], *, env: Mapping[str, str] | None = None, cwd: Path | None = None, timeout: float = 20
    ) -> None:
        port = [] if "--port" in args else ["--port", "0"]
        self._lines: list[str] = []
        self._grown = threading.Condition()
        self._running = threading.Event()
        self.url = ""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "proxy", *port, *args],
            env=_environment(env or {}),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        # Kills the proxy when the tests end without having done so, even by SIGKILL: then its stdin ends.
        self._leash = subprocess.Popen(["sh", "-c", f"read _; kill -KILL {self._process.pid}"], stdin=subprocess.PIPE)
        self._collector = threading.Thread(target=self._collect, name="proxy output", daemon=True)
        self._collector.start()
        if not self._running.wait(timeout) or not self.url:
            self.kill()
            raise RuntimeError(f"the proxy did not start:\n{self.output}")

    def _collect(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._grown:
                self._lines.append(line)
                self._grown.notify_all()
            if not self._running.is_set() and (match := _RUNNING.search(line)):
                self.url = match[1]
                self._running.set()
        self._running.set()  # the process ended: the line will not come

    @property
    def pid(self) -> int:
        """The process, for `/proc` and for signals."""
        return self._process.pid

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.url.rpartition(":")[2])

    @property
    def output(self) -> str:
        """Everything it has written so far, both streams."""
        return "".join(self._lines)

    def wait_for(self, text: str, timeout: float = 20) -> None:
        """Wait until it has written `text`, within one line."""
        with self._grown:
            assert self._grown.wait_for(lambda: any(text in line for line in self._lines), timeout), self._lines

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def wait(self, timeout: float = 20) -> int:
        """Wait until it exits; the exit code, negative for a signal. `output` is complete afterwards."""
        code = self._process.wait(timeout)
        self._leash.kill()
        self._leash.wait(timeout)
        self._collector.join(timeout)
        for pipe in (self._process.stdout, self._leash.stdin):
            if pipe is not None:
                pipe.close()
        return code

    def stop(self, timeout: float = 40) -> int:
        """Send SIGTERM and wait; kill it after `timeout` seconds."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            return self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """Send SIGKILL and wait. May be called after its end."""
        self._process.kill()
        self.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
