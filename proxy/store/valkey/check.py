"""What a server must be before streams are kept in it, and what its acknowledgement is worth."""

import re
from dataclasses import dataclass

from proxy.store.port import StoreUnusable
from proxy.store.valkey.connection import EngineConnection
from proxy.store.valkey.resp import Argument, Reply, ServerError, encoded

__all__ = ["Facts", "checked", "facts_of", "promise"]

_OLDEST = {"redis": (7, 0), "valkey": (7, 2)}
_VERSION = re.compile(r"([0-9]+)\.([0-9]+)")


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server says about itself."""

    product: str  # redis or valkey
    version: str
    is_cluster: bool
    eviction: str  # maxmemory-policy; empty when the server does not say
    has_log: bool  # an append-only file is written
    sync: str  # appendfsync; empty when the server does not say


async def facts_of(connection: EngineConnection) -> Facts:
    """Ask a server. Raises Lost, ServerError."""
    info = _info(await connection.call(encoded(["INFO", "everything"])))
    product = "valkey" if "valkey_version" in info else "redis"
    version = info.get("valkey_version") or info.get("redis_version", "")
    eviction = info.get("maxmemory_policy") or await _setting(connection, "maxmemory-policy")
    sync = await _setting(connection, "appendfsync")
    is_cluster = info.get("cluster_enabled") == "1"
    return Facts(product, version, is_cluster, eviction, info.get("aof_enabled") == "1", sync)


def _info(reply: Reply) -> dict[str, str]:
    text = reply.decode("latin-1") if isinstance(reply, bytes) else ""
    pairs = (line.partition(":") for line in text.splitlines() if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


async def _setting(connection: EngineConnection, name: str) -> str:
    """A value of the server's configuration; managed services do not always tell."""
    command: list[Argument] = ["CONFIG", "GET", name]
    try:
        reply = await connection.call(encoded(command))
    except ServerError:
        return ""
    match reply:
        case [_, bytes() as value]:
            return value.decode("latin-1")
    return ""


def checked(facts: Facts, *, is_cluster: bool) -> Facts:
    """`facts` of a server that can be used. Raises StoreUnusable, with what to do."""
    oldest = _OLDEST[facts.product]
    found = _VERSION.match(facts.version)
    if found is None or (int(found[1]), int(found[2])) < oldest:
        wanted = ".".join(map(str, oldest))
        raise StoreUnusable(
            f"the server is {facts.product.capitalize()} {facts.version or 'of an unknown version'};"
            f" {wanted} or newer is needed"
        )
    if facts.eviction and facts.eviction != "noeviction":
        raise StoreUnusable(
            f"the server evicts keys when its memory is full (maxmemory-policy {facts.eviction}): answers would"
            " disappear. Set maxmemory-policy to noeviction"
        )
    if facts.is_cluster and not is_cluster:
        raise StoreUnusable("the server is a member of a cluster: say redis+cluster:// in the URL")
    if is_cluster and not facts.is_cluster:
        raise StoreUnusable("the server is not a member of a cluster: say redis:// in the URL")
    return facts


def promise(facts: Facts, replicas: int) -> str:
    """What an acknowledged write survives, in one sentence."""
    name = f"{facts.product.capitalize()} {facts.version}"
    places = []
    if facts.has_log and facts.sync == "always":
        places.append("on the primary's disk")
    if replicas:
        places.append(f"in memory of {replicas} more")
    if places:
        return f"Storage is {name}. Acknowledged means: {' and '.join(places)}"
    if facts.has_log and facts.sync == "everysec":
        return f"Storage is {name}. Acknowledged means: in memory only: a crash may lose the last second"
    if facts.has_log:
        return f"Storage is {name}. Acknowledged means: in memory only: a crash may lose the last seconds"
    return f"Storage is {name}. Acknowledged means: in memory only: a crash may lose everything since the last snapshot"
