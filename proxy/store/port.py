"""The port between the protocol and an engine: what an engine must do, method by method, and what calls it.

Above the port (`store.protocol`) is HTTP, below it are engines. Values go through it, those of `store.model`. What
changes in a stream is seen above only as a `View`, which is replaced and never modified. The decisions that all
engines share are in `store.rules`; an engine adds where streams are kept and what makes a write atomic and durable.

Positions are bytes as they are kept, counted from the stream's start; times are Unix milliseconds. All methods are
called in one event loop's thread, by any number of requests at a time.
"""

from typing import Protocol

from proxy.store.model import Append, Content, Piece, Result, Spec, Stream, View

__all__ = ["Engine", "Reader", "StoreUnusable", "Unreadable"]


class StoreUnusable(Exception):
    """A store could not be opened. The message says what is wrong and with which file or address."""


class Unreadable(Exception):
    """Stored data could not be read. The message is the engine's; the caller answers 503 and logs it."""


class Reader(Protocol):
    """One reader's hold on one stream, from `Engine.find`. It belongs to one request, and waits for one at a time.

    It follows the stream it was made for. A stream that is created on the same path later is another one, and this
    reader sees `absence` for good.
    """

    def view(self) -> View:
        """The stream as it may be seen now. Called at every step of a read, so it is cheap; no I/O."""

    def touch(self) -> None:
        """A TTL starts again, because of a read. Returns at once; the change may be stored later.

        Called for each GET, and by live reads whenever they send something. A TTL may be stored less often than it is
        touched, as long as the stream never expires too early.
        """

    async def changed(self, seconds: float) -> None:
        """Return when `view` is another than at the last look, or after `seconds`; it may return earlier.

        Called by long polls and by SSE bodies when they have everything: look at `view`, then wait, then look again.
        No change between the look and the wait is lost, because nothing else runs in between. Afterwards the caller
        calls `close`. A cancelled wait leaves nothing behind.
        """

    async def read(self, position: int, end: int, size: int) -> list[Piece]:
        """Pieces from `position` up to `end`, until `size` bytes are reached; `end` is at most `view.tail`.

        Called by catch-up and live reads, one step at a time. No piece reaches over `end`, and they follow each other
        without a gap. The first one begins at `position`, but in JSON mode it is whole even when `position` is inside
        it: values are never cut. The last one may go beyond `size`. None at all when the stream was removed
        meanwhile. Raises Unreadable. A cancelled call changes nothing.
        """

    async def boundary(self, position: int) -> int:
        """The first position from `position` on at which a piece ends.

        Called by a catch-up read that is too long for one response, to find where the response may end. Raises
        Unreadable.
        """

    def close(self) -> None:
        """End a wait that is in progress, and stop following the stream.

        Called at the end by everything that has called `changed`, which must not be called again; harmless when
        repeated. `view` and `read` still work.
        """


class Engine(Protocol):
    """Streams by path: created, appended to, found and deleted.

    Each operation is atomic, and its result is given when the change is as durable as the engine promises, never
    earlier. A refusal is given only for a state that is stored, never for one that may still fail. A cancelled
    create, append or delete may happen or not; later operations are judged by what really happened.
    """

    @property
    def is_closing(self) -> bool:
        """Whether `aclose` was called: requests are refused and live reads end. Called at each step."""

    def now(self) -> int:
        """Unix time in milliseconds, by the clock that measures lifetimes. It never goes back.

        Lifetimes must not depend on whether somebody sets the machine's clock: proxies find dead instances by them.
        Called for cursors.
        """

    def has_room(self) -> bool:
        """Whether a stream could be created now, as far as is known without I/O.

        Called before an upstream is asked for an answer that would have to be stored.
        """

    async def find(self, path: str) -> Reader | None:
        """A reader of the stream at `path`; None when there is no such stream, or it has expired.

        A stream that was deleted and has forks is found, with `absence` GONE. What another process stored before the
        call is seen. Called by GET and HEAD. Raises Unreadable.
        """

    async def create(self, path: str, spec: Spec, content: Content) -> tuple[Result, Stream | None]:
        """Create a stream that starts with `content`; the stream when it was created or exists with these settings.

        Verdicts: CREATED, EXISTS, DIFFERS, HELD_BY_FORKS, FULL, FAILED; for a fork also SOURCE_MISSING, SOURCE_GONE,
        SOURCE_TYPE, BAD_FORK. The content type may be missing for a fork only. Called by PUT. Raises Unreadable, and
        what `content.cut` raises.
        """

    async def append(self, path: str, append: Append) -> Result:
        """Store `append` and close the stream if it says so, both or neither; or say why not.

        Verdicts: STORED, those of `rules.judge`, MISSING, GONE, FULL, FAILED. Content is cut before the append is
        judged, so that invalid content is refused in any state of the stream. Called by POST, the hot path. Raises
        Unreadable, and what `append.content.cut` raises.
        """

    async def delete(self, path: str) -> Result:
        """Delete the stream at `path`. While forks need its data, the path stays taken.

        Verdicts: DELETED, MISSING, GONE (it was deleted before), FAILED. Called by DELETE. Raises Unreadable.
        """

    async def aclose(self) -> None:
        """Store what was accepted, end every wait, release files and connections. Called once, at the end."""
