"""Where credentials are kept between calls or between processes: any object with `get`, `set` and `delete`."""

import contextlib
import hashlib
import os
import re
import secrets
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Protocol

from proxy.client.options import ABANDONED_SECONDS, MEMORY_ENTRIES

__all__ = ["CredentialStorage", "FileStorage", "MemoryStorage"]

_OURS = re.compile(r"[0-9a-f]{64}\.json|\.[0-9a-f]{64}\.json\.[0-9a-f]{16}")


class CredentialStorage(Protocol):
    """Texts by key. The values open streams, so they need as much privacy as the answers do."""

    def get(self, key: str) -> str | None:
        """The value; None when the key has none."""

    def set(self, key: str, value: str) -> None:
        """Store the value, replacing an earlier one."""

    def delete(self, key: str) -> None:
        """Remove the value; no error when the key has none."""


class MemoryStorage:
    """Texts in this process. Above `max_entries`, the entries that were set longest ago are dropped."""

    def __init__(self, max_entries: int = MEMORY_ENTRIES) -> None:
        self._max_entries = max_entries
        self._values: OrderedDict[str, str] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: str) -> str | None:
        """The value; None when the key has none."""
        with self._lock:
            return self._values.get(key)

    def set(self, key: str, value: str) -> None:
        """Store the value; drop the oldest entries above the limit."""
        with self._lock:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self._max_entries:
                self._values.popitem(last=False)

    def delete(self, key: str) -> None:
        """Remove the value."""
        with self._lock:
            self._values.pop(key, None)


class FileStorage:
    """A file for each key, readable by its owner only (mode 0600; a folder made here has mode 0700).

    File names are hashes of the keys. A file is replaced as a whole, so several processes may share a folder.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self._directory = Path(directory)
        self._pruned = False

    def _path(self, key: str) -> Path:
        return self._directory / f"{hashlib.sha256(key.encode()).hexdigest()}.json"

    def get(self, key: str) -> str | None:
        """The value; None when the key has none. Raises OSError when the file cannot be read."""
        try:
            return self._path(key).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None

    def set(self, key: str, value: str) -> None:
        """Store the value. Raises OSError when the file cannot be written; the earlier value stays."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._prune()
        path = self._path(key)
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(value)
            fresh.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                fresh.unlink()
            raise

    def delete(self, key: str) -> None:
        """Remove the value. Raises OSError when the file cannot be removed."""
        self._path(key).unlink(missing_ok=True)

    def _prune(self) -> None:
        """At the first write, remove files that are so old that their streams have expired."""
        if self._pruned:
            return
        self._pruned = True
        oldest = time.time() - ABANDONED_SECONDS
        for file in self._directory.iterdir():
            with contextlib.suppress(OSError):
                if _OURS.fullmatch(file.name) and file.stat().st_mtime < oldest:
                    file.unlink()
