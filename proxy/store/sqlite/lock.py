"""A data directory belongs to one process at a time. Owns the lock file."""

import fcntl
import os
from pathlib import Path

from proxy.store.port import StoreUnusable

__all__ = ["DirectoryLock"]


class DirectoryLock:
    """The lock on a directory, held until `release`.

    The kernel releases it when the process ends, however it ends. The file stays; its existence means nothing.
    """

    def __init__(self, directory: Path) -> None:
        """Lock `directory`, which exists. Raises StoreUnusable when another process has it, OSError."""
        self._descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise StoreUnusable(f"{directory} is in use by another process") from None
        except BaseException:
            os.close(self._descriptor)
            raise

    def release(self) -> None:
        """Release the directory for the next process. Harmless when repeated."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
