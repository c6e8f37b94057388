"""The numbers of the store, in one frozen dataclass without defaults: the configuration fills it."""

from dataclasses import dataclass

__all__ = ["StoreSettings"]


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Bounds of one store: sizes in bytes, times in seconds."""

    # How much may be stored
    max_bytes: int  # of the database; past it appends are refused (0: no bound of our own)
    min_free_bytes: int  # of the disk; below it nothing is created
    append_bytes: int  # of one append
    held_bytes: int  # of all appends that are being received or stored
    producers: int  # of one stream that are remembered, the latest ones

    # How it is kept and read
    piece_bytes: int  # an append is kept in pieces of at most this
    step_bytes: int  # fetched from the database at once
    response_bytes: int  # of one catch-up response, which goes on to the end of a piece
    event_bytes: int  # of one SSE event, about
    tail_bytes: int  # of a stream's end kept in memory for its live readers
    tails_bytes: int  # the same of all streams
    streams: int  # whose state is kept in memory beside those in use
    reader_threads: int

    # When it is written and tidied
    checkpoint_bytes: int  # of the write-ahead log that are moved into the database at once
    vacuum_bytes: int  # of free pages that are kept for reuse
    sweep_rows: int  # removed in one step of a sweep
    sweep_bytes: int  # the same; also what is moved at once to shrink the file
    sweep_seconds: float  # between two looks for what has expired

    # How long live reads last
    long_poll_seconds: float
    keep_alive_seconds: float  # a silent SSE response gets a comment this often
    sse_seconds: float  # an SSE response ends after this; the reader goes on in a new one
    cursor_seconds: int  # that one cursor stands for
