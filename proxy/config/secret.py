"""The service secret: where it is found, who may read its file, and how it is made when none is given."""

import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

from proxy.base.exposed import exposure
from proxy.base.places import secret_in
from proxy.config.config import AccessSettings, PlaceSettings
from proxy.config.setting import ConfigError

__all__ = ["data_path", "found_secrets", "service_secrets"]

_FROM_ENVIRONMENT = "the environment"


def service_secrets(access: AccessSettings, place: PlaceSettings) -> tuple[tuple[str, ...], str]:
    """The service secrets, and the file or the words that say where they come from.

    Without a configured secret one is made and kept in the data directory. Raises ConfigError, also for a secret that
    other users of the machine can read or replace.
    """
    if access.secret_file or access.secret:
        return found_secrets(access, place)
    directory = data_path(place)
    _make_secret(secret_in(directory))
    return found_secrets(access, place)


def found_secrets(access: AccessSettings, place: PlaceSettings) -> tuple[tuple[str, ...], str]:
    """As `service_secrets`, but a secret that is missing is an error; nothing is made. Raises ConfigError."""
    if access.secret_file:
        return _read_secrets(Path(access.secret_file), "--secret-file"), access.secret_file
    if access.secret:
        return access.secret, _FROM_ENVIRONMENT
    path = secret_in(_expanded(place.data_dir))
    if path.is_symlink():
        raise ConfigError(f"the secret {path} is a symbolic link: name the file that is meant with --secret-file")
    return _read_secrets(path, "the secret"), str(path)


def data_path(place: PlaceSettings) -> Path:
    """The data directory, made (mode 0700) when absent. Raises ConfigError, also when other users can write to it."""
    path = _expanded(place.data_dir)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = path.stat().st_mode
    except OSError as error:
        raise ConfigError(f"--data-dir {path} cannot be made: {error.strerror}") from None
    if mode & stat.S_IWOTH:
        raise ConfigError(f"--data-dir {path}: every user of this machine can write there (chmod o-w {path})")
    return path


def _expanded(directory: str) -> Path:
    try:
        return Path(directory).expanduser()
    except RuntimeError:
        raise ConfigError(f"--data-dir {directory}: this user has no home directory; name another place") from None


def _read_secrets(path: Path, named: str) -> tuple[str, ...]:
    try:
        with path.open(encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            lines: Iterable[str] = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"{named} {path} cannot be read: {reason}") from None
    if does := exposure(mode):
        raise ConfigError(f"{named} {path}: every user of this machine can {does} it (chmod o-rwx {path})")
    secrets = tuple(line.strip() for line in lines if line.strip())
    if not secrets:
        raise ConfigError(f"{named} {path} holds no secret")
    return secrets


def _make_secret(path: Path) -> None:
    """Create `path` with a random secret, atomically and readable by its owner only; leave an existing one.

    The name of the temporary file is a new one each time: one that a crash left behind is no obstacle.
    """
    if path.exists() or path.is_symlink():
        return
    try:
        descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)  # mode 0600
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "w") as file:
                file.write(os.urandom(32).hex() + "\n")
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)  # fails when another process was first: its secret is then used
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    except OSError as error:
        raise ConfigError(f"the secret cannot be kept in {path}: {error.strerror}") from None
