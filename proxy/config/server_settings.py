"""The settings of the server's side: where it listens, who may do what, clients, and how it stops."""

from proxy.base.places import DATA_DIR
from proxy.config.setting import Group, Setting

__all__ = ["ACCESS", "CLIENTS", "PLACE", "STOP", "TLS"]

_KIB = 1024
_MIB = 1024 * 1024

PLACE = Group(
    "place",
    "Where the proxy is",
    (
        Setting("port", 4440, "TCP port to listen on; 0 picks a free one", unit="port", maximum=65_535),
        Setting(
            "host",
            ("localhost",),
            "Host to bind to (repeatable); localhost is 127.0.0.1 and ::1, and :: is every address, IPv4 too",
            unit="host",
        ),
        Setting("uds", "", "Unix socket (mode 0600) to listen on, instead of TCP", unit="path"),
        Setting(
            "public_url",
            "",
            "URL under which clients reach the server; makes the Location of a 201 absolute",
            unit="URL",
        ),
        Setting(
            "max_connections",
            0,
            "Client connections open at once; 0: nine tenths of the file descriptors that the process may open",
            unit="connections",
        ),
        Setting(
            "data_dir",
            DATA_DIR,
            "Directory of the embedded store, and of the service secret that is made when none is given",
            unit="path",
        ),
    ),
)

TLS = Group(
    "tls",
    "TLS for clients",
    (
        Setting(
            "tls_cert",
            (),
            "File of a certificate with its chain, PEM (repeatable: clients get the one for the name that they ask for,"
            " else the first); without one, the proxy speaks plain HTTP",
            unit="path",
        ),
        Setting(
            "tls_key",
            (),
            "File of a private key, PEM, not encrypted (repeatable: one for each --tls-cert, in the same order)",
            unit="path",
        ),
        Setting("tls_min_version", "1.2", "Lowest version of TLS that clients may speak: 1.2 or 1.3", unit="version"),
        Setting(
            "tls_client_ca",
            "",
            "File of certificate authorities, PEM; with it, every client must show a certificate of one of them",
            unit="path",
        ),
    ),
)

ACCESS = Group(
    "access",
    "Who may do what",
    (
        Setting(
            "allowlist",
            (),
            "Pattern of upstream URLs that may be called (repeatable); without one, every upstream is refused",
            unit="pattern",
            option="--allow",
        ),
        Setting(
            "allow_private",
            (),
            "Pattern of upstream URLs that may be called even at a private address (repeatable)",
            unit="pattern",
        ),
        Setting(
            "secret",
            (),
            "Service secret: callers show it, or a JWT signed with it; without one, a secret is made in --data-dir",
            is_credential=True,
        ),
        Setting(
            "secret_file",
            "",
            "File of service secrets, one a line: the first one signs, all of them verify",
            unit="path",
        ),
        Setting("url_expiration_seconds", 86_400, "Lifetime of a pre-signed URL", unit="s", minimum=1),
        Setting(
            "cors_origin",
            (),
            "Browser origin that may read responses (repeatable); without one, every origin may",
            unit="origin",
        ),
        Setting(
            "cors_max_age_seconds",
            7200,
            "Time for which a browser may remember a preflight; Chrome remembers none for longer than 2 hours",
            unit="s",
        ),
        Setting(
            "pass_header",
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
            "Upstream response header that reaches the client (repeatable, prefix* allowed); replaces the whole list",
            unit="name",
        ),
        Setting(
            "forward_header",
            (),
            "Request header of browsers or gateways that is forwarded to upstreams (repeatable, prefix* allowed)",
            unit="name",
        ),
        Setting(
            "shared_cache",
            False,
            "Shared caches (a CDN) may keep reads by a signed URL: the Cache-Control of storage passes",
        ),
    ),
)

CLIENTS = Group(
    "clients",
    "Clients and their requests",
    (
        Setting(
            "max_head_bytes",
            32 * _KIB,
            "Maximum size of a request head; larger ones are refused with 431",
            unit="bytes",
            minimum=256,
        ),
        Setting(
            "max_head_fields",
            100,
            "Maximum number of header fields in a request or response; a request with more is refused with 431",
            unit="fields",
            minimum=8,
        ),
        Setting(
            "max_target_bytes",
            8 * _KIB,
            "Maximum length of a request target (path and query); longer ones are refused with 414",
            unit="bytes",
            minimum=64,
        ),
        Setting(
            "max_request_bytes",
            64 * _MIB,
            "Maximum size of a request body; larger ones are refused with 413",
            unit="bytes",
        ),
        Setting(
            "max_request_bytes_total",
            512 * _MIB,
            "Memory for request bodies, which are held until their upstreams answer; requests beyond it get 503",
            unit="bytes",
        ),
        Setting(
            "min_body_rate",
            _KIB,
            "Least rate of a request body that takes longer than --body-timeout-seconds; a slower one gets 408",
            unit="bytes/s",
            minimum=1,
        ),
        Setting(
            "max_readers",
            8_000,
            "Maximum number of live readers (long-poll and SSE) at once; further ones get 503",
            unit="readers",
            minimum=1,
        ),
        Setting(
            "max_readers_per_stream",
            1_000,
            "Maximum number of live readers (long-poll and SSE) of one stream; further ones get 503",
            unit="readers",
            minimum=1,
        ),
        Setting(
            "max_reader_bytes",
            64 * _KIB,
            "Bytes buffered for a slow reader before reading from storage is paused for it",
            unit="bytes",
            minimum=1024,
        ),
        Setting(
            "reader_timeout_seconds",
            60.0,
            "Maximum time without progress of a response; then its connection is closed",
            unit="s",
            minimum=0.01,
        ),
        Setting(
            "keep_alive_seconds",
            15.0,
            "Silence on an SSE response after which a comment is sent, so that nothing on the way closes it as idle",
            unit="s",
            minimum=0.01,
        ),
        Setting(
            "abort_wait_seconds",
            2.0,
            "Maximum time for which the answer to an abort waits until the stream is closed",
            unit="s",
        ),
        Setting(
            "head_timeout_seconds",
            10.0,
            "Maximum time until a request head is complete; also until the first byte on a new connection, and for a"
            " TLS handshake",
            unit="s",
            minimum=0.01,
        ),
        Setting(
            "body_timeout_seconds",
            30.0,
            "Maximum time without progress of a request body; then the request is refused with 408",
            unit="s",
            minimum=0.01,
        ),
        Setting(
            "idle_timeout_seconds",
            75.0,
            "Time for which an idle client connection is kept open for the next request",
            unit="s",
        ),
        Setting(
            "half_close_grace_seconds",
            0.5,
            "Time for the response to a client that has closed its sending side; then the client counts as gone",
            unit="s",
        ),
        Setting(
            "close_grace_seconds",
            2.0,
            "Time for which incoming bytes are ignored after a connection's last response, before it is closed",
            unit="s",
        ),
        Setting(
            "sweep_seconds",
            0.25,
            "Interval at which time limits of connections and transfers are checked",
            unit="s",
            minimum=0.001,
        ),
    ),
)

STOP = Group(
    "stop",
    "Stopping",
    (
        Setting(
            "drain_timeout_seconds",
            30.0,
            "At a stop, time for running transfers to end by themselves; no new ones begin",
            unit="s",
        ),
        Setting(
            "flush_timeout_seconds",
            10.0,
            "At a stop, time for storing what was received and closing the streams of transfers that still run",
            unit="s",
        ),
        Setting(
            "reader_grace_seconds", 2.0, "At a stop, time for readers to receive the end of their streams", unit="s"
        ),
    ),
)
