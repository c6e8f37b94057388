"""The service secret: where it is found, and how it is made when none is given. Owns the files that hold it."""

import os
from collections.abc import Iterable
from pathlib import Path

from proxy.config.config import AccessSettings, PlaceSettings
from proxy.config.setting import ConfigError

__all__ = ["data_path", "service_secrets"]


def service_secrets(access: AccessSettings, place: PlaceSettings) -> tuple[tuple[str, ...], str]:
    """The service secrets, and the file or the words that say where they come from.

    Without a configured secret one is made and kept in the data directory. Raises ConfigError.
    """
    if access.secret_file:
        return _read_secrets(Path(access.secret_file)), access.secret_file
    if access.secret:
        return access.secret, "the environment"
    path = data_path(place) / "secret"
    _make_secret(path)
    return _read_secrets(path), str(path)


def data_path(place: PlaceSettings) -> Path:
    """The data directory, made (mode 0700) when absent. Raises ConfigError."""
    path = Path(place.data_dir)
    try:
        path = path.expanduser()
    except RuntimeError:
        raise ConfigError(f"--data-dir {path}: this user has no home directory; name another place") from None
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--data-dir {path} cannot be made: {error.strerror}") from None
    return path


def _read_secrets(path: Path) -> tuple[str, ...]:
    try:
        lines: Iterable[str] = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"--secret-file {path} cannot be read: {reason}") from None
    secrets = tuple(line.strip() for line in lines if line.strip())
    if not secrets:
        raise ConfigError(f"--secret-file {path} holds no secret")
    return secrets


def _make_secret(path: Path) -> None:
    """Create `path` with a random secret, atomically and readable by its owner only; leave an existing one."""
    if path.exists():
        return
    temporary = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(os.urandom(32).hex() + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)  # fails when another process was first: its secret is then used
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    except OSError as error:
        raise ConfigError(f"the secret cannot be kept in {path}: {error.strerror}") from None
