"""The numbers of the store, in one frozen dataclass without defaults: the configuration fills it."""

from dataclasses import dataclass

__all__ = ["StoreSettings"]


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Bounds of one store: sizes in bytes, times in seconds.

    `max_bytes` is the database's size past which appends are refused (0: none), `min_free_bytes` the room on the
    disk below which creates are. `append_bytes` bounds one append, `held_bytes` all appends that are being received
    or stored. An append is kept in pieces of at most `piece_bytes`; `step_bytes` is what one look into the database
    fetches, `response_bytes` what one catch-up response carries (it goes on to the end of a piece) and `event_bytes`
    what one SSE event does. The last `tail_bytes` of a stream stay in memory for its live readers, `tails_bytes` of
    all streams together; `streams` is how many streams' states do, `producers` how many producers of one stream are
    remembered. `reader_threads` look into the database, `checkpoint_bytes` of write-ahead log are moved into it at
    once, and `vacuum_bytes` of free pages are kept for reuse. `sweep_rows` are removed in one step of a sweep.
    """

    max_bytes: int
    min_free_bytes: int
    append_bytes: int
    held_bytes: int
    piece_bytes: int
    step_bytes: int
    response_bytes: int
    event_bytes: int
    tail_bytes: int
    tails_bytes: int
    streams: int
    producers: int
    reader_threads: int
    checkpoint_bytes: int
    vacuum_bytes: int
    sweep_rows: int
    sweep_seconds: float
    long_poll_seconds: float
    keep_alive_seconds: float
    sse_seconds: float
    cursor_seconds: int
