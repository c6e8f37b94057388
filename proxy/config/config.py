"""`Config`: the settings of one proxy, in sections. Each section is what one room takes, as the room defines it.

Owns which values go into which section. A field of a section gets the value of its own name: a setting, a fixed or
derived number, or a section before it. `section` says so where names differ.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, get_args, get_type_hints

from proxy.base.logs import LogLimits
from proxy.base.memory import MemorySettings
from proxy.config.checks import check
from proxy.config.groups import SETTINGS
from proxy.config.numbers import all_values
from proxy.config.setting import Setting, Value, parsed
from proxy.handlers.abort import AbortSettings
from proxy.handlers.create import CreateSettings
from proxy.handlers.events import EventSettings
from proxy.handlers.heartbeat import HeartbeatSettings
from proxy.handlers.read import ReadSettings
from proxy.handlers.uploads import UploadLimits
from proxy.http.client2 import Http2Settings
from proxy.http.pool import PoolSettings
from proxy.http.server import ServerSettings
from proxy.net.bind import ListenSettings
from proxy.net.dial import DialLimits
from proxy.net.listen import AcceptSettings
from proxy.net.liveness import Liveness
from proxy.net.resolve import ResolverLimits
from proxy.net.tls import TlsSettings
from proxy.relay.clocks import ClockSettings
from proxy.relay.fleet import FleetSettings
from proxy.relay.keys import KeySettings
from proxy.relay.lease import LeaseSettings
from proxy.relay.mailbox import MailboxSettings
from proxy.relay.membership import MemberSettings
from proxy.relay.orphans import OrphanSettings
from proxy.relay.pump import Pace
from proxy.relay.record import RecordSettings
from proxy.relay.recovery import RecoverySettings
from proxy.relay.transfer import TransferSettings
from proxy.relay.transfers import TransferLimits
from proxy.relay.upstream import UpstreamSettings
from proxy.store.settings import EngineSettings, StoreSettings
from proxy.streams.ledger import LedgerSettings
from proxy.streams.retry import RetryPolicy
from proxy.wire.events import HeadLimits

__all__ = ["AccessSettings", "Config", "EgressSettings", "PlaceSettings", "StopSettings", "StorageSettings"]


@dataclass(frozen=True, slots=True)
class PlaceSettings:
    """Files of the process."""

    data_dir: str  # directory of the embedded store and of a secret that was made
    ca_file: str  # more certificate authorities to trust; empty for none
    upstream_cert: tuple[str, ...]  # client certificates for origins, each ORIGIN=FILE
    upstream_http: str  # HTTP version towards upstreams: auto or 1.1


@dataclass(frozen=True, slots=True)
class AccessSettings:
    """Who may do what."""

    allowlist: tuple[str, ...]  # patterns of upstream URLs that may be called
    allow_private: tuple[str, ...]  # patterns of upstream URLs that may also have a private address
    secret: tuple[str, ...] = field(repr=False)  # service secrets from the environment or from Python
    secret_file: str  # file of service secrets, one a line; empty for none
    cors_origin: tuple[str, ...]  # browser origins that may read responses; empty for any
    cors_max_age_seconds: int  # how long a browser may remember a preflight


@dataclass(frozen=True, slots=True)
class StorageSettings:
    """Which storage is used, and how it is asked."""

    durable_streams_url: str  # URL of a durable-streams server, or unix:PATH; empty for the embedded store
    durable_streams_token: str = field(repr=False)  # bearer token for it; empty for none
    storage_timeout_seconds: float  # time-out of one request to storage, except live reads
    storage_quick_retries: int  # retries without a pause of a repeatable request whose connection was lost


@dataclass(frozen=True, slots=True)
class EgressSettings:
    """The proxy through which upstreams are called."""

    egress_proxy: str  # URL of the egress proxy; empty for none
    egress_credentials: str = field(repr=False)  # user and password, joined by a colon; empty for none
    egress_credentials_file: str  # file that holds the egress credentials; empty for none
    no_proxy: tuple[str, ...]  # hosts, addresses and networks that are called directly
    max_upstream_head_bytes: int  # largest head of a response to CONNECT


@dataclass(frozen=True, slots=True)
class StopSettings:
    """How a stop goes, in seconds."""

    drain_timeout_seconds: float  # time that transfers get to end by themselves
    flush_timeout_seconds: float  # time to store what the other transfers have received, and to close their streams
    reader_grace_seconds: float  # time that readers get to receive the end of their streams


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """Bearer tokens of the standalone store; empty for none."""

    store_read_token: str = field(repr=False)  # may read
    store_write_token: str = field(repr=False)  # may write and read


class _From:
    """Where the fields of a section come from when their own names do not say it.

    A field called `x` is first looked for as `prefix` + `x`. `names` gives a field another name, or a switch that no
    setting changes.
    """

    def __init__(self, *, prefix: str = "", **names: str | bool) -> None:
        self.prefix = prefix
        self.names = names


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """The settings of one proxy, in sections. Make it with `of` or `from_sources`: what exists can be run.

    The repr holds no secret.
    """

    place: PlaceSettings
    listen: ListenSettings
    tls: Annotated[TlsSettings, _From(tls_handshake_seconds="head_timeout_seconds")]
    access: AccessSettings
    stop: StopSettings
    memory: MemorySettings
    logs: LogLimits
    request_head: Annotated[
        HeadLimits, _From(head_bytes="max_head_bytes", fields="max_head_fields", target_bytes="max_target_bytes")
    ]
    response_head: Annotated[
        HeadLimits,
        _From(head_bytes="max_upstream_head_bytes", fields="max_head_fields", target_bytes="max_target_bytes"),
    ]
    accept: AcceptSettings
    server: Annotated[
        ServerSettings,
        _From(
            head="request_head",
            max_connections="client_connections",
            max_exchanges="client_connections",
            close_grace_bytes="max_request_bytes",
        ),
    ]
    liveness: Liveness
    dial: Annotated[
        DialLimits,
        _From(timeout="connect_timeout_seconds", attempt_delay="connect_attempt_seconds", origins="remembered_hosts"),
    ]
    resolver: Annotated[
        ResolverLimits,
        _From(
            timeout="dns_timeout_seconds",
            answers="dns_cache_seconds",
            failures="dns_failure_seconds",
            names="remembered_hosts",
            lookups="max_dns_lookups",
        ),
    ]
    egress: EgressSettings
    upstream_pool: Annotated[
        PoolSettings,
        _From(prefix="upstream_", head="response_head", origins="remembered_hosts", is_careful=True),
    ]
    upstream_http2: Http2Settings
    storage_pool: Annotated[
        PoolSettings,
        _From(
            prefix="storage_",
            head="response_head",
            pause_bytes="max_reader_bytes",
            connections_per_origin="storage_connections",
            origins="remembered_hosts",
            is_careful=False,
        ),
    ]
    storage: StorageSettings
    retry: Annotated[
        RetryPolicy,
        _From(budget="append_budget_seconds", first_delay="retry_first_seconds", longest_delay="retry_longest_seconds"),
    ]
    pace: Pace
    upstream: UpstreamSettings
    create_retry: Annotated[
        RetryPolicy,
        _From(
            budget="storage_timeout_seconds", first_delay="retry_first_seconds", longest_delay="retry_longest_seconds"
        ),
    ]
    transfer: TransferSettings
    transfers: TransferLimits
    records: RecordSettings
    lease: LeaseSettings
    clocks: ClockSettings
    mailbox: Annotated[
        MailboxSettings,
        _From(
            mailbox_ttl_seconds="stream_ttl_seconds",
            mailbox_listen_seconds="lease_seconds",
            max_mail_bytes="max_request_bytes",
        ),
    ]
    member: MemberSettings
    locks: Annotated[LedgerSettings, _From(ledger_ttl_seconds="record_ttl_seconds")]
    keys: KeySettings
    # By the end of a watch, a live reader has asked again.
    orphans: Annotated[OrphanSettings, _From(watch_seconds="storage_silence_seconds", max_watched="max_readers")]
    fleet: Annotated[
        FleetSettings, _From(first_pause_seconds="key_poll_seconds", longest_pause_seconds="lease_look_seconds")
    ]
    recovery: RecoverySettings
    uploads: UploadLimits
    create: CreateSettings
    heartbeat: HeartbeatSettings
    events: EventSettings
    read: ReadSettings
    abort: AbortSettings
    store: Annotated[StoreSettings, _From(prefix="store_", stall_seconds="storage_timeout_seconds")]
    engine: Annotated[EngineSettings, _From(prefix="store_")]
    store_tokens: TokenSettings

    @classmethod
    def of(cls, **settings: Value) -> "Config":
        """The configuration with some settings by their names, and the defaults of the others.

        Raises ConfigError for a value that cannot be used, TypeError for a name that is none.
        """
        values = {setting.name: setting.default for setting in SETTINGS}
        if unknown := sorted(settings.keys() - values.keys()):
            raise TypeError(f"{unknown[0]} is not a setting")
        values |= settings
        for setting in SETTINGS:
            setting.check(values[setting.name])
        check(values)
        return cls._built(all_values(values))

    @classmethod
    def _built(cls, values: Mapping[str, object]) -> "Config":
        known = dict(values)
        types = get_type_hints(cls, include_extras=True)
        for each in fields(cls):
            section, source = (*get_args(types[each.name]), types[each.name], _From())[:2]
            known[each.name] = _filled(section, source, known)
        sections = {each.name: known[each.name] for each in fields(cls)}
        return cls(**sections)  # type: ignore[arg-type]  # each section was made by its own class

    @classmethod
    def from_sources(
        cls,
        flags: Mapping[str, object],
        environment: Mapping[str, str] | None = None,
        defaults: Mapping[str, Value] | None = None,
    ) -> "Config":
        """The configuration from flags, else the environment, else `defaults`, a command's own.

        `flags` holds by name what was given: texts, True for a switch, a list of texts for a repeatable flag. An empty
        variable counts as not given. Raises ConfigError.
        """
        return cls.of(**_given(flags, os.environ if environment is None else environment, defaults or {}))


def _filled(section: type, source: _From, known: Mapping[str, object]) -> object:
    """A section with its values. KeyError: a field has a name that nothing has."""
    values: dict[str, object] = {}
    for each in fields(section):
        prefixed = source.prefix + each.name
        found = source.names.get(each.name, prefixed if prefixed in known else each.name)
        values[each.name] = known[found] if isinstance(found, str) else found
    return section(**values)


def _given(
    flags: Mapping[str, object], environment: Mapping[str, str], defaults: Mapping[str, Value]
) -> dict[str, Value]:
    values = dict(defaults)
    for setting in SETTINGS:
        if setting.name in flags:
            values[setting.name] = _from_flag(setting, flags[setting.name])
        elif text := environment.get(setting.env, "").strip():
            values[setting.name] = parsed(setting, text, setting.env)
    return values


def _from_flag(setting: Setting, given: object) -> Value:
    if isinstance(given, str):
        return parsed(setting, given, setting.spelled)
    return tuple(map(str, given)) if isinstance(given, list) else bool(given)
