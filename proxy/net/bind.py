"""Listening sockets: TCP by host and port, or a Unix socket."""

import errno
import os
import socket
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ListenSettings", "bind", "bind_tcp", "bind_unix", "close_listening"]

_EVERY_IPV4, _EVERY_IPV6 = "0.0.0.0", "::"  # noqa: S104  # compared with, never a default


@dataclass(frozen=True, slots=True)
class ListenSettings:
    """Where a server listens."""

    port: int  # TCP port; 0 picks a free one
    host: tuple[str, ...]  # names and addresses to bind to; localhost is both loopback addresses
    uds: str  # path of a Unix socket to listen on instead; empty for TCP
    accept_backlog: int  # connections that wait in the kernel until they are accepted


def bind(settings: ListenSettings) -> list[socket.socket]:
    """The listening sockets that the settings ask for. Raises OSError with the address in its text."""
    if settings.uds:
        return [bind_unix(Path(settings.uds), settings.accept_backlog)]
    return bind_tcp(settings.host, settings.port, settings.accept_backlog)


def bind_tcp(hosts: Sequence[str], port: int, backlog: int) -> list[socket.socket]:
    """Listening sockets for every address of `hosts`, all on one port; 0 picks a free one.

    `localhost` is both loopback addresses. `::` is every address of the machine, IPv4 too, unless `0.0.0.0` is given
    beside it. Raises OSError with the address in its text.
    """
    addresses = list(dict.fromkeys(address for host in hosts for address in _addresses(host)))
    sockets: list[socket.socket] = []
    try:
        for address in addresses:
            is_dual = address == _EVERY_IPV6 and _EVERY_IPV4 not in addresses
            place = address, sockets[0].getsockname()[1] if sockets else port
            try:
                sockets.append(_listening(place, backlog, is_dual=is_dual))
            except OSError as error:
                if address == "::1" and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    continue  # a machine without IPv6
                where = f"{address} port {place[1]}"
                raise OSError(error.errno, f"cannot listen on {where}: {error.strerror}") from None
    except OSError:
        for bound in sockets:
            bound.close()
        raise
    return sockets


def _addresses(host: str) -> list[str]:
    if host == "localhost":
        return ["127.0.0.1", "::1"]
    try:
        found = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise OSError(error.errno, f"cannot listen on {host}: {error.strerror}") from None
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _listening(place: tuple[str, int], backlog: int, *, is_dual: bool) -> socket.socket:
    """A listening socket; with `is_dual` an IPv6 one that accepts IPv4 connections as well."""
    family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, not is_dual)
        listening.setblocking(False)
        listening.bind(place)
        listening.listen(backlog)
    except BaseException:
        listening.close()
        raise
    return listening


def bind_unix(path: Path, backlog: int) -> socket.socket:
    """A listening Unix socket of mode 0600; a stale one that nobody listens on is replaced. Raises OSError."""
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise OSError(errno.EADDRINUSE, f"cannot listen on {path}: another process does")
        path.unlink()
    listening = socket.socket(socket.AF_UNIX)
    old_mask = os.umask(0o177)
    try:
        listening.setblocking(False)
        listening.bind(str(path))
        listening.listen(backlog)
    except OSError as error:
        listening.close()
        raise OSError(error.errno, f"cannot listen on {path}: {error.strerror or error}") from None
    finally:
        os.umask(old_mask)
    return listening


def close_listening(listening: socket.socket) -> None:
    """Close a socket of `bind_tcp` or `bind_unix`; the latter's file goes, too."""
    if listening.family == socket.AF_UNIX:
        with suppress(OSError):
            os.unlink(listening.getsockname())
    listening.close()
