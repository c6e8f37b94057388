"""How long storage may be silent on a live read: learned from how often it says on silent reads that it is there.

A connection can go deaf: the peer, or what keeps its address on the way, is gone, and nothing tells so. A storage that
works breaks its silence now and then, with a comment or with a control event that carries no news. How often is its
own affair, so it is measured. The silence that counts as deafness is a multiple of the longest such interval.

A wrong measure would break off good reads for ever, because no longer interval could be seen any more. So only the
time between two signs of the same kind counts, with nothing between them: it is the interval of storage's timer, also
if that timer runs on regardless of what is sent.
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

    storage_timeout_seconds: float  # the least: storage may take as long over any request
    storage_silence_seconds: float  # the most, and what is allowed until something was learned
    missed_beats: float  # of storage's own intervals without a sign, after which it counts as silent


class Heartbeat:
    """What all live reads together have learned."""

    def __init__(self, settings: HeartbeatSettings) -> None:
        self._settings = settings
        self.limit = settings.storage_silence_seconds
        """Seconds of silence after which a live read is to be broken off."""
        self._longest = 0.0

    def learn(self, seconds: float) -> None:
        """Storage let `seconds` pass between two signs of life, of its own accord."""
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
