"""The numbers of the store, in frozen dataclasses without defaults: the configuration fills them."""

from dataclasses import dataclass, field

__all__ = ["EngineSettings", "StoreSettings"]


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Bounds and times of one store. Sizes are in bytes, times in seconds."""

    scheme: str
    """What the store's own URLs begin with: `https` when clients speak TLS to it, else `http`."""

    # What may be stored
    max_bytes: int
    """Size of the database past which creates and appends are refused as FULL; 0: no bound."""
    min_free_bytes: int
    """Room on the disk below which creates are refused as FULL; appends are refused below a quarter of it."""
    append_bytes: int
    """Largest body of one create or append."""
    append_values: int
    """Most JSON values that one create or append may bring."""
    held_bytes: int
    """Most bytes of all bodies together that are being received or stored; beyond it requests get 503."""
    producers: int
    """Most producers of one stream that are remembered; the one that has been silent for longest is forgotten first."""

    # How it is kept and read
    piece_bytes: int
    """Largest piece, the unit in which data is stored and read; an append that is larger is cut into several."""
    step_bytes: int
    """About how much of a stream a catch-up read fetches at once, and so holds in memory."""
    response_bytes: int
    """About how much of a stream one catch-up response carries; it goes on to the end of a piece."""
    event_bytes: int
    """Largest data event of a live read. A single larger character or JSON value still is one event. In JSON mode also
    the largest piece, because a reader can go on only from the end of a piece."""
    shared_event_bytes: int
    """Most bytes of encoded events that are kept for further readers at the same place of their streams."""
    tail_bytes: int
    """Most bytes of one stream's end that are kept in memory for its live readers."""
    tails_bytes: int
    """Most bytes of all streams' ends together that are kept in memory."""
    streams: int
    """Most streams whose state is kept in memory although nothing uses them at the moment."""
    reader_threads: int
    """Threads that read the database, each with a connection of its own."""
    json_threads: int
    """Threads that check long JSON bodies."""

    # When it is written and tidied
    stall_seconds: float
    """Time without a finished write after which the disk counts as hanging, and writes are answered 503."""
    checkpoint_bytes: int
    """Size of the write-ahead log at which it is moved into the database."""
    vacuum_bytes: int
    """Bytes of free pages that the database keeps for reuse; more than that goes back to the file system."""
    sweep_rows: int
    """Most rows of removed streams that are deleted in one transaction."""
    sweep_bytes: int
    """Most bytes of removed streams that are deleted in one transaction, or moved at once to shrink the file."""
    sweep_seconds: float
    """Time between two looks for streams that have expired."""

    # How long live reads last
    long_poll_seconds: float
    """Longest wait of a long poll; then it is answered 204."""
    keep_alive_seconds: float
    """Longest silence of an SSE response; then the server sends a comment."""
    sse_seconds: float
    """Longest SSE response; the reader then goes on in a new one, so that load balancers can move it."""
    cursor_seconds: int
    """Interval of time that one cursor stands for (protocol section on cursors)."""


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Where streams are kept when other instances keep theirs there, too. Times are in seconds."""

    url: str
    """Of a Redis or Valkey; empty for the embedded engine."""
    url_file: str
    """File that holds the URL instead, with a password; empty for none."""
    password: str = field(repr=False)
    """Password of the URL's user; empty for none."""
    prefix: str
    """What the names of all keys begin with."""
    replicas: int
    """Replicas that must have a write before it is acknowledged."""
    connect_seconds: float
    """Longest time to open a connection: socket, TLS and greeting."""
    answer_seconds: float
    """Longest time without an answer; then the connection is given up and opened again."""
    patience_seconds: float
    """Longest time for all attempts at one operation; then it fails."""
    reconnect_seconds: float
    """Pause before a connection that failed is opened again, and before a refused command is repeated."""
    reconnect_longest_seconds: float
    """The pause doubles with each attempt that fails, up to this."""
    ping_seconds: float
    """Interval at which a silent connection is asked whether it is there."""
