"""Opening a connection to a server: socket, TLS, who we are, whether the server is a primary, and our scripts."""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass

from proxy.store.settings import EngineSettings
from proxy.store.valkey.connection import EngineConnection, Lost
from proxy.store.valkey.place import EnginePlace, Node
from proxy.store.valkey.resp import Argument, Push, ServerError, encoded
from proxy.store.valkey.scripts import ALL

__all__ = ["EngineDialler", "Refused", "load_scripts"]

_CLIENT = "durable-streams-proxy"


class Refused(Exception):
    """No usable connection. The message names the server, and no credential."""


@dataclass(frozen=True, slots=True)
class EngineDialler:
    """Opens connections to the servers of one place."""

    place: EnginePlace
    settings: EngineSettings
    tls: ssl.SSLContext | None

    async def open(
        self,
        node: Node,
        pushed: Callable[[Push], None],
        lost: Callable[[EngineConnection], None],
        *,
        is_primary: bool = True,
        is_known: bool = True,
    ) -> EngineConnection:
        """A connection that is ready for commands. Raises Refused, also for a replica when `is_primary`.

        Without `is_known` credentials are shown only to a server that asks for some: Sentinels have their own users.
        """
        connection: EngineConnection | None = None
        try:
            async with asyncio.timeout(self.settings.connect_seconds):
                connection = await self._connect(node, pushed, lost)
                await self._greet(connection, is_known=is_known)
                if is_primary:
                    await _check_role(connection)
                    await load_scripts(connection)
            connection.node = str(node)
            return connection
        except BaseException as error:
            if connection is not None:
                connection.abort("the connection was not used")
            if isinstance(error, TimeoutError):
                raise Refused(f"{node} does not answer") from None
            if isinstance(error, OSError | Lost | ServerError | Refused):
                reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
                raise Refused(f"{node}: {reason}") from None
            raise

    async def _connect(
        self, node: Node, pushed: Callable[[Push], None], lost: Callable[[EngineConnection], None]
    ) -> EngineConnection:
        loop = asyncio.get_running_loop()

        def make() -> EngineConnection:
            return EngineConnection(self.settings.answer_seconds, pushed, lost)

        if node.uds:
            return (await loop.create_unix_connection(make, node.uds))[1]
        tls = self.tls if self.place.has_tls else None
        name = node.host if tls is not None else None
        return (await loop.create_connection(make, node.host, node.port, ssl=tls, server_hostname=name))[1]

    async def _greet(self, connection: EngineConnection, *, is_known: bool) -> None:
        """RESP3, credentials and database. A server that is too old for RESP3 is too old for the rest."""
        place = self.place
        if not is_known:
            try:
                await connection.call(encoded(["HELLO", 3]))
                return
            except ServerError as error:
                if error.code != "NOAUTH":
                    raise
        hello: list[Argument] = ["HELLO", 3]
        if place.password:
            hello += ("AUTH", place.user.encode() or "default", place.password.encode())
        hello += ("SETNAME", _CLIENT)
        await connection.call(encoded(hello))
        if place.database and is_known:
            await connection.call(encoded(["SELECT", place.database]))


async def _check_role(connection: EngineConnection) -> None:
    """A primary that was demoted drops its data: what it answers until then would be refused later."""
    role = await connection.call(encoded(["ROLE"]))
    if not isinstance(role, list) or role[0] != b"master":
        raise Refused("the server is a replica")


async def load_scripts(connection: EngineConnection) -> None:
    """Let the server know our scripts. Raises ServerError, Lost."""
    await asyncio.gather(*(connection.call(encoded(["SCRIPT", "LOAD", script.text])) for script in ALL))
