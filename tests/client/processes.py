"""Child processes of tests, none of which outlives a test that fails."""

import subprocess
from types import TracebackType

__all__ = ["Child"]


class Child(subprocess.Popen[bytes]):
    """A process that is killed when its `with` block ends by an exception: to wait for it then could take for ever."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, error, trace)
