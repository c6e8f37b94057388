"""Whether storage takes new streams, asked before an upstream is: an answer that cannot be stored costs money, too.

A store that is full says so when a stream is created, and then the upstream has been paid already. From that answer on,
creates are refused, and streams without content are created now and then, until storage takes one again.
"""

import asyncio
import secrets
from contextlib import suppress

from proxy.base.errors import Code, Refusal
from proxy.streams.answers import StorageError
from proxy.streams.client import OCTETS, Storage

__all__ = ["Space"]


class Space:
    """The space in a storage that other processes fill, too."""

    def __init__(self, storage: Storage, look_seconds: float, probe_seconds: int) -> None:
        """`look_seconds`: pause between two tries while storage is full. `probe_seconds`: lifetime of their streams."""
        self._storage = storage
        self._pause = look_seconds
        self._lifetime = probe_seconds
        self._next_look = 0.0  # in the loop's time

    async def check(self) -> None:
        """Raise Refusal when storage was full at the last create, and still is."""
        if not self._storage.is_full:
            return
        now = asyncio.get_running_loop().time()
        if now >= self._next_look:
            self._next_look = now + self._pause  # the others do not wait for this one's look
            await self._look()
        if self._storage.is_full:
            raise Refusal(Code.STORAGE_UNAVAILABLE, "storage is full; nothing was sent upstream")

    async def _look(self) -> None:
        name = f"_proxy/space/{secrets.token_hex(16)}"
        with suppress(StorageError):  # it is still full, or fails: the next create finds out more
            await self._storage.create(name, OCTETS, self._lifetime)
            await self._storage.delete(name)
