"""A data directory belongs to one process at a time. Owns the lock file."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["DirectoryInUse", "lock_data_directory"]


class DirectoryInUse(Exception):
    """Another process works in the directory."""


@contextmanager
def lock_data_directory(directory: Path) -> Iterator[None]:
    """Hold `directory` (which exists) until the block ends. Raises DirectoryInUse, OSError.

    The kernel drops the lock when the process ends, however it ends; the file stays and means nothing by itself.
    """
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DirectoryInUse(f"{directory} is in use by another process") from None
        yield
    finally:
        os.close(descriptor)
