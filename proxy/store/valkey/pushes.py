"""The channels of one server that are followed, on a connection of their own. Owns which are subscribed.

However many streams are followed, they cost one connection. After it was lost, everything is subscribed again, and the
listener hears which streams may have missed a push.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice

from proxy.store.settings import EngineSettings
from proxy.store.shared.backend import NewsListener, Unavailable
from proxy.store.valkey.connection import EngineConnection
from proxy.store.valkey.keys import Namer, news_of
from proxy.store.valkey.link import EngineLink
from proxy.store.valkey.resp import Push, encoded

__all__ = ["Opener", "Pushes"]

logger = logging.getLogger(__name__)

_AT_ONCE = 100  # channels in one command

Opener = Callable[[Callable[[Push], None], Callable[[EngineConnection], None]], Awaitable[EngineConnection]]
"""Opens a connection, given what is called with pushes and at its end."""


class _Channel:
    """A channel that is followed: `asked` counts subscriptions whose confirmation is on its way."""

    __slots__ = ("asked", "confirmed", "was_confirmed")

    def __init__(self) -> None:
        self.asked = 0
        self.confirmed = asyncio.Event()
        self.was_confirmed = False


class Pushes:
    """Subscriptions on one server, which `opener` connects to. `listener` hears the news."""

    def __init__(
        self,
        name: str,
        settings: EngineSettings,
        namer: Namer,
        opener: Opener,
        listener: NewsListener,
        check: Callable[[EngineConnection], Awaitable[None]] | None = None,
    ) -> None:
        self._settings = settings
        self._namer = namer
        self._listener = listener
        self._channels: dict[bytes, _Channel] = {}
        self.moved: Callable[[], None] | None = None  # called when a channel may be at another member of a cluster
        self._link = EngineLink(name, settings, lambda: opener(self._pushed, self._lost), self._connected, check)

    async def follow(self, channel: bytes) -> None:
        """Return when news of the channel come, whatever happened to the connection. Raises Unavailable."""
        followed = self._channels.get(channel)
        if followed is None:
            followed = self._channels[channel] = _Channel()
            if (connection := self._link.connection) is not None:
                followed.asked += 1
                connection.tell(encoded(["SSUBSCRIBE", channel]))
        try:
            async with asyncio.timeout(self._settings.patience_seconds):
                await followed.confirmed.wait()
        except TimeoutError:
            raise Unavailable("the subscription was not confirmed") from None

    def unfollow(self, channel: bytes) -> None:
        """No more news of the channel."""
        if self._channels.pop(channel, None) is not None and (connection := self._link.connection) is not None:
            connection.tell(encoded(["SUNSUBSCRIBE", channel]))

    def _connected(self, connection: EngineConnection) -> None:
        channels = iter(list(self._channels))
        at_once = _AT_ONCE if self.moved is None else 1  # a command of a cluster takes channels of one slot
        for run in _runs(channels, at_once):
            connection.tell(encoded(["SSUBSCRIBE", *run]))
            for channel in run:
                self._channels[channel].asked = 1

    def _lost(self, _: EngineConnection) -> None:
        for channel in self._channels.values():
            channel.asked = 0
            channel.confirmed.clear()
        if self.moved is not None and self._channels:
            self.moved()

    def is_followed(self, channel: bytes) -> bool:
        """Whether news of the channel come."""
        followed = self._channels.get(channel)
        return followed is not None and followed.confirmed.is_set()

    def _pushed(self, push: Push) -> None:
        match push:
            case [b"smessage", bytes() as channel, bytes() as message]:
                if channel in self._channels:
                    self._listener.heard(self._namer.path_of(channel), news_of(message))
            case [b"ssubscribe", bytes() as channel, _]:
                self._confirmed(channel)
            case [b"sunsubscribe", bytes() as channel, _]:
                self._ended(channel)

    def _ended(self, name: bytes) -> None:
        """Nothing comes any more: we asked for that, or the slot has moved to another member."""
        channel = self._channels.get(name)
        if channel is not None and channel.asked <= 0 and self.moved is not None:
            channel.confirmed.clear()
            self.moved()

    def _confirmed(self, name: bytes) -> None:
        channel = self._channels.get(name)
        if channel is None:
            return
        channel.asked -= 1
        if channel.asked > 0:
            return
        channel.confirmed.set()
        if channel.was_confirmed:
            self._listener.missed([self._namer.path_of(name)])
        channel.was_confirmed = True

    async def aclose(self) -> None:
        """Close the connection."""
        await self._link.aclose()


def _runs(channels: Iterator[bytes], count: int) -> Iterator[list[bytes]]:
    while run := list(islice(channels, count)):
        yield run
