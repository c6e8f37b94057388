"""The npm durable-streams server as a real process: started on a free port, stopped cleanly, or killed."""

import json
import subprocess
import tempfile
from pathlib import Path

from tests.kit.stopping import Stopping

__all__ = ["NpmStorage"]

_TESTS = Path(__file__).resolve().parent.parent
_START_SECONDS = 20


class NpmStorage(Stopping):
    """`with NpmStorage() as storage:` and `storage.url` is a base URL without path.

    In memory, or in `data_dir`. Its file mode is not crash-safe: if bytes must survive, stop it instead of killing it.
    """

    def __init__(self, data_dir: Path | None = None, *, long_poll_seconds: float = 30, port: int = 0) -> None:
        options: dict[str, object] = {"longPollTimeout": round(long_poll_seconds * 1000), "port": port}
        if data_dir is not None:
            options["dataDir"] = str(data_dir)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the process does
        self._process = subprocess.Popen(
            ["node", str(_TESTS / "kit" / "npm_server.mjs"), json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=_TESTS,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.kill()
            raise RuntimeError(f"the npm server did not start: {self.errors()}")
        self.url: str = json.loads(line)["url"]

    @property
    def pid(self) -> int:
        """The process, for signals such as STOP and CONT."""
        return self._process.pid

    def errors(self) -> str:
        """What it wrote to stderr so far."""
        if self._errors.closed:
            return ""
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def stop(self) -> None:
        """Close its stdin, which ends it, and wait. May be repeated."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(_START_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._release()

    def kill(self) -> None:
        """Send SIGKILL and wait."""
        self._process.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._release()

    def _release(self) -> None:
        self._process.wait(_START_SECONDS)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()
