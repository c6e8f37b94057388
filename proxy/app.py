"""The only place where objects are wired together: a `Config` becomes a running proxy without its sockets."""

import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from proxy.backing import open_backend
from proxy.base.tasks import Tasks
from proxy.config import Config, ConfigError, EgressSettings
from proxy.handlers.abort import Abort
from proxy.handlers.create import Create, Making, Signing
from proxy.handlers.delete import Delete
from proxy.handlers.ops import Health
from proxy.handlers.read import Head, Read
from proxy.handlers.router import Router
from proxy.handlers.routes import Gate, Route
from proxy.handlers.static import StaticFiles
from proxy.http.client1 import Http1Client
from proxy.http.client2 import Http2Client
from proxy.http.pool import Pool
from proxy.net.client_tls import ClientContexts
from proxy.net.dial import Address, Dialler
from proxy.net.egress import Bypass, Egress
from proxy.net.local import is_local
from proxy.net.resolve import Resolver
from proxy.net.tls import TlsError
from proxy.policy.addresses import AddressRules
from proxy.policy.allowlist import Allowlist
from proxy.policy.auth import Keyring
from proxy.policy.caller import Access
from proxy.policy.cors import Cors
from proxy.relay.clocks import Clocks
from proxy.relay.fleet import Fleet
from proxy.relay.keys import Keys
from proxy.relay.membership import Member, Membership, Solo
from proxy.relay.orphans import Orphans, Unwatched, Watcher
from proxy.relay.record import Records
from proxy.relay.recovery import Recovery
from proxy.relay.takeover import Endings
from proxy.relay.transfer import Desk
from proxy.relay.transfers import Transfers
from proxy.relay.upstream import Upstream
from proxy.store import EmbeddedStore, Store
from proxy.streams.client import Endpoint, Storage
from proxy.wire.headers import Headers

__all__ = ["App"]

_STREAMS_ROOT = "/v1/streams/"


@dataclass(frozen=True, slots=True)
class _Pools:
    upstream: Pool
    storage: Pool


class App:
    """One proxy: its router and everything behind it. Made inside a running loop; `aclose` leaves nothing."""

    def __init__(self, config: Config, secrets: tuple[str, ...]) -> None:
        """Raises ConfigError for settings that fail only when they are used: files, directories, locks."""
        self._config = config
        self.address_rules = AddressRules(is_local)
        self._tls, egress = _tls(config), _egress(config.egress)
        is_elsewhere = bool(config.storage.durable_streams_url)
        self._store = None if is_elsewhere else open_backend(config, is_public=config.read.shared_cache)
        # The store that is this process's alone: no owner of a stream can die but with it.
        own = self._store if isinstance(self._store, EmbeddedStore) else None
        self._is_alone = own is not None
        # Last of what may fail or runs in the background: nothing is left of an app that is not made.
        self._pools = _pools(config, self._tls, egress)
        clocks = Clocks(time.time, time.monotonic, config.clocks)
        storage = Storage(self._endpoint(self._store), clocks.saw)
        records = Records(storage, config.retry, config.records)
        endings = Endings(storage, records, config.retry)
        self._members: Membership = Member(storage, config.member) if own is None else Solo(own)
        desk = Desk(storage, records, endings, config.transfer, Tasks("transfer"))
        self.transfers = Transfers(desk, config.transfers)
        self._keys = Keys(storage, records, self._members, self.transfers, config.keys)
        self._orphans = Orphans(self._members, records, endings, config.orphans)
        self._watcher: Watcher = self._orphans if own is None else Unwatched()
        self._fleet = Fleet(self._members, records, self.transfers, endings, self._watcher, config.fleet)
        self._recovery = Recovery(own, endings, self.transfers, config.recovery)
        self.notices = [self._store.promise] if self._store is not None and self._store.promise else []
        self.router = self._router(Keyring(secrets), storage, endings)

    def _endpoint(self, store: Store | None) -> Endpoint:
        settings = self._config.storage
        fields = []
        root, origin = _STREAMS_ROOT, "store:"
        if store is not None:
            handler = store.handler
        else:
            address, host, path = _storage_at(settings.durable_streams_url, self.address_rules)
            handler = self._pools.storage.at(address)
            root = path if path.strip("/") else _STREAMS_ROOT
            origin = settings.durable_streams_url.removesuffix(path)
            fields.append((b"host", host.encode("ascii")))
        if settings.durable_streams_token:
            fields.append((b"authorization", b"Bearer " + settings.durable_streams_token.encode()))
        root = root if root.endswith("/") else root + "/"
        timeout, retries = settings.storage_timeout_seconds, settings.storage_quick_retries
        return Endpoint(handler, root.encode("ascii"), Headers(fields), timeout, retries, f"{origin}{root}")

    def _router(self, keyring: Keyring, storage: Storage, endings: Endings) -> Router:
        config = self._config
        signing = Signing(keyring, time.time)
        allowlist = Allowlist(config.access.allowlist, config.access.allow_private)
        upstream = Upstream(self._pools.upstream, self.address_rules, config.upstream)
        making = Making(self._members, self.transfers, self._keys)
        create = Create(signing, allowlist, upstream, making, config.create)
        read = Read(storage, endings, self._watcher, config.read)
        abort = Abort(self._fleet, config.abort)
        delete = Delete(storage, endings.records, self._fleet, wait=config.storage.storage_timeout_seconds)
        creating = {b"POST": Route("create", Access.CREATE, create)}
        health = Route("health", Access.ANYONE, Health(self.transfers))
        return Router(
            {b"/v1/proxy": creating, b"/v1/proxy/": creating, b"/health": {b"GET": health, b"HEAD": health}},
            {
                b"GET": Route("read", Access.READ, read),
                b"HEAD": Route("head", Access.METADATA, Head(storage, endings, self._watcher)),
                b"PATCH": Route("abort", Access.ABORT, abort),
                b"DELETE": Route("delete", Access.DELETE, delete),
            },
            static=StaticFiles(),
            gate=Gate(keyring, time.time),
            cors=Cors(config.access.cors_origin, max_age=config.access.cors_max_age_seconds),
        )

    def prepared_tls(self) -> Callable[[], None]:
        """Read the files of TLS towards origins again; the function that puts them into use. Raises ConfigError."""
        try:
            return self._tls.prepared()
        except TlsError as error:
            raise ConfigError(f"--ca-file and --upstream-cert: {error}") from None

    def open(self) -> None:
        """Start what runs in the background."""
        self.transfers.open()
        self._recovery.start()
        self._members.open(self.transfers.abort, self.transfers.doubt)
        if not self._is_alone:
            self._orphans.open()

    async def end_transfers(self) -> None:
        """End every running stream as interrupted: flushed, recorded and closed."""
        await self.transfers.aclose(self._config.stop.flush_timeout_seconds)

    async def aclose(self) -> None:
        """Close everything; call it when no request is in progress any more."""
        await self._recovery.aclose()
        await self._orphans.aclose()
        await self._keys.aclose()
        await self._members.aclose()
        await self._pools.upstream.aclose()
        await self._pools.storage.aclose()
        if self._store is not None:
            await self._store.aclose()


def _storage_at(place: str, rules: AddressRules) -> tuple[Address, str, str]:
    """Address, host and path of a storage elsewhere."""
    if place.startswith("unix:"):
        return Address("", 0, uds=place.removeprefix("unix:")), "localhost", ""
    url = urlsplit(place)
    tls = url.scheme == "https"
    port = url.port or (443 if tls else 80)
    return Address(url.hostname or "", port, tls=tls, guard=rules.storage_guard), url.netloc, url.path


def _tls(config: Config) -> ClientContexts:
    try:
        return ClientContexts(config.place.ca_file, config.place.upstream_cert)
    except TlsError as error:
        raise ConfigError(f"--ca-file and --upstream-cert: {error}") from None


def _pools(config: Config, tls: ClientContexts, egress: Egress | None) -> _Pools:
    # A resolver for each: names of upstreams never keep storage's name waiting.
    to_upstreams = Dialler(tls, Resolver(config.resolver), config.dial, egress=egress)
    to_storage = Dialler(tls, Resolver(config.resolver), config.dial)
    http2 = partial(Http2Client, settings=config.upstream_http2) if config.place.upstream_http == "auto" else None
    return _Pools(
        Pool("upstream", to_upstreams, config.upstream_pool, Http1Client, http2),
        Pool("storage", to_storage, config.storage_pool, Http1Client),
    )


def _egress(settings: EgressSettings) -> Egress | None:
    if not settings.egress_proxy:
        return None
    url = urlsplit(settings.egress_proxy)
    credentials = settings.egress_credentials
    if settings.egress_credentials_file:
        try:
            credentials = Path(settings.egress_credentials_file).read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--egress-credentials-file cannot be read: {error}") from None
    authorization = b"Basic " + b64encode(credentials.encode()) if credentials else None
    bypass = Bypass(settings.no_proxy)
    return Egress(url.hostname or "", url.port or 80, authorization, bypass, settings.max_upstream_head_bytes)
