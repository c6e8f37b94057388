"""Whether a peer is still there, as far as TCP can tell: keep-alive probes, and a bound on what stays unacknowledged.

Without them a connection whose peer has vanished (a machine that lost its power, an address that a gateway has
forgotten) stays open for as long as nothing is sent, and for a quarter of an hour after that.
"""

import socket
from contextlib import suppress
from dataclasses import dataclass

__all__ = ["Liveness", "watch_peer"]

_IDLE = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))  # macOS has the second name
_INTERVAL = getattr(socket, "TCP_KEEPINTVL", None)
_COUNT = getattr(socket, "TCP_KEEPCNT", None)
_USER_TIMEOUT = getattr(socket, "TCP_USER_TIMEOUT", None)  # Linux (RFC 5482)


@dataclass(frozen=True, slots=True)
class Liveness:
    """When a silent peer counts as gone; times in whole seconds."""

    tcp_keepalive_seconds: int  # silence after which the peer is probed
    tcp_probe_seconds: int  # pause between two probes without an answer
    tcp_probes: int  # probes without an answer after which the peer is gone
    tcp_user_timeout_seconds: int  # how long sent bytes may stay unacknowledged


def watch_peer(opened: socket.socket, liveness: Liveness) -> None:
    """Let the system end the connection with an error when its peer is gone. What a system lacks is left out."""
    with suppress(OSError):
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in (
            (_IDLE, liveness.tcp_keepalive_seconds),
            (_INTERVAL, liveness.tcp_probe_seconds),
            (_COUNT, liveness.tcp_probes),
            (_USER_TIMEOUT, liveness.tcp_user_timeout_seconds * 1000),
        ):
            if option is not None:
                opened.setsockopt(socket.IPPROTO_TCP, option, value)
