"""The only place where objects are wired together: a `Config` becomes a running proxy without its sockets."""

import ssl
import time
from base64 import b64encode
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import apsw

from proxy.config import Config, ConfigError
from proxy.handlers.abort import Abort
from proxy.handlers.create import Create, CreateSettings, Signing
from proxy.handlers.delete import Delete
from proxy.handlers.ops import Health
from proxy.handlers.read import Head, Read, ReadSettings
from proxy.handlers.router import Router
from proxy.handlers.routes import Gate, Route
from proxy.handlers.static import StaticFiles
from proxy.http.message import Handler
from proxy.http.pipe import Budget, PipeLimits
from proxy.http.pool import Pool, PoolLimits
from proxy.http.server import ServerLimits
from proxy.net.dial import Address, Dialler, DialLimits, tls_context
from proxy.net.egress import Bypass, Egress
from proxy.net.listen import descriptor_limit
from proxy.net.local import is_local
from proxy.net.resolve import Resolver, ResolverLimits
from proxy.policy.addresses import AddressRules
from proxy.policy.allowlist import Allowlist
from proxy.policy.auth import Keyring
from proxy.policy.caller import Access
from proxy.policy.cors import Cors
from proxy.policy.forwarding import PassedHeaders
from proxy.relay.fleet import Fleet, FleetSettings
from proxy.relay.idempotency import Claims, ClaimSettings
from proxy.relay.instance import Instance, InstanceSettings
from proxy.relay.orphans import Orphans, OrphanSettings
from proxy.relay.pump import Pace
from proxy.relay.record import Records, RecordSettings
from proxy.relay.recovery import Recovery, RecoverySettings
from proxy.relay.transfers import Transfers, TransferSettings
from proxy.relay.upstream import Upstream, UpstreamSettings
from proxy.store import Store, lock_data_directory
from proxy.store.sqlite.lock import DirectoryInUse
from proxy.store.sqlite.schema import ForeignDatabase, UnsafeSqlite
from proxy.streams.client import Endpoint, Storage
from proxy.streams.retry import RetryPolicy
from proxy.wire.events import HeadLimits
from proxy.wire.headers import Headers

__all__ = ["App", "server_limits"]

_STREAMS_ROOT = "/v1/streams/"
_REMEMBERED_NAMES = 4096  # host names whose addresses are remembered
_READ_BYTES = 256_000  # the most that uvloop reads at once; asyncio's own loop takes 2 % more


def server_limits(config: Config) -> ServerLimits:
    """The HTTP server's numbers."""
    return ServerLimits(
        head=HeadLimits(config.max_head_bytes, config.max_head_fields, config.max_target_bytes),
        body_bytes=config.max_request_bytes,
        body=PipeLimits(config.max_waiting_bytes, Budget(config.max_waiting_bytes_total)),
        connections=config.max_connections or descriptor_limit() * 9 // 10,
        write_high_water=config.max_reader_bytes,
        head_timeout=config.head_timeout_seconds,
        idle_timeout=config.idle_timeout_seconds,
        body_timeout=config.body_timeout_seconds,
        write_timeout=config.reader_timeout_seconds,
        half_close_grace=config.half_close_grace_seconds,
        linger_timeout=config.close_grace_seconds,
        linger_bytes=config.max_request_bytes,
        sweep=config.sweep_seconds,
    )


@dataclass(frozen=True, slots=True)
class _Pools:
    upstream: Pool
    storage: Pool


class App:
    """One proxy: its router and everything behind it. Made inside a running loop; `aclose` leaves nothing."""

    def __init__(self, config: Config, secrets: tuple[str, ...]) -> None:
        """Raises ConfigError for what only shows when it is used: files, directories, locks."""
        self._config = config
        self._held = ExitStack()
        self._store: Store | None = None
        tls = _tls(config)
        self.address_rules = AddressRules(is_local)
        embedded = None if config.durable_streams_url else self._embedded()
        self._pools = _pools(config, tls)  # last of what may fail or runs: nothing is left of an app that is not made
        storage = Storage(self._endpoint(embedded))
        retry = RetryPolicy(config.append_budget_seconds, config.retry_first_seconds, config.retry_longest_seconds)
        records = Records(storage, retry, _record_settings(config))
        self._instance = Instance(storage, _instance_settings(config))
        has_room = self._store.has_room if self._store is not None else _cannot_tell
        self.transfers = Transfers(storage, records, self._instance, has_room, _transfer_settings(config, retry))
        self._claims = Claims(storage, records, self._instance, _claim_settings(config, retry))
        self._orphans = Orphans(self._instance, storage, records, _orphan_settings(config, retry))
        pauses = FleetSettings(retry, config.claim_poll_seconds, config.lease_seconds / 5)
        self._fleet = Fleet(self._instance, storage, records, self.transfers, self._orphans, pauses)
        recovery = RecoverySettings(config.recovery_at_once, retry, config.close_retry_seconds)
        self._recovery = Recovery(self._store, storage, records, self.transfers, recovery)
        self.router = self._router(Keyring(secrets), storage, records)

    def _endpoint(self, embedded: Handler | None) -> Endpoint:
        config = self._config
        fields = []
        handler, root = embedded, _STREAMS_ROOT
        if handler is None:
            address, host, path = _storage_at(config.durable_streams_url, self.address_rules)
            handler = self._pools.storage.at(address)
            root = path if path.strip("/") else _STREAMS_ROOT
            fields.append((b"host", host.encode("ascii")))
        if config.durable_streams_token:
            fields.append((b"authorization", b"Bearer " + config.durable_streams_token.encode()))
        root = root if root.endswith("/") else root + "/"
        return Endpoint(handler, root.encode("ascii"), Headers(fields), config.storage_timeout_seconds)

    def _embedded(self) -> Handler:
        directory = self._config.data_path()
        try:
            self._held.enter_context(lock_data_directory(directory))
            self._store = Store(directory, self._config.store_settings(), is_public=self._config.shared_cache)
        except (DirectoryInUse, OSError, UnsafeSqlite, ForeignDatabase, apsw.Error) as error:
            self._held.close()
            raise ConfigError(f"--data-dir: {error}") from None
        return self._store.handler

    def _router(self, keyring: Keyring, storage: Storage, records: Records) -> Router:
        config = self._config
        passed = PassedHeaders(config.pass_header)
        base = config.public_url.rstrip("/")
        upstream = Upstream(
            self._pools.upstream,
            self.address_rules,
            UpstreamSettings(
                config.upstream_timeout_seconds,
                config.error_body_timeout_seconds,
                config.max_response_bytes,
                config.max_error_bytes,
            ),
        )
        create = Create(
            Signing(keyring, time.time),
            Allowlist(config.allowlist, config.allow_private),
            upstream,
            self.transfers,
            self._claims,
            CreateSettings(
                config.url_expiration_seconds, base, config.max_request_bytes, config.max_request_bytes_total, passed
            ),
        )
        reading = ReadSettings(
            config.max_readers,
            config.keep_alive_seconds,
            config.storage_timeout_seconds,
            config.storage_silence_seconds,
            config.shared_cache,
        )
        read = Read(storage, records, self._orphans, reading)
        abort = Abort(self._fleet, wait=config.abort_wait_seconds)
        delete = Delete(storage, records, self._fleet, wait=config.storage_timeout_seconds)
        creating = {b"POST": Route("create", Access.CREATE, create)}
        health = Route("health", Access.ANYONE, Health(self.transfers))
        return Router(
            {b"/v1/proxy": creating, b"/v1/proxy/": creating, b"/health": {b"GET": health, b"HEAD": health}},
            {
                b"GET": Route("read", Access.READ, read),
                b"HEAD": Route("head", Access.METADATA, Head(storage, records)),
                b"PATCH": Route("abort", Access.ABORT, abort),
                b"DELETE": Route("delete", Access.DELETE, delete),
            },
            static=StaticFiles(),
            gate=Gate(keyring, time.time),
            cors=Cors(config.cors_origin, max_age=config.cors_max_age_seconds),
        )

    def open(self) -> None:
        """Start what runs in the background."""
        self.transfers.open()
        self._recovery.start()
        if self._store is None:  # an embedded store is this process's alone
            self._instance.open(self.transfers.abort)
            self._orphans.open()

    async def end_transfers(self) -> None:
        """End every running stream as interrupted: flushed, recorded and closed."""
        await self.transfers.aclose(self._config.flush_timeout_seconds)

    async def aclose(self) -> None:
        """Close everything; call it when no request is in progress any more."""
        await self._recovery.aclose()
        await self._orphans.aclose()
        await self._claims.aclose()
        await self._instance.aclose()
        await self._pools.upstream.aclose()
        await self._pools.storage.aclose()
        if self._store is not None:
            await self._store.aclose()
        self._held.close()


def _cannot_tell() -> bool:
    """Whether a storage elsewhere has room: it says so when it is asked."""
    return True


def _storage_at(place: str, rules: AddressRules) -> tuple[Address, str, str]:
    """Address, host and path of a storage elsewhere."""
    if place.startswith("unix:"):
        return Address("", 0, uds=place.removeprefix("unix:")), "localhost", ""
    url = urlsplit(place)
    tls = url.scheme == "https"
    port = url.port or (443 if tls else 80)
    return Address(url.hostname or "", port, tls=tls, guard=rules.storage_guard), url.netloc, url.path


def _tls(config: Config) -> ssl.SSLContext:
    try:
        return tls_context(config.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"--ca-file {config.ca_file} cannot be used: {error.strerror or error}") from None


def _pools(config: Config, tls: ssl.SSLContext) -> _Pools:
    dials = DialLimits(
        timeout=config.connect_timeout_seconds,
        attempt_delay=config.connect_attempt_seconds,
        origins=_REMEMBERED_NAMES,
    )
    names = ResolverLimits(
        timeout=config.dns_timeout_seconds,
        answers=config.dns_cache_seconds,
        failures=config.dns_failure_seconds,
        names=_REMEMBERED_NAMES,
        lookups=config.max_dns_lookups,
    )
    # A resolver for each: names of upstreams never keep storage's name waiting.
    to_upstreams = Dialler(tls, Resolver(names), dials, egress=_egress(config))
    to_storage = Dialler(tls, Resolver(names), dials)
    head = HeadLimits(config.max_upstream_head_bytes, config.max_head_fields, config.max_target_bytes)
    # Below the mark one read more may come: together they are what may wait, and the largest append.
    mark = max(config.max_waiting_bytes - _READ_BYTES, config.max_waiting_bytes // 64)
    waiting = PipeLimits(mark, Budget(config.max_waiting_bytes_total))
    reading = PipeLimits(config.max_reader_bytes, Budget(config.max_waiting_bytes_total))
    upstream = PoolLimits(
        head=head,
        body=waiting,
        request_piece=mark + _READ_BYTES,  # an append goes out as it is
        total=config.upstream_connections,
        per_origin=config.upstream_connections_per_origin,
        wait=config.pool_timeout_seconds,
        idle=config.upstream_idle_seconds,
        sweep=config.sweep_seconds,
        is_careful=True,
    )
    storage = replace(
        upstream,
        body=reading,
        total=config.storage_connections,
        per_origin=config.storage_connections,
        idle=config.storage_idle_seconds,
        is_careful=False,
    )
    return _Pools(Pool("upstream", to_upstreams, upstream), Pool("storage", to_storage, storage))


def _egress(config: Config) -> Egress | None:
    if not config.egress_proxy:
        return None
    url = urlsplit(config.egress_proxy)
    credentials = config.egress_credentials
    if config.egress_credentials_file:
        try:
            credentials = Path(config.egress_credentials_file).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--egress-credentials-file cannot be read: {error}") from None
    authorization = b"Basic " + b64encode(credentials.encode()) if credentials else None
    return Egress(
        url.hostname or "", url.port or 80, authorization, Bypass(config.no_proxy), config.max_upstream_head_bytes
    )


def _claim_settings(config: Config, retry: RetryPolicy) -> ClaimSettings:
    call = config.pool_timeout_seconds + config.connect_timeout_seconds + config.upstream_timeout_seconds
    return ClaimSettings(
        # Before and after the call a claim's holder makes a handful of requests to storage.
        patience=call + 8 * config.storage_timeout_seconds,
        settle=config.claim_settle_seconds,
        call=call + config.lease_seconds / 4 + config.storage_timeout_seconds,
        poll=config.claim_poll_seconds,
        look=config.lease_seconds / 5,
        retry=retry,
    )


def _instance_settings(config: Config) -> InstanceSettings:
    return InstanceSettings(
        lease=config.lease_seconds,
        renew=config.lease_seconds / 10,
        look=config.lease_seconds / 5,
        mail=config.stream_ttl_seconds,
        silence=config.storage_silence_seconds,
        mail_bytes=config.max_request_bytes,
    )


def _orphan_settings(config: Config, retry: RetryPolicy) -> OrphanSettings:
    return OrphanSettings(
        look=config.lease_seconds / 5,
        watched=config.storage_silence_seconds,  # by then a live reader has asked again
        streams=config.max_readers,
        at_once=config.recovery_at_once,
        retry=retry,
    )


def _record_settings(config: Config) -> RecordSettings:
    # Twice the stream's life, refreshed within half of one: a stream that is read never outlives its record.
    return RecordSettings(
        ttl_seconds=2 * config.stream_ttl_seconds,
        remembered=config.record_cache,
        max_bytes=2 * config.max_upstream_head_bytes,
        refresh_seconds=config.stream_ttl_seconds / 2,
        is_shared=bool(config.durable_streams_url),
    )


def _transfer_settings(config: Config, retry: RetryPolicy) -> TransferSettings:
    return TransferSettings(
        at_once=config.max_transfers,
        stream_ttl=config.stream_ttl_seconds,
        inactivity=config.inactivity_timeout_seconds,
        longest=config.max_transfer_seconds,
        close_budget=config.close_budget_seconds,
        longest_pause=config.close_retry_seconds,
        sweep=config.sweep_seconds,
        pace=Pace(config.append_interval_seconds, config.batch_bytes),
        retry=retry,
    )
