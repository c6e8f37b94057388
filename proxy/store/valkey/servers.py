"""Which server answers for a stream, and what happens when it does not. One server, or the primary that Sentinels name.

Owns the repetition of commands: a lost connection, a server that is still loading or was demoted, a script that the
server does not know. Each is tried again while there is patience, because every command may be executed twice.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from proxy.store.settings import EngineSettings
from proxy.store.shared.backend import NewsListener, Unavailable
from proxy.store.valkey.connection import EngineConnection, Lost
from proxy.store.valkey.dial import EngineDialler, Refused, load_scripts
from proxy.store.valkey.keys import Namer, StreamKeys
from proxy.store.valkey.link import EngineLink
from proxy.store.valkey.pushes import Pushes
from proxy.store.valkey.resp import Push, Reply, ServerError
from proxy.store.valkey.sentinel import primary_of

__all__ = ["OneServer", "Servers", "react"]

# The server cannot do it now, and has done nothing. It, or another one, may be able to in a moment.
_LATER = frozenset({"LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS", "MISCONF", "UNKILLABLE"})
_DEMOTED = frozenset({"READONLY"})


class Servers(Protocol):
    """The servers of a storage."""

    async def call(self, keys: StreamKeys, command: bytes, *, is_read: bool) -> tuple[Reply, bool]:
        """The reply to a command on the keys of one stream, and whether an earlier attempt may have been executed.

        When `is_read`, the reply need not wait for replicas.
        Raises ServerError for a refusal that will not change, Unavailable.
        """

    def listen(self, listener: NewsListener) -> None:
        """Where pushes go. Called once, before `follow`."""

    async def follow(self, keys: StreamKeys) -> None:
        """Pushes of a stream come from now on. Raises Unavailable."""

    def unfollow(self, keys: StreamKeys) -> None:
        """No more pushes of it."""

    async def aclose(self) -> None:
        """Close every connection."""


async def react(error: ServerError, connection: EngineConnection, until: float, settings: EngineSettings) -> None:
    """Do what `error` asks for, before another attempt until the loop's time `until`.

    Raises ServerError when another attempt is in vain, Unavailable when there is no time for one, Lost.
    """
    if error.code == "NOSCRIPT":
        await load_scripts(connection)
        return
    if error.code in _DEMOTED:
        connection.abort("the server was demoted to a replica")
    elif error.code not in _LATER:
        raise error
    if asyncio.get_running_loop().time() + settings.reconnect_seconds >= until:
        raise Unavailable(f"the engine refuses: {error}")
    await asyncio.sleep(settings.reconnect_seconds)


class OneServer:
    """One primary, which is looked for each time that a connection is opened."""

    def __init__(self, dialler: EngineDialler, settings: EngineSettings, namer: Namer) -> None:
        self._dialler = dialler
        self._settings = settings
        self._namer = namer
        self._primary = primary_of(dialler)
        self._loop = asyncio.get_running_loop()
        self._link = EngineLink(str(dialler.place), settings, self._open, check=self._check)
        self._reads = self._link
        if settings.replicas:
            self._reads = EngineLink(f"{dialler.place} (reads)", settings, self._open_for_reads, check=self._check)
        self._pushes: Pushes | None = None

    async def _open(self) -> EngineConnection:
        connection = await self._open_for_reads()
        connection.replicas = self._settings.replicas
        return connection

    async def _open_for_reads(self) -> EngineConnection:
        return await self._dialler.open(await self._primary(), _unexpected, _nothing)

    async def _check(self, connection: EngineConnection) -> None:
        """Let go of a server that is no longer the primary, although it answers."""
        try:
            primary = await self._primary()
        except Refused:
            return  # nobody knows better
        if str(primary) != connection.node:
            connection.abort(f"{primary} is the primary now")

    async def _open_for_pushes(
        self, pushed: Callable[[Push], None], lost: Callable[[EngineConnection], None]
    ) -> EngineConnection:
        return await self._dialler.open(await self._primary(), pushed, lost)

    async def call(self, keys: StreamKeys, command: bytes, *, is_read: bool) -> tuple[Reply, bool]:
        """The reply of the primary."""
        link = self._reads if is_read else self._link
        connection = link.connection
        if connection is not None and not connection.is_lost:
            try:
                return await connection.call(command), False
            except (Lost, ServerError) as error:
                return await self._insist(link, command, connection, error)
        return await self._insist(link, command, None, None)

    async def _insist(
        self, link: EngineLink, command: bytes, connection: EngineConnection | None, error: Lost | ServerError | None
    ) -> tuple[Reply, bool]:
        """Try again after `error`, while there is patience."""
        until = self._loop.time() + self._settings.patience_seconds
        is_uncertain = False
        while True:
            is_uncertain = is_uncertain or isinstance(error, Lost)
            try:
                if isinstance(error, ServerError) and connection is not None:
                    await react(error, connection, until, self._settings)
                connection = await link.ready(until)
                return await connection.call(command), is_uncertain
            except Lost as failure:
                error = failure
            except ServerError as failure:
                if failure is error:
                    raise
                error = failure
            if self._loop.time() >= until:
                raise Unavailable(f"the engine does not answer: {error}")

    def listen(self, listener: NewsListener) -> None:
        """Open the connection for pushes."""
        place = f"{self._dialler.place} (pushes)"
        self._pushes = Pushes(place, self._settings, self._namer, self._open_for_pushes, listener, self._check)

    async def follow(self, keys: StreamKeys) -> None:
        """Subscribe."""
        if self._pushes is not None:
            await self._pushes.follow(keys.channel)

    def unfollow(self, keys: StreamKeys) -> None:
        """Unsubscribe."""
        if self._pushes is not None:
            self._pushes.unfollow(keys.channel)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._link.aclose()
        await self._reads.aclose()
        if self._pushes is not None:
            await self._pushes.aclose()


def _unexpected(push: Push) -> None:
    """Nothing is subscribed on this connection."""


def _nothing(connection: EngineConnection) -> None:
    """The link itself watches the end of its connection."""
