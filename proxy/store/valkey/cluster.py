"""A cluster: which member answers for a stream, and what happens when its slot moves (Redis Cluster specification).

All keys of a stream are in one slot. The map from slots to primaries is asked of any member, and asked again when a
member says that a slot has moved, refuses, or is gone. Streams that are followed move with their slots: they are
subscribed at the new member, and what was pushed in between is loaded.
"""

import asyncio
from functools import lru_cache

from proxy.base.tasks import Tasks
from proxy.store.settings import EngineSettings
from proxy.store.shared.backend import NewsListener, Unavailable
from proxy.store.valkey.connection import EngineConnection, Lost
from proxy.store.valkey.dial import EngineDialler, Refused
from proxy.store.valkey.keys import Namer, StreamKeys
from proxy.store.valkey.member import ClusterMember
from proxy.store.valkey.place import Node
from proxy.store.valkey.pushes import Opener, Pushes
from proxy.store.valkey.resp import Reply, ServerError, encoded
from proxy.store.valkey.servers import react
from proxy.store.valkey.slots import SLOTS, slot_of

__all__ = ["ClusterServers"]

_ASKING = encoded(["ASKING"])
_SLOTS = encoded(["CLUSTER", "SLOTS"])
_REMEMBERED = 10_000  # streams whose slot need not be computed again
_ROUNDS = 20  # looks at the map after a change, until it fits


class ClusterServers:
    """The members of one cluster, each with its connections, opened when they are first needed."""

    def __init__(self, dialler: EngineDialler, settings: EngineSettings, namer: Namer) -> None:
        self._dialler = dialler
        self._settings = settings
        self._namer = namer
        self._loop = asyncio.get_running_loop()
        self._slots: list[Node | None] = [None] * SLOTS
        self._members: dict[Node, ClusterMember] = {}
        self._followed: dict[bytes, tuple[int, Node]] = {}  # by channel: its slot, and where it is subscribed
        self._listener: NewsListener | None = None
        self._slot_of = lru_cache(maxsize=_REMEMBERED)(slot_of)
        self._tasks = Tasks("cluster")
        self._looking: asyncio.Task[None] | None = None

    # Commands

    async def call(self, keys: StreamKeys, command: bytes, *, is_read: bool) -> tuple[Reply, bool]:
        """The reply of the member that has the stream's slot."""
        slot = self._slot_of(keys.state)
        until = self._loop.time() + self._settings.patience_seconds
        is_uncertain = False
        asked: Node | None = None  # a member that has the stream while its slot is on the way
        while True:
            connection: EngineConnection | None = None
            try:
                node = asked or await self._at(slot)
                connection = await self._member(node).ready(is_read=is_read)
                if asked is not None:
                    asked = None
                    asking, reply = connection.call(_ASKING), connection.call(command)  # nothing may come in between
                    await asking
                    return await reply, is_uncertain
                return await connection.call(command), is_uncertain
            except (Lost, Unavailable, Refused) as error:
                is_uncertain = is_uncertain or isinstance(error, Lost)
                reason: Exception = error
            except ServerError as error:
                reason = error
                if error.code == "MOVED":
                    self._slots[slot] = _named(error)
                elif error.code == "ASK":
                    asked = _named(error)
                elif connection is not None:
                    await react(error, connection, until, self._settings)
            if self._loop.time() >= until:
                raise Unavailable(f"the engine does not answer: {reason}")
            if asked is None:
                self._look()
                await asyncio.sleep(self._settings.reconnect_seconds)

    def _member(self, node: Node) -> ClusterMember:
        member = self._members.get(node)
        if member is None:
            member = self._members[node] = ClusterMember(node, self._dialler, self._settings, self._pushes_of)
        return member

    def _pushes_of(self, node: Node, opener: Opener) -> Pushes:
        if self._listener is None:
            raise Unavailable("nothing listens")
        pushes = Pushes(f"{node} (pushes)", self._settings, self._namer, opener, self._listener)
        pushes.moved = self._look
        return pushes

    # The map

    async def _at(self, slot: int) -> Node:
        """The primary of a slot. Raises Refused."""
        node = self._slots[slot]
        if node is None:
            await self._ask_map()
            node = self._slots[slot]
            if node is None:
                raise Refused(f"no member has the slot {slot}")
        return node

    async def _ask_map(self) -> None:
        """Ask one member after the other for the map. Raises Refused."""
        reasons: list[str] = []
        for node in dict.fromkeys((*self._members, *self._dialler.place.nodes)):
            try:
                connection = await self._dialler.open(node, _ignore, _ignore, is_primary=False)
                try:
                    self._take(await connection.call(_SLOTS), node)
                finally:
                    connection.abort("the map was asked for")
            except (Refused, Lost, ServerError) as error:
                reasons.append(str(error))
            else:
                return
        raise Refused(f"no member of the cluster answers: {'; '.join(reasons)}")

    def _take(self, reply: Reply, asked: Node) -> None:
        """The map: ranges of slots, each with its primary first."""
        for row in reply if isinstance(reply, list) else ():
            match row:
                case [int() as first, int() as last, [host, int() as port, *_], *_]:
                    name = host.decode("latin-1") if isinstance(host, bytes) and host else asked.host
                    self._slots[first : last + 1] = [Node(name, port)] * (last + 1 - first)

    def _look(self) -> None:
        """Something is not where it was: learn the map in the background, and let what is followed move with it."""
        if self._looking is None or self._looking.done():
            self._looking = self._tasks.start("map", self._settle())

    async def _settle(self) -> None:
        for _ in range(_ROUNDS):
            try:
                await self._ask_map()
                if await self._follow_moved():
                    return
            except (Refused, Unavailable):
                pass
            await asyncio.sleep(self._settings.reconnect_seconds)

    async def _follow_moved(self) -> bool:
        """Subscribe where the map says; whether every channel is confirmed there. Raises Unavailable."""
        for channel, (slot, node) in list(self._followed.items()):
            there = self._slots[slot]
            if there is None:
                return False
            if there != node and channel in self._followed:
                self._member(node).unfollow(channel)
                self._followed[channel] = slot, there
                await self._member(there).follow(channel)
                if self._listener is not None:
                    self._listener.missed([self._namer.path_of(channel)])
        for node in set(self._members) - set(self._slots):  # it has no slots any more
            self._tasks.start("member", self._members.pop(node).aclose())
        return all(self._member(node).is_followed(channel) for channel, (_, node) in self._followed.items())

    # Pushes

    def listen(self, listener: NewsListener) -> None:
        """Each member opens a connection for pushes when something of it is followed."""
        self._listener = listener

    async def follow(self, keys: StreamKeys) -> None:
        """Subscribe at the member that has the stream's slot."""
        slot = self._slot_of(keys.state)
        try:
            node = await self._at(slot)
        except Refused as error:
            raise Unavailable(str(error)) from None
        _, node = self._followed.setdefault(keys.channel, (slot, node))
        try:
            await self._member(node).follow(keys.channel)
        except Unavailable:
            self._look()
            raise

    def unfollow(self, keys: StreamKeys) -> None:
        """Unsubscribe there."""
        found = self._followed.pop(keys.channel, None)
        if found is not None:
            self._member(found[1]).unfollow(keys.channel)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._tasks.aclose()
        for member in self._members.values():
            await member.aclose()


def _named(error: ServerError) -> Node:
    """The member that a redirection names: `MOVED slot host:port`."""
    host, _, port = str(error).rpartition(" ")[2].rpartition(":")
    return Node(host.strip("[]"), int(port))


def _ignore(_: object) -> None:
    """Nothing comes unasked."""
