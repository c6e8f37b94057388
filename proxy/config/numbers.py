"""Numbers that nobody sets: those that are fixed, and those that follow from settings. Each once, with its reason.

Like settings, they reach the code that uses them by their names: see `proxy.config.sections`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from proxy.base.descriptors import descriptor_limit
from proxy.config.setting import Value
from proxy.net.connection import READ_BYTES

__all__ = ["DERIVED", "FIXED", "Derived", "Fixed", "Values", "all_values"]

_KIB = 1024
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Fixed:
    """A number that no flag changes."""

    name: str
    value: int | float
    unit: str
    help: str


class Values:
    """The values of settings by name, each as the type that it has."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        self._values = values

    def number(self, name: str) -> float:
        """A setting of seconds."""
        value = self._values[name]
        if isinstance(value, int | float):
            return value
        raise TypeError(f"{name} is no number")

    def whole(self, name: str) -> int:
        """A setting that counts something."""
        value = self._values[name]
        if isinstance(value, int):
            return value
        raise TypeError(f"{name} is no whole number")

    def is_given(self, name: str) -> bool:
        """Whether a text or a list is not empty."""
        return bool(self._values[name])


@dataclass(frozen=True, slots=True)
class Derived:
    """A number that follows from settings, and how."""

    name: str
    unit: str
    help: str
    of: Callable[[Values], Value]


FIXED = (
    # Sockets
    Fixed("accept_backlog", 1024, "connections", "Connections that wait in the kernel until the server accepts them"),
    Fixed("accept_retry_seconds", 0.1, "s", "Pause after an accept that found no free file descriptor or memory"),
    Fixed("accept_report_seconds", 60.0, "s", "Interval of log lines while accepts keep failing"),
    Fixed("pipelined_at_once", 4, "requests", "Pipelined requests, of all clients, that begin together; more wait"),
    Fixed("swept_at_once", 8, "connections", "Connections whose time limits are checked without a pause"),
    Fixed("swept_pause_seconds", 0.001, "s", "Pause before the time limits of the next ones are checked"),
    Fixed("pipelined_pause_seconds", 0.002, "s", "Pause before the next of them begin"),
    Fixed("exchanges_per_connection", 100, "requests", "Requests that one HTTP/2 connection may have in progress"),
    Fixed("ping_seconds", 30.0, "s", "Silence of an upstream's busy HTTP/2 connection after which a PING is sent"),
    Fixed("pong_seconds", 10.0, "s", "Maximum wait for a sign of life after that PING; then the connection is closed"),
    Fixed("tcp_probe_seconds", 5, "s", "Interval of keep-alive probes that are not answered"),
    Fixed("tcp_probes", 3, "probes", "Keep-alive probes without an answer, after which a connection is lost"),
    Fixed(
        "tls_close_seconds",
        3600.0,
        "s",
        "Maximum time for a client to take the rest of a closing TLS connection; one that takes nothing is cut sooner",
    ),
    Fixed("certificate_warning_days", 7, "days", "Remaining lifetime of a certificate at which the start warns"),
    Fixed("remembered_hosts", 4096, "hosts", "Host names of upstreams whose addresses are remembered"),
    # Streams and instances
    Fixed("storage_quick_retries", 2, "retries", "Immediate retries of a repeatable request whose connection was lost"),
    Fixed(
        "missed_beats",
        2.5,
        "intervals",
        "Intervals, as storage keeps them, without a sign of life on a live read, after which it is broken off",
    ),
    Fixed(
        "max_control_bytes", 4 * _KIB, "bytes", "Maximum size of an SSE control event that is read; one has about 100"
    ),
    Fixed(
        "max_lease_bytes", 64, "bytes", "Maximum size of the stream that stands for an instance's lease; it is empty"
    ),
    Fixed("max_key_bytes", 255, "bytes", "Maximum size of an Idempotency-Key (protocol)"),
    Fixed("max_ledger_bytes", 1 * _MIB, "bytes", "Maximum size of an Idempotency-Key's lock: 4,000 calls that failed"),
    Fixed(
        "clock_skew_seconds", 600.0, "s", "Difference between this machine's clock and storage's that is not reported"
    ),
    Fixed("clock_check_seconds", 60.0, "s", "Interval at which this machine's clock is compared with storage's"),
    Fixed("lease_misses", 3, "looks", "Looks without a lease in a row, after which its instance counts as dead"),
    # The embedded store: how much it takes
    Fixed("store_append_bytes", 16 * _MIB, "bytes", "Maximum size of one append"),
    Fixed("store_append_values", 262_144, "values", "Maximum number of JSON values in one append"),
    Fixed("store_held_bytes", 256 * _MIB, "bytes", "Memory for all appends that are being received or stored"),
    Fixed("store_producers", 1000, "producers", "Producers remembered for one stream, the latest ones"),
    # The embedded store: how it keeps and reads
    Fixed("store_piece_bytes", 64 * _KIB, "bytes", "Maximum size of one row of stream data"),
    Fixed("store_step_bytes", 64 * _KIB, "bytes", "Data read from the database in one step of a catch-up read"),
    Fixed("store_response_bytes", 16 * _MIB, "bytes", "Size at which a catch-up response ends; the reader asks again"),
    Fixed(
        "store_event_bytes",
        16 * _KIB,
        "bytes",
        "Maximum size of an SSE data event; a larger JSON value is one alone",
    ),
    Fixed("store_tail_bytes", 64 * _KIB, "bytes", "End of a stream that is kept in memory for its live readers"),
    Fixed("store_shared_event_bytes", 4 * _MIB, "bytes", "Encoded events kept for further readers at the same place"),
    Fixed("store_tails_bytes", 64 * _MIB, "bytes", "Memory for the ends of all streams"),
    Fixed("store_streams", 10_000, "streams", "Streams whose state is kept in memory beside those in use"),
    Fixed("store_reader_threads", 2, "threads", "Threads that read from the database"),
    Fixed("store_json_threads", 2, "threads", "Threads that check long JSON bodies"),
    # The embedded store: when it tidies
    Fixed("store_checkpoint_bytes", 8 * _MIB, "bytes", "Size of the write-ahead log that is moved into the database"),
    Fixed("store_vacuum_bytes", 16 * _MIB, "bytes", "Free space in the database file that is kept for reuse"),
    Fixed("store_sweep_rows", 512, "rows", "Rows removed in one step of a sweep for expired streams"),
    Fixed("store_sweep_bytes", 1 * _MIB, "bytes", "Data removed, or moved to shrink the file, in one step of a sweep"),
    Fixed("store_sweep_seconds", 30.0, "s", "Interval between two sweeps for expired streams"),
    # The embedded store: how long its live reads last
    Fixed("store_long_poll_seconds", 30.0, "s", "Time after which a long-poll without news is answered with 204"),
    Fixed("store_sse_seconds", 60.0, "s", "Duration of an SSE response; the reader goes on in a new one"),
    Fixed("store_cursor_seconds", 20, "s", "Time that one cursor stands for (protocol, cursors)"),
    # Redis or Valkey
    Fixed("store_connect_seconds", 2.0, "s", "Maximum time to open a connection to Redis or Valkey"),
    Fixed("store_patience_seconds", 5.0, "s", "Maximum time for all attempts at one operation on Redis or Valkey"),
    Fixed("store_reconnect_seconds", 0.05, "s", "Pause before Redis or Valkey is tried again"),
    Fixed("store_reconnect_longest_seconds", 1.0, "s", "Longest pause before Redis or Valkey is tried again"),
    Fixed("store_ping_seconds", 5.0, "s", "Silence after which Redis or Valkey is asked whether it is there"),
    # Logs
    Fixed("log_window_seconds", 60.0, "s", "Time for which log lines of a kind are counted together"),
    Fixed("log_lines", 10, "lines", "Different lines of a kind that are logged in that time; of equal ones, one"),
    # Memory of the process
    Fixed("kept_heap_bytes", 8 * _MIB, "bytes", "Freed memory that the process keeps at hand"),
    Fixed("kept_block_bytes", 1 * _MIB, "bytes", "Largest block that is kept so; one read from a socket has a quarter"),
    Fixed("collector_objects", 10_000, "objects", "Unfreed new objects after which Python looks for cycles among them"),
    Fixed(
        "freed_look_seconds", 10.0, "s", "Time for which freed memory is kept beyond that, before the system gets it"
    ),
)


def _pause_bytes(of: Values) -> int:
    most = of.whole("max_waiting_bytes")
    return max(most - READ_BYTES, most // 64)


def _call_seconds(of: Values) -> float:
    return sum(map(of.number, ("pool_timeout_seconds", "connect_timeout_seconds", "upstream_timeout_seconds")))


DERIVED = (
    Derived(
        "store_scheme",
        "",
        "How the standalone store's own URLs begin: https with --tls-cert, else http",
        lambda of: "https" if of.is_given("tls_cert") else "http",
    ),
    Derived(
        "client_connections",
        "connections",
        "--max-connections, or nine tenths of the descriptor limit: the rest is for upstreams, storage and files",
        lambda of: of.whole("max_connections") or descriptor_limit() * 9 // 10,
    ),
    Derived(
        "upstream_pause_bytes",
        "bytes",
        "Bytes of a transfer at which reading is paused: --max-waiting-bytes less the one read that may still come",
        _pause_bytes,
    ),
    Derived(
        "request_piece_bytes",
        "bytes",
        "The most that one transfer can have waiting: an append of that size is written to storage in one piece",
        lambda of: _pause_bytes(of) + READ_BYTES,
    ),
    Derived(
        "lease_renew_seconds",
        "s",
        "A tenth of --lease-seconds: a lease survives several renewals that fail",
        lambda of: of.number("lease_seconds") / 10,
    ),
    Derived(
        "lease_look_seconds",
        "s",
        "A fifth of --lease-seconds: three looks without a lease are less than another lease",
        lambda of: of.number("lease_seconds") / 5,
    ),
    Derived(
        "lease_attempt_seconds",
        "s",
        "A quarter of --lease-seconds: longest time for one renewal, so that one that hangs leaves time for others",
        lambda of: of.number("lease_seconds") / 4,
    ),
    Derived(
        "lease_request_seconds",
        "s",
        "Three quarters of that: time-out of a renewal's request, after which idle connections to storage are closed",
        lambda of: 3 * of.number("lease_seconds") / 16,
    ),
    Derived(
        "store_answer_seconds",
        "s",
        "A quarter of --lease-seconds, 3 at most: time without an answer of Redis or Valkey, then it is reconnected",
        lambda of: min(of.number("lease_seconds") / 4, 3.0),
    ),
    Derived(
        "key_patience_seconds",
        "s",
        "Longest wait for another create with the same Idempotency-Key: its upstream request, and storage's around it",
        lambda of: _call_seconds(of) + of.number("storage_timeout_seconds"),
    ),
    Derived(
        "key_longest_poll_seconds",
        "s",
        "Longest pause between two looks at an Idempotency-Key: twenty times --key-poll-seconds",
        lambda of: 20 * of.number("key_poll_seconds"),
    ),
    Derived(
        "record_ttl_seconds",
        "s",
        "Twice --stream-ttl-seconds: with the refresh, the record of a stream that is read never expires before it",
        lambda of: 2 * of.whole("stream_ttl_seconds"),
    ),
    Derived(
        "record_refresh_seconds",
        "s",
        "Half of --stream-ttl-seconds: a remembered record is read again after it, which renews its lifetime",
        lambda of: of.number("stream_ttl_seconds") / 2,
    ),
    Derived(
        "max_record_bytes",
        "bytes",
        "Twice --max-upstream-head-bytes: what a record keeps of a response head, written as JSON",
        lambda of: 2 * of.whole("max_upstream_head_bytes"),
    ),
)


def all_values(settings: Mapping[str, Value]) -> dict[str, Value]:
    """Settings, fixed and derived numbers by name."""
    values = Values(settings)
    fixed = {number.name: number.value for number in FIXED}
    return {**settings, **fixed, **{number.name: number.of(values) for number in DERIVED}}
