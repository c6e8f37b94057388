"""The embedded store's settings as tests use them: `store_settings(streams=1)` makes a bound reachable."""

from dataclasses import replace

from proxy.store.settings import EngineSettings, StoreSettings

__all__ = ["engine_settings", "store_settings"]

_SETTINGS = StoreSettings(
    scheme="http",
    max_bytes=0,
    min_free_bytes=1 << 20,
    append_bytes=16 << 20,
    append_values=262_144,
    held_bytes=256 << 20,
    piece_bytes=256 << 10,
    step_bytes=256 << 10,
    response_bytes=16 << 20,
    event_bytes=16 << 10,
    tail_bytes=64 << 10,
    tails_bytes=64 << 20,
    shared_event_bytes=4 << 20,
    streams=10_000,
    producers=1_000,
    reader_threads=2,
    json_threads=2,
    stall_seconds=10.0,
    checkpoint_bytes=8 << 20,
    vacuum_bytes=16 << 20,
    sweep_rows=512,
    sweep_bytes=1 << 20,
    sweep_seconds=30.0,
    long_poll_seconds=30.0,
    keep_alive_seconds=15.0,
    sse_seconds=60.0,
    cursor_seconds=20,
)


def store_settings(**changes: float) -> StoreSettings:
    """Settings that no test meets by accident, with some changed."""
    return replace(_SETTINGS, **changes)  # type: ignore[arg-type]  # every field is a number


_ENGINE = EngineSettings(
    url="",
    url_file="",
    password="",
    prefix="ds",
    replicas=0,
    connect_seconds=2.0,
    answer_seconds=3.0,
    patience_seconds=5.0,
    reconnect_seconds=0.05,
    reconnect_longest_seconds=1.0,
    ping_seconds=10.0,
)


def engine_settings(**changes: float | str) -> EngineSettings:
    """Settings of a shared engine, with some changed."""
    return replace(_ENGINE, **changes)  # type: ignore[arg-type]  # every field is a number or a text
