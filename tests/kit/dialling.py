"""Diallers with a resolver that a test may answer for."""

import socket
import ssl
import threading
from collections.abc import Sequence

import pytest

from proxy.net.client_tls import ClientContexts, Contexts
from proxy.net.dial import Dialler, DialLimits
from proxy.net.egress import Egress
from proxy.net.liveness import Liveness
from proxy.net.resolve import Resolver, ResolverLimits
from tests.kit.waiting import SOON

__all__ = ["Resolved", "make_dialler", "resolver_limits"]


def resolver_limits(
    *, timeout: float = SOON, answers: float = 0.0, failures: float = 0.0, lookups: int = 100
) -> ResolverLimits:
    """A resolver's bounds that are not the test's subject."""
    return ResolverLimits(timeout=timeout, answers=answers, failures=failures, names=100, lookups=lookups)


def make_dialler(
    kind: type[Dialler] = Dialler,
    *,
    tls: ssl.SSLContext | None = None,
    contexts: Contexts | None = None,
    timeout: float = SOON,
    dns_cache: float = 0.0,
    dns_timeout: float = SOON,
    attempt_delay: float = 0.05,
    egress: Egress | None = None,
) -> Dialler:
    """A dialler with bounds that are not the test's subject."""
    liveness = Liveness(tcp_keepalive_seconds=10, tcp_probe_seconds=5, tcp_probes=3, tcp_user_timeout_seconds=30)
    limits = DialLimits(timeout=timeout, attempt_delay=attempt_delay, origins=100, liveness=liveness)
    resolver = Resolver(resolver_limits(timeout=dns_timeout, answers=dns_cache))
    contexts = contexts or (ClientContexts("", ()) if tls is None else lambda *_: tls)
    return kind(contexts, resolver, limits, egress=egress)


class Resolved:
    """Stands for the system's resolver, in its threads: the same answers for every name, and the names asked for.

    A name in `silent` gets its answer when the test sets `speak`.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: Sequence[str] | OSError) -> None:
        self.answers = answers
        self.asked: list[str] = []
        self.silent: set[str] = set()
        self.speak = threading.Event()
        monkeypatch.setattr("proxy.net.resolve.socket.getaddrinfo", self._getaddrinfo)

    def _getaddrinfo(self, host: str, port: None, **_: object) -> list[tuple[int, int, int, str, tuple[str, None]]]:
        self.asked.append(host)
        if host in self.silent:
            self.speak.wait(SOON)
        if isinstance(self.answers, OSError):
            raise self.answers
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (answer, port)) for answer in self.answers]
