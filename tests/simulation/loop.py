"""One loop on which several machines run, each of which can be frozen and killed without a word to it.

What belongs to a machine runs in a context that names it: its tasks, its timers, and the callbacks of its futures. A
frozen machine's callbacks are kept, and its timers with them, until it goes on; then they run in their old order, those
that are overdue at once. A dead machine's callbacks are dropped. The rest of the world goes on meanwhile.
"""

import asyncio
import heapq
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from enum import Enum, auto
from typing import Any

from tests.kit.virtual_time import VirtualLoop

__all__ = ["Life", "Machine", "MachineLoop"]


class Life(Enum):
    """Whether a machine runs."""

    UP = auto()
    FROZEN = auto()
    DEAD = auto()


class Machine:
    """Something that computes on a `MachineLoop`. Run what belongs to it in its `context`."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.life = Life.UP
        self.frozen_at = -1.0  # when it was frozen last
        self.context = copy_context()
        self.context.run(_machine.set, self)
        self.kept: list[asyncio.Handle] = []  # callbacks while it is frozen
        self.kept_timers: list[asyncio.TimerHandle] = []

    def __repr__(self) -> str:
        return f"<machine {self.number} {self.life.name}>"


_machine: ContextVar[Machine | None] = ContextVar("machine", default=None)


class MachineLoop(VirtualLoop):
    """See the module. Uses the loop's own queues, which asyncio does not offer: 3.11, 3.12 and 3.13 have the same."""

    # The queues of asyncio.BaseEventLoop.
    _ready: Any
    _scheduled: Any

    def __init__(self) -> None:
        super().__init__()
        self._stopped: set[Machine] = set()  # frozen or dead

    def call_soon(  # type: ignore[override]  # typeshed's has a type variable for the arguments
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """As asyncio's; the callback of a machine that is stopped is kept or dropped."""
        handle = super().call_soon(callback, *args, context=context)
        if self._stopped:
            machine = _owner(handle)
            if machine in self._stopped:
                self._ready.pop()
                machine.kept.append(handle)
        return handle

    def freeze(self, machine: Machine) -> None:
        """Stop a machine, as SIGSTOP does."""
        machine.life, machine.frozen_at = Life.FROZEN, self.time()
        self._stop(machine)

    def thaw(self, machine: Machine) -> None:
        """Let it go on."""
        machine.life = Life.UP
        self._stopped.discard(machine)
        self._ready.extend(machine.kept)
        for timer in machine.kept_timers:
            heapq.heappush(self._scheduled, timer)
        machine.kept, machine.kept_timers = [], []

    def kill(self, machine: Machine) -> None:
        """Stop it for good, as SIGKILL does. Its tasks stay as they are until the end of the run."""
        machine.life = Life.DEAD
        self._stop(machine)

    def exhume(self) -> None:
        """Let the tasks of the stopped be cancelled: for the end of a run, when nobody looks any more."""
        for machine in list(self._stopped):
            life = machine.life
            self.thaw(machine)
            machine.life = life

    def _stop(self, machine: Machine) -> None:
        self._stopped.add(machine)
        machine.kept += [handle for handle in self._ready if _owner(handle) is machine]
        others = [handle for handle in self._ready if _owner(handle) is not machine]
        self._ready.clear()
        self._ready.extend(others)
        machine.kept_timers += [timer for timer in self._scheduled if _owner(timer) is machine]
        self._scheduled[:] = [timer for timer in self._scheduled if _owner(timer) is not machine]
        heapq.heapify(self._scheduled)


def _owner(handle: Any) -> Machine | None:
    """The machine in whose context a callback runs."""
    machine = handle._context.get(_machine)
    return machine if isinstance(machine, Machine) else None
