"""Which server is the primary: the one that is named in the URL, or the one that Sentinels name.

Sentinels are asked each time that a connection is opened, and now and then while one is open: a primary that was cut
off from them goes on answering, and what it acknowledges after its successor was chosen is lost.
"""

from typing import Protocol

from proxy.store.valkey.connection import Lost
from proxy.store.valkey.dial import EngineDialler, Refused
from proxy.store.valkey.place import Kind, Node
from proxy.store.valkey.resp import ServerError, encoded

__all__ = ["Primary", "primary_of"]


class Primary(Protocol):
    """Where the primary is."""

    async def __call__(self) -> Node:
        """The primary as it is known now. Raises Refused."""


def primary_of(dialler: EngineDialler) -> Primary:
    """How the primary of a place that is no cluster is found."""
    return _Named(dialler) if dialler.place.kind is Kind.SENTINEL else _Fixed(dialler.place.nodes[0])


class _Fixed:
    def __init__(self, node: Node) -> None:
        self._node = node

    async def __call__(self) -> Node:
        return self._node


class _Named:
    """Asks the Sentinels one after the other, beginning with the one that answered last."""

    def __init__(self, dialler: EngineDialler) -> None:
        self._dialler = dialler
        self._sentinels = list(dialler.place.nodes)

    async def __call__(self) -> Node:
        reasons: list[str] = []
        for sentinel in list(self._sentinels):
            try:
                found = await self._ask(sentinel)
            except (Refused, Lost, ServerError) as error:
                reasons.append(str(error))
                continue
            if found is not None:
                self._sentinels.remove(sentinel)
                self._sentinels.insert(0, sentinel)
                return found
            reasons.append(f"{sentinel} knows no primary {self._dialler.place.name}")
        raise Refused(f"no Sentinel names a primary: {'; '.join(reasons)}")

    async def _ask(self, sentinel: Node) -> Node | None:
        connection = await self._dialler.open(sentinel, _ignore, _ignore, is_primary=False, is_known=False)
        try:
            asked = encoded(["SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._dialler.place.name])
            match await connection.call(asked):
                case [bytes() as host, bytes() as port]:
                    return Node(host.decode("latin-1"), int(port))
            return None
        finally:
            connection.abort("the Sentinel has answered")


def _ignore(_: object) -> None:
    """Nothing comes unasked."""
