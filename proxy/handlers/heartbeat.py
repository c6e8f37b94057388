"""How long storage may be silent on a live read: learned from how often it says on silent reads that it is there.

A connection can go deaf: the peer, or a gateway on the way to it, is gone, and nothing reports that. A working storage
sends something even in silence, now and then: a comment, or a control event without news. Each storage has its own
interval, so the interval is measured. The silence that counts as deafness is a multiple of the longest one.

A wrong measure would cut good reads for ever, because no longer interval could be seen any more. So only the time
between two signs of the same kind counts, with nothing between them. That is the interval of storage's timer, also if
that timer runs on regardless of what is sent.
"""

from dataclasses import dataclass

from proxy.wire.events import Buffer

__all__ = ["Beats", "Heartbeat", "HeartbeatSettings"]

_COMMENT = b":"
_CONTROL = b"event: control"
_CLOSED = b"streamClosed"


@dataclass(frozen=True, slots=True)
class HeartbeatSettings:
    """Bounds of the silence that is allowed to storage; times in seconds."""

    storage_timeout_seconds: float  # least silence that is allowed: any request to storage may take as long
    storage_silence_seconds: float  # most silence that is allowed, also before anything was learned
    missed_beats: float  # how many of storage's own intervals may pass without a sign


class Heartbeat:
    """What all live reads together have learned."""

    def __init__(self, settings: HeartbeatSettings) -> None:
        self._settings = settings
        self.limit = settings.storage_silence_seconds
        """Seconds of silence after which a live read must be cut."""
        self._longest = 0.0

    def learn(self, seconds: float) -> None:
        """Storage let `seconds` pass between two signs of life."""
        if seconds > self._longest:
            settings = self._settings
            self._longest = seconds
            least = max(settings.missed_beats * seconds, settings.storage_timeout_seconds)
            self.limit = min(least, settings.storage_silence_seconds)


class Beats:
    """The signs of life in one live read."""

    __slots__ = ("_at", "_heartbeat", "_kind")

    def __init__(self, heartbeat: Heartbeat) -> None:
        self._heartbeat = heartbeat
        self._kind = b""  # of the sign that came last; empty: something else came since
        self._at = 0.0  # when it came, in the loop's time

    def came(self, parts: tuple[Buffer, ...], now: float) -> None:
        """`parts` came between two events, at the loop's time `now`."""
        kind = b""
        if len(parts) == 1:
            start = bytes(parts[0][: len(_CONTROL)])
            if start.startswith(_COMMENT):
                kind = _COMMENT
            elif start == _CONTROL and _CLOSED not in bytes(parts[0]):
                kind = _CONTROL
        if kind and kind == self._kind:
            self._heartbeat.learn(now - self._at)
        self._kind, self._at = kind, now
