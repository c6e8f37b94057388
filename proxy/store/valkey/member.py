"""One member of a cluster: its connections for writes, reads and pushes, each opened when it is first needed."""

import asyncio
from collections.abc import Callable

from proxy.store.settings import EngineSettings
from proxy.store.valkey.connection import EngineConnection
from proxy.store.valkey.dial import EngineDialler
from proxy.store.valkey.link import EngineLink
from proxy.store.valkey.place import Node
from proxy.store.valkey.pushes import Opener, Pushes
from proxy.store.valkey.resp import Push

__all__ = ["ClusterMember"]


class ClusterMember:
    """The member `node`. `pushes_of` makes what follows channels there."""

    def __init__(
        self,
        node: Node,
        dialler: EngineDialler,
        settings: EngineSettings,
        pushes_of: Callable[[Node, Opener], Pushes],
    ) -> None:
        self._node = node
        self._dialler = dialler
        self._settings = settings
        self._pushes_of = pushes_of
        self._link = EngineLink(str(node), settings, self._open)
        self._reads = self._link
        if settings.replicas:
            self._reads = EngineLink(f"{node} (reads)", settings, self._open_for_reads)
        self._pushes: Pushes | None = None

    async def _open(self) -> EngineConnection:
        connection = await self._open_for_reads()
        connection.replicas = self._settings.replicas
        return connection

    async def _open_for_reads(self) -> EngineConnection:
        return await self._dialler.open(self._node, _ignore, _ignore)

    async def _open_for_pushes(
        self, pushed: Callable[[Push], None], lost: Callable[[EngineConnection], None]
    ) -> EngineConnection:
        return await self._dialler.open(self._node, pushed, lost)

    async def ready(self, *, is_read: bool) -> EngineConnection:
        """A connection, awaited for as long as opening one may take. Raises Unavailable."""
        link = self._reads if is_read else self._link
        connection = link.connection
        if connection is not None and not connection.is_lost:
            return connection
        return await link.ready(asyncio.get_running_loop().time() + self._settings.connect_seconds)

    async def follow(self, channel: bytes) -> None:
        """Return when news of the channel come. Raises Unavailable."""
        if self._pushes is None:
            self._pushes = self._pushes_of(self._node, self._open_for_pushes)
        await self._pushes.follow(channel)

    def is_followed(self, channel: bytes) -> bool:
        """Whether news of the channel come."""
        return self._pushes is not None and self._pushes.is_followed(channel)

    def unfollow(self, channel: bytes) -> None:
        """No more news of the channel."""
        if self._pushes is not None:
            self._pushes.unfollow(channel)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._link.aclose()
        await self._reads.aclose()
        if self._pushes is not None:
            await self._pushes.aclose()


def _ignore(_: object) -> None:
    """Nothing comes unasked."""
