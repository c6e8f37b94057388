"""Going out through an egress proxy: a tunnel by CONNECT (RFC 9110 section 9.3.6), and which hosts go without it."""

import asyncio
import re
import socket
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

__all__ = ["Bypass", "Egress", "EgressError"]

_END = b"\r\n\r\n"
_NAME = re.compile(r"\.?[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_STATUS = re.compile(rb"HTTP/1\.[01] 2[0-9][0-9]\b")


class EgressError(Exception):
    """The egress proxy did not open the tunnel."""


class Bypass:
    """Hosts that are connected to directly, by the rules that `NO_PROXY` has in curl and most clients.

    `*` is every host. `example.com`, `.example.com` and `*.example.com` are that host and
    those below it. An IP address is itself, a
    network such as `10.0.0.0/8` every IP literal in it. Raises ValueError for anything else.
    """

    def __init__(self, entries: tuple[str, ...]) -> None:
        self._names: set[str] = set()
        self._networks = []
        self._is_everything = False
        for entry in entries:
            text = entry.strip().strip("[]").lower().removeprefix("*.")
            if text == "*":
                self._is_everything = True
                continue
            try:
                self._networks.append(ip_network(text, strict=False))
            except ValueError:
                if not _NAME.fullmatch(text):
                    raise ValueError(f"{entry!r} is neither a host name, an IP address, a network nor *") from None
                self._names.add(text.lstrip("."))

    def covers(self, host: str) -> bool:
        """Whether `host`, a name or an IP literal, is connected to directly."""
        if self._is_everything:
            return True
        try:
            ip = ip_address(host)
        except ValueError:
            labels = host.lower().split(".")
            return any(".".join(labels[start:]) in self._names for start in range(len(labels)))
        return any(ip in network for network in self._networks)


@dataclass(frozen=True, slots=True, repr=False)
class Egress:
    """An HTTP proxy that tunnels connections. Loopback hosts never go through it.

    `authorization` is the value of Proxy-Authorization, None without credentials. `max_head_bytes` bounds its answer.
    """

    host: str
    port: int
    authorization: bytes | None
    bypass: Bypass
    max_head_bytes: int

    def carries(self, host: str) -> bool:
        """Whether connections to `host` go through the tunnel."""
        if host == "localhost" or self.bypass.covers(host):
            return False
        try:
            return not ip_address(host).is_loopback
        except ValueError:
            return True

    async def connect(self, opened: socket.socket, host: str, port: int) -> None:
        """Ask for a tunnel to `host` on a fresh connection. Raises EgressError, OSError."""
        loop = asyncio.get_running_loop()
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        head = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n".encode("ascii")
        if self.authorization is not None:
            head += b"Proxy-Authorization: " + self.authorization + b"\r\n"
        await loop.sock_sendall(opened, head + b"\r\n")
        answer = b""
        while _END not in answer:
            more = await loop.sock_recv(opened, self.max_head_bytes)
            answer += more
            if not more or len(answer) > self.max_head_bytes:
                raise EgressError
        # Bytes behind the head would be the origin's, which never speaks first in HTTP or in TLS.
        if not _STATUS.match(answer) or not answer.endswith(_END):
            raise EgressError
