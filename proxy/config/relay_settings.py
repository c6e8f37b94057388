"""The settings of the relay's side: upstreams, transfers, storage, instances and the embedded store."""

from proxy.config.setting import Group, Setting

__all__ = ["ENGINE", "INSTANCES", "STORAGE", "STORE", "TRANSFERS", "UPSTREAMS"]

_KIB = 1024
_MIB = 1024 * 1024
_CENTURY = 100 * 365 * 86_400  # seconds

UPSTREAMS = Group(
    "upstreams",
    "Upstreams",
    (
        Setting(
            "ca_file",
            "",
            "File of certificate authorities (PEM) to trust in addition to those of the system",
            unit="path",
        ),
        Setting(
            "upstream_cert",
            (),
            "Client certificate for one https origin, storage's too, as ORIGIN=FILE (repeatable); FILE is PEM and holds"
            " the certificate with its chain, and the private key",
            unit="origin=path",
        ),
        Setting(
            "egress_proxy",
            "",
            "HTTP proxy through which upstreams are called, by CONNECT; it resolves and guards their addresses",
            unit="URL",
        ),
        Setting(
            "egress_credentials", "", "User and password for the egress proxy, joined by a colon", is_credential=True
        ),
        Setting("egress_credentials_file", "", "File that holds user:password for the egress proxy", unit="path"),
        Setting(
            "no_proxy",
            (),
            "Host, address or network that is called without the egress proxy (repeatable); * is all of them",
            unit="host",
            variable="NO_PROXY",
        ),
        Setting(
            "upstream_connections",
            10_000,
            "Maximum number of connections to all upstreams together",
            unit="connections",
            minimum=1,
        ),
        Setting(
            "upstream_connections_per_origin",
            10_000,
            "Maximum number of connections to one upstream origin (scheme, host and port)",
            unit="connections",
            minimum=1,
        ),
        Setting(
            "upstream_http",
            "auto",
            "HTTP version towards upstreams: auto (HTTP/2 with https upstreams that speak it) or 1.1",
            unit="version",
        ),
        Setting(
            "upstream_exchanges",
            100,
            "Maximum number of exchanges at once on one HTTP/2 connection to an upstream; the upstream may allow fewer",
            unit="exchanges",
            minimum=1,
        ),
        Setting(
            "pool_timeout_seconds",
            5.0,
            "Maximum wait for a free connection to an upstream or to storage, when all are in use",
            unit="s",
            minimum=0.01,
        ),
        Setting(
            "connect_timeout_seconds",
            10.0,
            "Maximum time for opening a connection to an upstream or to storage: DNS, TCP and TLS together",
            unit="s",
            minimum=0.01,
        ),
        Setting(
            "upstream_timeout_seconds",
            60.0,
            "Maximum wait for the head of an upstream's response; then the create gets 504",
            unit="s",
            minimum=0.01,
        ),
        Setting(
            "upstream_idle_seconds",
            15.0,
            "Time for which an idle connection to an upstream is kept for reuse",
            unit="s",
        ),
        Setting(
            "connect_attempt_seconds",
            0.25,
            "Pause before the next address of a host is tried in parallel (RFC 8305)",
            unit="s",
            minimum=0.01,
        ),
        Setting(
            "tcp_keepalive_seconds",
            10,
            "Silence of an upstream or of storage after which its machine is probed (TCP keep-alive)",
            unit="s",
            minimum=1,
            maximum=32_767,
        ),
        Setting(
            "tcp_user_timeout_seconds",
            30,
            "Maximum time for which bytes sent to an upstream or to storage may stay unacknowledged; then it is gone",
            unit="s",
            minimum=1,
            maximum=32_767,
        ),
        Setting("dns_timeout_seconds", 5.0, "Maximum wait for the addresses of a host name", unit="s", minimum=0.01),
        Setting(
            "dns_failure_seconds",
            2.0,
            "Time for which a host name that could not be resolved is not looked up again",
            unit="s",
        ),
        Setting(
            "max_dns_lookups",
            256,
            "Maximum number of host names looked up at once; one whose DNS servers are silent keeps its place",
            unit="names",
            minimum=1,
        ),
        Setting(
            "dns_cache_seconds",
            10.0,
            "Time for which the checked addresses of a host name are used again without another look-up",
            unit="s",
        ),
        Setting(
            "max_upstream_head_bytes",
            64 * _KIB,
            "Maximum size of the head of an upstream's response; a create whose upstream sends more gets 502",
            unit="bytes",
            minimum=256,
        ),
        Setting(
            "max_error_bytes",
            64 * _KIB,
            "Bytes of an upstream's error body that are passed on to the client; the rest is cut",
            unit="bytes",
        ),
        Setting(
            "max_passed_header_bytes",
            8 * _KIB,
            "Bytes of an upstream's response headers that reach the client; headers that do not fit are left out",
            unit="bytes",
        ),
        Setting(
            "error_body_timeout_seconds",
            5.0,
            "Maximum time for reading an upstream's error body; what came by then is passed on",
            unit="s",
            minimum=0.01,
        ),
    ),
)

TRANSFERS = Group(
    "transfers",
    "Transfers",
    (
        Setting(
            "max_transfers",
            10_000,
            "Maximum number of transfers (upstream bodies being stored) at once; further creates get 503",
            unit="transfers",
            minimum=1,
        ),
        Setting(
            "max_response_bytes",
            100 * _MIB,
            "Maximum size of an upstream's body; a longer one is cut at this size and ends as `truncated`",
            unit="bytes",
            minimum=1,
        ),
        Setting(
            "max_transfer_seconds",
            3600.0,
            "Maximum duration of a transfer; a longer one ends as `timeout`",
            unit="s",
            minimum=0.01,
        ),
        Setting(
            "inactivity_timeout_seconds",
            600.0,
            "Maximum time without a byte of an upstream's body; then the transfer ends as `timeout`",
            unit="s",
            minimum=0.01,
        ),
        Setting(
            "max_waiting_bytes",
            256 * _KIB,
            "Bytes of one transfer that may wait for storage before reading from its upstream is paused",
            unit="bytes",
            minimum=1024,
        ),
        Setting(
            "max_waiting_bytes_total",
            256 * _MIB,
            "Bytes of all transfers that may wait for storage before reading from all upstreams is paused",
            unit="bytes",
            minimum=64 * _KIB,
        ),
        Setting(
            "append_interval_seconds",
            0.005,
            "Minimum time between two appends to one stream; bytes that arrive meanwhile become one append",
            unit="s",
        ),
        Setting(
            "batch_bytes",
            64 * _KIB,
            "Size from which an append is followed by the next one without --append-interval-seconds between",
            unit="bytes",
        ),
    ),
)

STORAGE = Group(
    "storage",
    "Storage",
    (
        Setting(
            "durable_streams_url",
            "",
            "Storage: URL of a durable-streams server, or unix:PATH of its socket; without it, the embedded store",
            unit="URL",
            variable="DURABLE_STREAMS_URL",
        ),
        Setting(
            "durable_streams_token",
            "",
            "Bearer token that the proxy shows to storage",
            variable="DURABLE_STREAMS_TOKEN",
            is_credential=True,
        ),
        Setting(
            "stream_ttl_seconds",
            86_400,
            "Lifetime of a stream, counted from its last read or write",
            unit="s",
            minimum=1,
            maximum=_CENTURY,
        ),
        Setting(
            "storage_connections", 10_000, "Maximum number of connections to storage", unit="connections", minimum=1
        ),
        Setting(
            "storage_idle_seconds", 60.0, "Time for which an idle connection to storage is kept for reuse", unit="s"
        ),
        Setting(
            "storage_timeout_seconds",
            10.0,
            "Maximum time for one request to storage, except live reads",
            unit="s",
            minimum=0.01,
        ),
        Setting(
            "storage_silence_seconds",
            90.0,
            "Maximum silence of storage during a live read; then the read is broken off",
            unit="s",
            minimum=0.01,
        ),
        Setting(
            "retry_first_seconds",
            0.05,
            "Longest pause before the first retry of a failed append; each later pause may be twice as long",
            unit="s",
        ),
        Setting("retry_longest_seconds", 5.0, "Longest pause between two retries of a failed append", unit="s"),
        Setting(
            "append_budget_seconds",
            60.0,
            "Maximum time for all attempts at one append; then the stream ends as `storage_error`",
            unit="s",
        ),
        Setting(
            "close_budget_seconds",
            600.0,
            "Time in which recording an outcome and closing its stream is retried at the pace of an append",
            unit="s",
        ),
        Setting(
            "close_retry_seconds",
            60.0,
            "Longest pause between retries of closing a stream, once --close-budget-seconds are spent",
            unit="s",
            minimum=0.01,
        ),
        Setting(
            "recovery_at_once",
            50,
            "Maximum number of streams, left open by a process that died, that are closed at the same time",
            unit="streams",
            minimum=1,
        ),
        Setting(
            "record_cache",
            10_000,
            "Maximum number of stream records (upstream status, outcome, …) remembered in memory",
            unit="records",
            minimum=1,
        ),
    ),
)

INSTANCES = Group(
    "instances",
    "Several instances on one storage",
    (
        Setting(
            "lease_seconds",
            8,
            "Time without a sign of life after which an instance counts as dead and its streams are `interrupted`",
            unit="s",
            minimum=2,
        ),
        Setting(
            "key_poll_seconds",
            0.02,
            "First pause between two looks whether another create with the same Idempotency-Key has ended",
            unit="s",
            minimum=0.001,
        ),
    ),
)

STORE = Group(
    "store",
    "The embedded store",
    (
        Setting(
            "store_max_bytes",
            0,
            "Size of the embedded store's database beyond which appends are refused; 0: no limit",
            unit="bytes",
        ),
        Setting(
            "store_min_free_bytes",
            64 * _MIB,
            "Free space on the embedded store's disk below which creates are refused, appends below a quarter of it",
            unit="bytes",
        ),
        Setting(
            "store_read_token", "", "Bearer token that a read of the standalone store must show", is_credential=True
        ),
        Setting(
            "store_write_token",
            "",
            "Bearer token that a write to the standalone store must show; it may read, too",
            is_credential=True,
        ),
    ),
)

ENGINE = Group(
    "engine",
    "Streams in Redis or Valkey",
    (
        Setting(
            "store_url",
            "",
            "Redis or Valkey that keeps the streams of any number of instances: redis://HOST:PORT, rediss:// with TLS",
            unit="URL",
        ),
        Setting("store_url_file", "", "File that holds the URL of --store-url, which may have a password", unit="path"),
        Setting("store_password", "", "Password for the user in --store-url", is_credential=True),
        Setting("store_prefix", "ds", "Text that the names of all keys begin with", unit="text"),
        Setting(
            "store_replicas",
            0,
            "Replicas that must have received a write before it is acknowledged",
            unit="replicas",
        ),
    ),
)
