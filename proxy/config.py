"""Every setting once: default, unit, environment name, flag and why. Owns validation; reads no file but the secrets'.

A setting is a field of `Config`. `SETTINGS` describes them in the order of `--help` and of docs/configuration.md.
"""

import dataclasses
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from proxy.net.egress import Bypass
from proxy.policy.allowlist import Allowlist
from proxy.policy.auth import Keyring
from proxy.policy.cors import Cors
from proxy.policy.forwarding import PassedHeaders
from proxy.store.settings import StoreSettings

__all__ = ["SETTINGS", "Config", "ConfigError", "Setting"]


class ConfigError(Exception):
    """A setting cannot be used; the message names it and says why, in one line, without any secret."""


@dataclass(frozen=True, slots=True)
class Setting:
    """How one field of `Config` is set from outside. `flag` is None for what must not stand in an argv."""

    name: str
    kind: type
    default: object
    flag: str | None
    env: str
    unit: str
    help: str


def _setting(
    default: object, text: str, *, unit: str = "", env: str | None = None, flag: str | None = "", minimum: float = 0
) -> Any:  # as dataclasses.field itself
    """A field with its flag ("": by its name, None: a credential, which has none) and variable (None: by its name)."""
    metadata = {"help": text, "unit": unit, "env": env, "flag": flag, "minimum": minimum}
    return field(default=default, metadata=metadata, repr=flag is not None)


_KIB = 1024
_MIB = 1024 * 1024
_LONGEST_SOCKET = 107  # bytes of a Unix socket's path, as Linux has it
_LONGEST_TTL = 100 * 365 * 86_400  # seconds


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings of one proxy. Construction validates: a `Config` that exists can be run.

    Raises ConfigError. The repr holds no secret.
    """

    # What it is and where
    port: int = _setting(4440, "Port to listen on; 0 picks a free one", unit="port")
    host: str = _setting("localhost", "Host to bind to; localhost listens on 127.0.0.1 and ::1")
    uds: str = _setting("", "Listen on this Unix socket (mode 0600) instead of TCP", unit="path")
    public_url: str = _setting("", "URL that clients reach the proxy at; makes Location absolute", unit="URL")
    durable_streams_url: str = _setting(
        "",
        "Storage: a durable-streams service, or unix:PATH of its socket; none given: the embedded store",
        unit="URL",
        env="DURABLE_STREAMS_URL",
    )
    durable_streams_token: str = _setting("", "Bearer token for storage", env="DURABLE_STREAMS_TOKEN", flag=None)
    data_dir: str = _setting(
        "~/.local/share/durable-proxy", "Directory of the embedded store and the secret", unit="path"
    )
    ca_file: str = _setting("", "More certificate authorities to trust, beside the system's", unit="path")
    egress_proxy: str = _setting(
        "", "HTTP proxy through which upstreams are called, by CONNECT; it resolves and guards their addresses",
        unit="URL",
    )  # fmt: skip
    egress_credentials: str = _setting("", "User and password for the egress proxy, joined by a colon", flag=None)
    egress_credentials_file: str = _setting("", "File that holds user:password for the egress proxy", unit="path")
    no_proxy: tuple[str, ...] = _setting(
        (), "Host, address or network that is called without the egress proxy (repeatable); * is all", env="NO_PROXY"
    )

    # Who may do what
    allowlist: tuple[str, ...] = _setting(
        (), "Pattern of allowed upstream URLs (repeatable); none given: every upstream is refused",
        unit="pattern", flag="--allow",
    )  # fmt: skip
    allow_private: tuple[str, ...] = _setting(
        (), "Pattern of allowed upstream URLs whose host may have a private address (repeatable)", unit="pattern"
    )
    secret: tuple[str, ...] = _setting(
        (), "Service secret: callers show it, or a JWT signed with it; made and kept in the data directory when absent",
        flag=None,
    )  # fmt: skip
    secret_file: str = _setting("", "File of secrets, one a line: the first signs, all verify", unit="path")
    cors_origin: tuple[str, ...] = _setting((), "Allowed browser origin (repeatable); none given: any", unit="origin")
    pass_header: tuple[str, ...] = _setting(
        (
            "retry-after",
            "retry-after-ms",
            "x-should-retry",
            "request-id",
            "x-request-id",
            "x-ratelimit-*",
            "anthropic-ratelimit-*",
            "openai-*",
        ),
        "Upstream response header that reaches the client (repeatable, prefix*); given: replaces the list",
        unit="name",
    )
    cors_max_age_seconds: int = _setting(7200, "How long a browser may remember a preflight (Chrome's cap)", unit="s")
    shared_cache: bool = _setting(False, "Let shared caches (a CDN) keep reads: storage's Cache-Control passes")

    # Lives
    stream_ttl_seconds: int = _setting(86_400, "Stream expiration, from its last read or write", unit="s", minimum=1)
    url_expiration_seconds: int = _setting(86_400, "Expiration of a pre-signed URL", unit="s", minimum=1)

    # Sizes
    max_response_bytes: int = _setting(104_857_600, "An upstream's body is cut after this", unit="bytes", minimum=1)
    max_request_bytes: int = _setting(64 * _MIB, "A request body larger than this is refused", unit="bytes")
    max_request_bytes_total: int = _setting(
        512 * _MIB, "Bytes of request bodies held at once until their upstreams answer; more get 503", unit="bytes"
    )
    max_error_bytes: int = _setting(64 * _KIB, "What is passed on of an upstream's error body", unit="bytes")
    max_head_bytes: int = _setting(32 * _KIB, "A request head larger than this is refused", unit="bytes", minimum=256)
    max_head_fields: int = _setting(100, "A head with more fields than this is refused", unit="fields", minimum=8)
    max_target_bytes: int = _setting(8 * _KIB, "A request target longer than this is refused", unit="bytes", minimum=64)
    max_upstream_head_bytes: int = _setting(
        64 * _KIB, "A response head of an upstream larger than this is an error", unit="bytes", minimum=256
    )
    max_waiting_bytes: int = _setting(
        256 * _KIB, "Bytes of one stream waiting for storage before its upstream is paused", unit="bytes", minimum=1024
    )
    max_waiting_bytes_total: int = _setting(
        256 * _MIB, "The same for all streams together", unit="bytes", minimum=64 * _KIB
    )
    max_reader_bytes: int = _setting(
        64 * _KIB, "Bytes buffered for a slow reader before its storage read is paused", unit="bytes", minimum=1024
    )
    batch_bytes: int = _setting(
        64 * _KIB, "An append of at least this size is followed at once by the next one", unit="bytes"
    )

    # Numbers at once
    max_transfers: int = _setting(10_000, "Streams pumped at once; more get 503", unit="streams", minimum=1)
    max_readers: int = _setting(8_000, "Live readers at once; more are refused with 503", unit="readers", minimum=1)
    max_connections: int = _setting(
        0, "Client connections at once; 0: what the file descriptor limit allows, less a tenth", unit="connections"
    )
    upstream_connections: int = _setting(10_000, "Connections to upstreams at once", unit="connections", minimum=1)
    upstream_connections_per_origin: int = _setting(
        10_000, "Connections to one upstream origin at once", unit="connections", minimum=1
    )
    storage_connections: int = _setting(10_000, "Connections to storage at once", unit="connections", minimum=1)
    max_dns_lookups: int = _setting(
        256, "Host names of upstreams looked up at once; a name whose servers are silent keeps its place", unit="names",
        minimum=1,
    )  # fmt: skip
    recovery_at_once: int = _setting(
        50, "Streams left open by a former process that are closed at once", unit="streams", minimum=1
    )
    record_cache: int = _setting(10_000, "Stream records remembered in memory", unit="records", minimum=1)

    # Times
    head_timeout_seconds: float = _setting(10.0, "A request's head must be whole within this", unit="s", minimum=0.01)
    idle_timeout_seconds: float = _setting(75.0, "A kept-alive connection without a request is closed", unit="s")
    body_timeout_seconds: float = _setting(30.0, "A request body without progress is refused", unit="s", minimum=0.01)
    reader_timeout_seconds: float = _setting(60.0, "A reader that takes nothing is cut", unit="s", minimum=0.01)
    pool_timeout_seconds: float = _setting(
        5.0, "Waiting for a free connection to an upstream or to storage", unit="s", minimum=0.01
    )
    connect_timeout_seconds: float = _setting(10.0, "Opening a connection, TLS included", unit="s", minimum=0.01)
    upstream_timeout_seconds: float = _setting(60.0, "Waiting for an upstream's response head", unit="s", minimum=0.01)
    error_body_timeout_seconds: float = _setting(5.0, "Reading an upstream's error body", unit="s", minimum=0.01)
    inactivity_timeout_seconds: float = _setting(
        600.0, "An upstream's body without a byte ends as timeout", unit="s", minimum=0.01
    )
    max_transfer_seconds: float = _setting(3600.0, "A longer transfer ends as timeout", unit="s", minimum=0.01)
    storage_timeout_seconds: float = _setting(10.0, "One request to storage", unit="s", minimum=0.01)
    append_budget_seconds: float = _setting(60.0, "All attempts at one append", unit="s")
    close_budget_seconds: float = _setting(600.0, "All attempts at recording an outcome and closing", unit="s")
    close_retry_seconds: float = _setting(
        60.0, "After that it is tried again, ever more rarely, but at least this often", unit="s", minimum=0.01
    )
    drain_timeout_seconds: float = _setting(30.0, "After SIGTERM, transfers run on for this long", unit="s")
    upstream_idle_seconds: float = _setting(15.0, "A pooled upstream connection is kept for this", unit="s")
    storage_idle_seconds: float = _setting(60.0, "A pooled storage connection is kept for this", unit="s")
    connect_attempt_seconds: float = _setting(
        0.25, "Pause before a host's next address is tried beside the one before (RFC 8305)", unit="s", minimum=0.01
    )
    dns_cache_seconds: float = _setting(10.0, "A resolved and checked address is used again for this", unit="s")
    dns_timeout_seconds: float = _setting(5.0, "Waiting for the addresses of a host name", unit="s", minimum=0.01)
    dns_failure_seconds: float = _setting(
        2.0, "A host name that could not be resolved is not looked up again for this", unit="s"
    )
    lease_seconds: int = _setting(
        8, "An instance that storage has not heard from for this long is dead, its streams end as interrupted",
        unit="s", minimum=2,
    )  # fmt: skip
    claim_settle_seconds: float = _setting(
        2.0, "A replay waits for this long until the call that made its stream is over", unit="s"
    )
    claim_poll_seconds: float = _setting(
        0.02, "Pause before another call with the same idempotency key is looked at again", unit="s", minimum=0.001
    )
    abort_wait_seconds: float = _setting(2.0, "An abort's answer waits for the stream's end for at most this", unit="s")
    storage_silence_seconds: float = _setting(
        90.0, "A live read is broken off when storage is silent for longer", unit="s", minimum=0.01
    )
    keep_alive_seconds: float = _setting(15.0, "A silent SSE read gets a comment this often", unit="s", minimum=0.01)
    append_interval_seconds: float = _setting(0.005, "Shortest time between two appends of one stream", unit="s")
    retry_first_seconds: float = _setting(0.05, "Bound of the pause before the first retry of an append", unit="s")
    retry_longest_seconds: float = _setting(5.0, "Bound of every later pause, which doubles up to it", unit="s")
    half_close_grace_seconds: float = _setting(
        0.5, "A client that half-closed gets its answer for this long, then counts as gone", unit="s"
    )
    close_grace_seconds: float = _setting(2.0, "After a refusal what still comes is ignored for this long", unit="s")
    flush_timeout_seconds: float = _setting(10.0, "At shutdown the last appends get this long", unit="s")
    reader_grace_seconds: float = _setting(2.0, "After that, readers get this long to be told", unit="s")
    sweep_seconds: float = _setting(0.25, "How often deadlines are looked over", unit="s", minimum=0.001)

    # The embedded store
    store_max_bytes: int = _setting(0, "Size of the store past which appends are refused; 0: no bound", unit="bytes")
    store_min_free_bytes: int = _setting(
        64 * _MIB,
        "Creates are refused while the store's disk has less room than this, appends below a quarter",
        unit="bytes",
    )
    store_read_token: str = _setting("", "Bearer token that reads of the standalone store must show", flag=None)
    store_write_token: str = _setting("", "Bearer token that writes to it must show; it may read too", flag=None)

    def __post_init__(self) -> None:
        for setting in SETTINGS:
            value = getattr(self, setting.name)
            minimum = _FIELDS[setting.name].metadata["minimum"]
            if isinstance(value, int | float) and not minimum <= value < math.inf:
                raise ConfigError(f"{_spelled(setting)} must be at least {minimum:g}, not {value:g}")
        if self.port > 65_535:
            raise ConfigError(f"--port must be at most 65535, not {self.port}")
        for flag, check, values in (
            ("--allow", Allowlist, self.allowlist),
            ("--allow-private", Allowlist, self.allow_private),
            ("--no-proxy", Bypass, self.no_proxy if self.egress_proxy else ()),
            ("--cors-origin", lambda origins: Cors(origins, max_age=0), self.cors_origin),
            ("--pass-header", PassedHeaders, self.pass_header),
            ("PROXY_SECRET", Keyring, self.secret or ("none",)),
        ):
            try:
                check(values)
            except ValueError as error:
                raise ConfigError(f"{flag}: {error}") from None
        if self.durable_streams_url.startswith("unix:"):
            _check_socket("--durable-streams-url", self.durable_streams_url.removeprefix("unix:"))
        else:
            _check_url("--durable-streams-url", self.durable_streams_url)
        _check_url("--public-url", self.public_url)
        _check_url("--egress-proxy", self.egress_proxy)
        if self.egress_proxy and not re.fullmatch(r"http://[^/]+/?", self.egress_proxy):
            raise ConfigError("--egress-proxy must be http://HOST:PORT")
        if self.max_request_bytes_total < self.max_request_bytes:
            raise ConfigError(
                f"--max-request-bytes-total ({self.max_request_bytes_total}) must be at least --max-request-bytes"
                f" ({self.max_request_bytes}), or a body of that size could never be received"
            )
        if self.stream_ttl_seconds > _LONGEST_TTL:
            raise ConfigError(f"--stream-ttl-seconds must be at most {_LONGEST_TTL}, not {self.stream_ttl_seconds}")
        longest = max(self.inactivity_timeout_seconds, self.max_transfer_seconds)
        if self.stream_ttl_seconds <= longest:
            raise ConfigError(
                f"--stream-ttl-seconds ({self.stream_ttl_seconds}) must be longer than a transfer can last"
                f" (--max-transfer-seconds and --inactivity-timeout-seconds: {longest:g}),"
                " or a stream could expire while it is written"
            )

    @classmethod
    def from_sources(
        cls,
        flags: Mapping[str, object],
        environment: Mapping[str, str] | None = None,
        defaults: Mapping[str, object] | None = None,
    ) -> "Config":
        """Flags before environment before defaults. `flags` holds only what was given, by field name.

        `defaults` are a command's own, before those of the fields.
        """
        environment = os.environ if environment is None else environment
        values: dict[str, object] = dict(defaults or {})
        for setting in SETTINGS:
            if setting.name in flags:
                values[setting.name] = flags[setting.name]
            elif text := environment.get(setting.env, "").strip():
                values[setting.name] = _parse(setting, text)
        return cls(**values)  # type: ignore[arg-type]  # each value was parsed by its field's own kind

    def store_settings(self) -> StoreSettings:
        """The embedded store's numbers: those that are settings, and those that nobody had to change yet."""
        return StoreSettings(
            max_bytes=self.store_max_bytes,
            min_free_bytes=self.store_min_free_bytes,
            append_bytes=16 * _MIB,
            held_bytes=256 * _MIB,
            piece_bytes=64 * _KIB,
            step_bytes=64 * _KIB,
            response_bytes=16 * _MIB,
            event_bytes=64 * _KIB,
            tail_bytes=64 * _KIB,
            tails_bytes=64 * _MIB,
            streams=10_000,
            producers=1_000,
            reader_threads=2,
            checkpoint_bytes=8 * _MIB,
            vacuum_bytes=16 * _MIB,
            sweep_rows=512,
            sweep_bytes=1 * _MIB,
            sweep_seconds=30.0,
            long_poll_seconds=30.0,
            keep_alive_seconds=self.keep_alive_seconds,
            sse_seconds=60.0,
            cursor_seconds=20,
        )

    def secrets(self) -> tuple[tuple[str, ...], str]:
        """The service secrets and where they came from; makes one in the data directory when none is configured."""
        if self.secret_file:
            return _read_secrets(Path(self.secret_file)), self.secret_file
        if self.secret:
            return self.secret, "the environment"
        path = self.data_path() / "secret"
        _make_secret(path)
        return _read_secrets(path), str(path)

    def data_path(self) -> Path:
        """The data directory, made (mode 0700) when absent."""
        path = Path(self.data_dir)
        try:
            path = path.expanduser()
        except RuntimeError:
            raise ConfigError(f"--data-dir {path}: this user has no home directory; name another place") from None
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"--data-dir {path} cannot be made: {error.strerror}") from None
        return path


def _describe(item: "dataclasses.Field[object]") -> Setting:
    flag, env = item.metadata["flag"], item.metadata["env"]
    return Setting(
        name=item.name,
        kind=type(item.default),
        default=item.default,
        flag=None if flag is None else flag or "--" + item.name.replace("_", "-"),
        env=env or "PROXY_" + item.name.upper(),
        unit=item.metadata["unit"],
        help=item.metadata["help"],
    )


_FIELDS = {item.name: item for item in dataclasses.fields(Config)}
SETTINGS: tuple[Setting, ...] = tuple(_describe(item) for item in _FIELDS.values())


def _spelled(setting: Setting) -> str:
    return setting.flag or setting.env


def _parse(setting: Setting, text: str) -> object:
    """A value from the environment, by the kind of its default. Raises ConfigError."""
    if setting.name == "secret":
        return (text,)  # a secret may hold a comma; several come from a file
    if setting.kind is tuple:
        return tuple(item for item in (part.strip() for part in text.split(",")) if item)
    if setting.kind is bool:
        if text.lower() not in ("1", "true", "yes", "0", "false", "no"):
            raise ConfigError(f"{setting.env} must be true or false")
        return text.lower() in ("1", "true", "yes")
    try:
        return setting.kind(text)
    except ValueError:
        kind = "a whole number" if setting.kind is int else "a number"
        raise ConfigError(f"{setting.env} must be {kind}, not {text!r}") from None


def _check_url(flag: str, text: str) -> None:
    if not text:
        return
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        raise ConfigError(f"{flag} is not a URL: {error}") from None
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigError(f"{flag} must be an http or https URL with a host")
    if url.username is not None or url.query or url.fragment:
        raise ConfigError(f"{flag} must have no user, query or fragment")
    if port == 0 or not re.fullmatch(r"[!-~]+", text):
        raise ConfigError(f"{flag} has a port or characters that a URL cannot have")


def _check_socket(flag: str, path: str) -> None:
    if not path.startswith("/") or "\0" in path or len(os.fsencode(path)) > _LONGEST_SOCKET:
        raise ConfigError(f"{flag} must be unix: and an absolute path of at most {_LONGEST_SOCKET} bytes")


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
