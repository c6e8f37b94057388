"""Where the storage is: URLs of one server, of Sentinels, of a cluster. Owns their spelling and what they may hold.

    redis://HOST:PORT/DATABASE          one server; rediss:// with TLS; redis+unix:///PATH for its Unix socket
    redis+sentinel://HOST,HOST/NAME     the primary that Sentinels know as NAME; rediss+sentinel:// with TLS
    redis+cluster://HOST,HOST           a cluster; rediss+cluster:// with TLS

Each may begin with USER@, or USER:PASSWORD@ where it comes from a file. `valkey` may stand for `redis`.
"""

import re
from dataclasses import dataclass, field
from enum import Enum
from urllib.parse import unquote

__all__ = ["EnginePlace", "Kind", "Node", "PlaceError", "parse_place"]

_PORT = 6379
_SENTINEL_PORT = 26379
_URL = re.compile(r"(redis|rediss|valkey|valkeys)(\+unix|\+sentinel|\+cluster)?://(?:([^@/]*)@)?([^/@]*)(/[^?#]*)?")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]{1,5}))?")
_LARGEST_PORT = 65535


class PlaceError(Exception):
    """The URL cannot be used. The message does not repeat it: it may hold a password."""


class Kind(Enum):
    """What stands behind a URL."""

    SERVER = "one server"
    SENTINEL = "a primary that Sentinels know"
    CLUSTER = "a cluster"


@dataclass(frozen=True, slots=True)
class Node:
    """A server's address: host and port, or the path of its Unix socket in `uds`."""

    host: str
    port: int
    uds: str = ""

    def __str__(self) -> str:
        return self.uds or f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class EnginePlace:
    """A storage: `nodes` are the server, the Sentinels, or members of the cluster. `name` is the Sentinels' word."""

    kind: Kind
    nodes: tuple[Node, ...]
    has_tls: bool = False
    user: str = ""
    password: str = field(default="", repr=False)
    name: str = ""
    database: int = 0

    def __str__(self) -> str:
        return ",".join(map(str, self.nodes)) + (f" ({self.name})" if self.name else "")


def parse_place(url: str) -> EnginePlace:
    """The place that a URL names. Raises PlaceError."""
    found = _URL.fullmatch(url)
    if found is None:
        raise PlaceError(
            "must be redis://HOST, rediss://HOST, redis+unix:///PATH, redis+sentinel://HOST,HOST/NAME"
            " or redis+cluster://HOST,HOST"
        )
    scheme, form, credentials, hosts, rest = found.groups()
    user, _, password = (credentials or "").partition(":")
    has_tls = scheme in ("rediss", "valkeys")
    rest = rest or ""
    user, password = unquote(user), unquote(password)
    if form == "+unix":
        if hosts or has_tls or not rest:
            raise PlaceError("a Unix socket is spelled redis+unix:///PATH, without TLS")
        return EnginePlace(Kind.SERVER, (Node("", 0, unquote(rest)),), False, user, password)
    kind = {"+sentinel": Kind.SENTINEL, "+cluster": Kind.CLUSTER}.get(form or "", Kind.SERVER)
    nodes = tuple(_node(host, _SENTINEL_PORT if kind is Kind.SENTINEL else _PORT) for host in hosts.split(","))
    parts = [part for part in rest.split("/") if part]
    name = ""
    if kind is Kind.SENTINEL:
        if not parts:
            raise PlaceError("must name the primary after the Sentinels: redis+sentinel://HOST,HOST/NAME")
        name = unquote(parts.pop(0))
    if kind is Kind.SERVER and len(nodes) > 1:
        raise PlaceError("names several servers: say redis+sentinel:// or redis+cluster://")
    if len(parts) > (0 if kind is Kind.CLUSTER else 1) or not all(part.isdecimal() for part in parts):
        raise PlaceError("may have nothing after the host but the number of a database")
    return EnginePlace(kind, nodes, has_tls, user, password, name, int(parts[0]) if parts else 0)


def _node(text: str, port: int) -> Node:
    found = _HOST.fullmatch(text)
    if found is None:
        raise PlaceError("has a host that is none")
    given = int(found[2]) if found[2] else port
    if not 0 < given <= _LARGEST_PORT:
        raise PlaceError("has a port that is none")
    return Node(found[1].strip("[]"), given)
