"""`tests.store.serve` as a process that a test starts, kills and asks."""

import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Self

__all__ = ["StoreProcess"]

_ROOT = Path(__file__).parents[2]


class StoreProcess:
    """A store over TCP on a free port, from construction until `stop` or `kill`.

    It keeps its streams in `directory`, or in the Redis or Valkey at `url`.
    """

    def __init__(self, directory: Path, url: str = "") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.store.serve", str(directory), *([url] if url else [])],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.kill()
            raise AssertionError("the store did not start")
        self.port = int(line)

    def kill(self) -> None:
        """SIGKILL, at once."""
        self._process.kill()
        self._release()

    def stop(self) -> None:
        """Let it close and end by itself."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(20) == 0
        self._release()

    def _release(self) -> None:
        self._process.wait(20)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self.kill()
