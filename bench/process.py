"""A process under test: starts it on its core, reads its CPU and memory from outside, ends it.

Owns `/proc` and signals. Does not know what the process does.
"""

import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

__all__ = ["CORES", "LOAD_CORE", "PROXY_CORE", "Child", "cpu_seconds", "free_port", "pin_self"]

_START_SECONDS = 30
_STOP_SECONDS = 10
_TICK = os.sysconf("SC_CLK_TCK")


CORES = sorted(os.sched_getaffinity(0))
"""The cores that this process might use at its start."""
PROXY_CORE = CORES[0]
LOAD_CORE = CORES[-1]


def pin_self() -> bool:
    """Puts this process (load, upstream, storage) on the last core; False with one core only: nothing is pinned."""
    if len(CORES) < 2:
        return False
    os.sched_setaffinity(0, {LOAD_CORE})
    return True


def free_port() -> int:
    """A free port of 127.0.0.1, below the range that the system uses for outgoing connections."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def cpu_seconds(pid: int) -> float:
    """User and system time of one process, all its threads, also those that have ended.

    The kernel's own CPU clock of the process where it may be read, which counts nanoseconds; else `/proc/PID/stat`,
    which counts the same time in ticks of 10 ms.
    """
    try:
        return time.clock_gettime_ns(~pid << 3 | 2) / 1e9
    except OSError:
        return sum(_user_and_system(pid))


def _user_and_system(pid: int) -> tuple[float, float]:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / _TICK, int(fields[12]) / _TICK


class Child:
    """A process and its descendants, on `core`. `directory` belongs to it and is removed with it."""

    def __init__(self, command: Sequence[str], directory: Path, env: Mapping[str, str], core: int) -> None:
        self.command = command
        self._directory = directory
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # it lives as long as the process
        mine = os.sched_getaffinity(0)
        if len(CORES) > 1:
            os.sched_setaffinity(0, {core})  # a child inherits it from its first instruction on
        try:
            self._process = subprocess.Popen(
                command,
                env={**os.environ, **env},
                stdin=subprocess.PIPE,
                stdout=self._output,
                stderr=subprocess.STDOUT,
            )
        finally:
            os.sched_setaffinity(0, mine)

    @property
    def pid(self) -> int:
        """The first process."""
        return self._process.pid

    @property
    def output(self) -> str:
        """The last 4 KiB that it has written."""
        self._output.seek(0)
        return self._output.read().decode(errors="replace")[-4096:]

    def wait_for_port(self, port: int) -> None:
        """Wait until the process accepts connections. Raises RuntimeError, with its output, if it does not."""
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.02)
        self.kill()
        raise RuntimeError(f"{' '.join(self.command)} did not start:\n{self.output}")

    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def pids(self) -> list[int]:
        """The process and its descendants."""
        found, waiting = [], [self.pid]
        while waiting:
            pid = waiting.pop()
            found.append(pid)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                waiting += map(int, children.read_text().split())
        return found

    def cpu(self) -> float:
        """Seconds of CPU (user and system) used so far, by all of them."""
        return sum(cpu_seconds(pid) for pid in self.pids())

    def user_and_system(self) -> tuple[float, float]:
        """User and system time, in seconds, as `/proc/PID/stat` counts them."""
        both = [_user_and_system(pid) for pid in self.pids()]
        return sum(user for user, _ in both), sum(system for _, system in both)

    def memory(self) -> int:
        """Bytes resident now (VmRSS)."""
        return self._status("VmRSS")

    def peak(self) -> int:
        """Most bytes resident at once (VmHWM) since the start or the last `reset_peak`."""
        return self._status("VmHWM")

    def reset_peak(self) -> None:
        """Let `peak` start again from the memory that is resident now."""
        for pid in self.pids():
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def _status(self, name: str) -> int:
        total = 0
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith(name + ":"):
                    total += int(line.split()[1]) * 1024
        return total

    def stop(self) -> None:
        """End the process by SIGTERM, and by SIGKILL if it does not end."""
        if self.alive():
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self.kill()

    def kill(self) -> None:
        """SIGKILL, wait, and remove its directory. Harmless after the end."""
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)
        if self._process.stdin is not None:
            self._process.stdin.close()
