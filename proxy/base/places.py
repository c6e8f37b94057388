"""Where the files of a proxy are when nothing else is said. The server writes there, `fetch` looks there."""

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["DATA_DIR", "made_secret", "secret_in"]

DATA_DIR = "~/.local/share/durable-proxy"
"""The data directory: embedded store, and the service secret that a proxy makes when none is given."""


def secret_in(directory: Path) -> Path:
    """The file of the service secret that a proxy with this data directory makes."""
    return directory / "secret"


def made_secret(environment: Mapping[str, str] = os.environ) -> Path | None:
    """The secret file that a proxy of this user makes, whether it exists or not; None for a user without a home."""
    directory = Path(environment.get("PROXY_DATA_DIR", "").strip() or DATA_DIR)
    try:
        return secret_in(directory.expanduser())
    except RuntimeError:
        return None
