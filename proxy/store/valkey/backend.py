"""Streams in Redis or Valkey: the shared engine's `Backend`. Owns which script does what, and what is tried again.

Every script may run twice with the same effect as once: a write carries its token, and the rest changes nothing the
second time. So a command whose answer was lost is simply sent again, for as long as there is patience.
"""

import asyncio
import time
from collections.abc import Sequence

from proxy.store.model import Piece
from proxy.store.settings import EngineSettings
from proxy.store.shared.backend import (
    Change,
    Creation,
    Hold,
    NewsListener,
    Ref,
    Removed,
    Stored,
    StoredState,
    Unavailable,
)
from proxy.store.valkey.keys import (
    Namer,
    creation_fields,
    encoded_command,
    producer_field,
    producer_value,
    source_of,
    state_of,
)
from proxy.store.valkey.resp import Reply, ServerError
from proxy.store.valkey.scripts import (
    BOUNDARY,
    COMMIT,
    CONFIRM,
    CREATE,
    HOLD,
    LAST_WORDS,
    LOAD,
    PIECES,
    RELEASE,
    REMOVE,
    REST,
    TOUCH,
    Script,
)
from proxy.store.valkey.servers import Servers

__all__ = ["ValkeyBackend"]

_READS = (LOAD, PIECES, BOUNDARY, REST)
_PUSHED_BYTES = 16 << 10  # of one append that are pushed; readers fetch a longer one
_LAST_WORDS_BYTES = 4096  # that an append which closes its stream may bring, however full the engine is


class ValkeyBackend:
    """Streams on `servers`. Made inside the event loop."""

    def __init__(self, servers: Servers, namer: Namer, settings: EngineSettings) -> None:
        self._servers = servers
        self._namer = namer
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._ahead = int(time.time() * 1000) - self._ticks()  # the engine's clock, less that of the loop
        self._latest = 0
        self.is_full = False

    def listen(self, listener: NewsListener) -> None:
        """Where pushes go."""
        self._servers.listen(listener)

    async def aclose(self) -> None:
        """Close every connection."""
        await self._servers.aclose()

    # Time

    def _ticks(self) -> int:
        return int(self._loop.time() * 1000)

    def now(self) -> int:
        """The engine's time when it last answered, and what has passed since by our own clock."""
        self._latest = max(self._latest, self._ticks() + self._ahead)
        return self._latest

    # Commands

    async def _run(self, path: str, script: Script, arguments: Sequence[bytes] = ()) -> Reply:
        """Call a script on the stream at `path`, as often as it takes. Raises Unavailable."""
        return (await self._attempt(path, script, arguments))[0]

    async def _attempt(self, path: str, script: Script, arguments: Sequence[bytes]) -> tuple[Reply, bool]:
        """As `_run`; also whether an earlier attempt may have been executed."""
        keys = self._namer.of(path)
        command = encoded_command(script.sha, keys, arguments)
        try:
            return await self._servers.call(keys, command, is_read=script in _READS)
        except ServerError as error:
            is_full = error.code == "OOM"
            self.is_full = self.is_full or is_full
            raise Unavailable(f"the engine refused: {error}", is_full=is_full) from None

    # Finding

    async def load(self, path: str, *, is_final: bool = False) -> StoredState | None:
        """The stream at `path`."""
        script = CONFIRM if is_final and self._settings.replicas else LOAD
        return self._state(path, await self._run(path, script))

    def _state(self, path: str, reply: Reply) -> StoredState | None:
        """A state, and the engine's time with it."""
        match reply:
            case [int() as now, *_]:
                self._ahead = now - self._ticks()
                return state_of(path, reply)
        raise Unavailable("the engine's answer is not understood")

    # Writing

    async def create(self, creation: Creation) -> Stored | StoredState:
        """Create a stream."""
        spec = creation.spec
        fields = creation_fields(creation)
        arguments = [
            creation.token.encode(),
            b"" if spec.ttl is None else b"%d" % spec.ttl,
            b"" if spec.expires is None else b"%d" % spec.expires,
            b" 0 %d %b -" % (creation.tail, b"c" if spec.closed else b""),
            b"%d" % len(fields),
            *fields,
        ]
        _entries(arguments, creation.pieces, creation.start)
        reply = await self._run(creation.path, CREATE, arguments)
        self.is_full = False
        match reply:
            case [int() as number, int() as expires]:  # a state has one or three parts
                return Stored(number, expires or None)
        state = self._state(creation.path, reply)
        if state is None:
            raise Unavailable("the engine's answer is not understood")
        return state

    async def commit(self, change: Change) -> Stored | StoredState | None:
        """Store a change."""
        pieces, producer, revision = change.pieces, change.producer, change.revision
        fields: list[bytes] = []
        if change.closes:
            fields += (b"c", b"1")
        if change.seq is not None:
            fields += (b"q", change.seq.encode("latin-1"))
        if producer is not None:
            fields += (producer_field(producer.id), producer_value(producer, revision))
        size = sum(map(len, pieces))
        lengths = b"-"
        if 0 < size <= _PUSHED_BYTES:
            lengths = b"%d" % size if len(pieces) == 1 else b",".join([b"%d" % len(piece) for piece in pieces])
        flags = b"c" if change.closes else b""
        arguments = [
            b"%d %d %d %b %b" % (change.ref.id, revision, change.tail, flags, lengths),
            change.expected.encode(), change.token.encode(),
            b"" if change.forgets is None else producer_field(change.forgets),
            b"f" if change.is_first and size else b"",
            b"%d" % len(fields), *fields,
        ]  # fmt: skip
        _entries(arguments, pieces, change.tail - size)
        script = LAST_WORDS if change.closes and size <= _LAST_WORDS_BYTES else COMMIT
        reply, is_repeated = await self._attempt(change.ref.path, script, arguments)
        if isinstance(reply, int) and not isinstance(reply, bool):
            if script is COMMIT:
                self.is_full = False
            return Stored(change.ref.id, reply or None)
        return self._conflict(change, reply, is_repeated=is_repeated)

    def _conflict(self, change: Change, reply: Reply, *, is_repeated: bool) -> StoredState | None:
        if is_repeated and change.producer is None:
            # The first attempt may have been stored before what is there now. Only a producer's stamp can tell.
            raise Unavailable("it is not known whether the append was stored")
        return self._state(change.ref.path, reply)

    async def touch(self, ref: Ref) -> int | None:
        """A TTL starts again."""
        reply = await self._run(ref.path, TOUCH, [b"%d" % ref.id])
        return reply or None if isinstance(reply, int) else None

    async def remove(self, ref: Ref) -> Removed:
        """Remove a stream, or mark it."""
        reply, is_repeated = await self._attempt(ref.path, REMOVE, [b"%d" % ref.id])
        removed = _removed(reply)
        return Removed(done=True) if is_repeated and not removed.done else removed

    # Forks

    async def hold(self, source: Ref, fork: str, until: int | None) -> Hold | None:
        """Keep a source's bytes for a fork."""
        last = b"inf" if until is None else b"%d" % until
        reply = await self._run(source.path, HOLD, [b"%d" % source.id, fork.encode("latin-1"), last])
        if not isinstance(reply, list):
            return None
        return Hold(bool(reply[0]), source_of(reply[1:]))

    async def release(self, source: Ref, fork: str) -> Removed:
        """A fork is gone."""
        return _removed(await self._run(source.path, RELEASE, [b"%d" % source.id, fork.encode("latin-1")]))

    # Reading

    async def pieces(self, ref: Ref, position: int, end: int, size: int) -> list[Piece]:
        """Pieces between two positions."""
        return _pieces(await self._run(ref.path, PIECES, [b"%d" % number for number in (ref.id, position, end, size)]))

    async def boundary(self, ref: Ref, position: int) -> int | None:
        """Where the next piece ends."""
        reply = await self._run(ref.path, BOUNDARY, [b"%d" % ref.id, b"%d" % position])
        return reply if isinstance(reply, int) else None

    async def rest_of_append(self, ref: Ref, position: int) -> list[Piece]:
        """The pieces of one append."""
        return _pieces(await self._run(ref.path, REST, [b"%d" % ref.id, b"%d" % position]))

    # Following

    async def follow(self, path: str) -> None:
        """Pushes come from now on."""
        await self._servers.follow(self._namer.of(path))

    def unfollow(self, path: str) -> None:
        """No more pushes."""
        self._servers.unfollow(self._namer.of(path))


def _entries(arguments: list[bytes], pieces: Sequence[bytes], position: int) -> None:
    """Add the entries of an append that begins at `position`: ids, each followed by its bytes."""
    continues = 0
    for piece in pieces:
        position += len(piece)
        arguments += (b"%d-%d" % (position, continues), piece)
        continues = 1


def _pieces(reply: Reply) -> list[Piece]:
    """Pieces from the positions at which they end, and their bytes."""
    found: list[Piece] = []
    if isinstance(reply, list):
        for stop, data in zip(reply[::2], reply[1::2], strict=True):
            if isinstance(stop, int) and isinstance(data, bytes):
                found.append((stop - len(data), data))
    return found


def _removed(reply: Reply) -> Removed:
    if not isinstance(reply, list):
        return Removed(done=False)
    return Removed(bool(reply[0]), source_of(reply[1:]))
