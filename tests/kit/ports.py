"""Ports of 127.0.0.1: one for a server that starts later, and one that refuses connections."""

import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["free_port", "refusing_port"]


def free_port() -> int:
    """A port that nothing listens on. It is below those that outgoing connections get, so none of them takes it."""
    for _ in range(100):
        port = 20_000 + secrets.randbelow(10_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free")


@contextmanager
def refusing_port() -> Iterator[int]:
    """A port that refuses connections for the length of the block: it is bound, and nothing listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]
