"""Bodies for tests: fed by the test, cut by it, or prepared in advance."""

from collections.abc import Iterable

from proxy.http.body import BodyError, Cut
from proxy.http.pipe import Budget, Pipe, PipeLimits
from proxy.wire.events import Buffer

__all__ = ["Scripted", "Silent", "Tap", "fed_pipe"]

_LIMITS = PipeLimits(1 << 18, Budget(1 << 28))


class Silent:
    """The source of a pipe that a test feeds itself; remembers what the pipe asked of it."""

    def __init__(self) -> None:
        self.is_paused = False
        self.is_cut = False

    def pause(self) -> None:
        """See Source."""
        self.is_paused = True

    def resume(self) -> None:
        """See Source."""
        self.is_paused = False

    def body_cut(self) -> None:
        """See Source."""
        self.is_cut = True


def fed_pipe(*parts: bytes, length: int | None = None, cut: Cut | None = None, is_open: bool = False) -> Pipe:
    """A body with these parts, then its end, or a cut, or nothing yet."""
    pipe = Pipe(Silent(), PipeLimits(1 << 20, Budget(1 << 30)), length)
    for part in parts:
        pipe.feed([part])
    if cut is not None:
        pipe.fail(cut)
    elif not is_open:
        pipe.end()
    return pipe


class Tap(Silent):
    """An upstream's body that the test feeds. It is also the source of its pipe; `is_cut` says that the pipe
    no longer wants the rest."""

    def __init__(self, limits: PipeLimits = _LIMITS, max_bytes: int | None = None) -> None:
        super().__init__()
        self.body = Pipe(self, limits, max_bytes=max_bytes)

    def feed(self, *parts: Buffer) -> None:
        """Bytes arrive."""
        self.body.feed(list(parts))


class Scripted:
    """A body of prepared batches that ends normally or with a cut."""

    length: int | None = None

    def __init__(self, batches: Iterable[bytes], cut: Cut | None = None, *, knows_end: bool = True) -> None:
        self._batches = list(batches)
        self._cut = cut
        self._knows_end = knows_end

    @property
    def ended(self) -> bool:
        """Whether the next take returns () at once."""
        return self._knows_end and not self._batches and self._cut is None

    async def take(self) -> tuple[Buffer, ...]:
        """The next batch."""
        if self._batches:
            return (self._batches.pop(0),)
        if self._cut is not None:
            raise BodyError(self._cut)
        return ()

    def take_nowait(self) -> tuple[Buffer, ...]:
        """Nothing: batches come by `take`."""
        return ()

    def abort(self, cut: Cut = Cut.ABORTED) -> None:
        """Nothing to cut off."""

    def close(self) -> None:
        """Nothing to drop."""
