"""The upstream of the simulation: answers in pieces that name themselves, at any pace, to any end; counts its calls."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.http.body import BytesBody, Cut
from proxy.http.message import ExchangeError, Fault, Handler, Request, Response
from proxy.http.pipe import Budget, Pipe, PipeLimits
from proxy.wire.headers import Headers
from tests.kit.oracle import SIZE, piece
from tests.simulation.loop import Life, Machine
from tests.simulation.network import Network

__all__ = ["Call", "Upstream"]

_PIECES = 24
_TEXT = (b"content-type", b"text/plain")


@dataclass
class Call:
    """One call, as the upstream saw it.

    name: of the create that it is made for: all calls under one key have the same.
    sent: bytes that went out.
    is_whole: its answer ended properly.
    is_open: its connection is there, on both sides.
    """

    number: int
    name: str
    machine: Machine
    began: float
    plan: "Plan"
    sent: int = 0
    is_whole: bool = False
    is_open: bool = True

    @property
    def runs(self) -> bool:
        """Whether a machine that lives, and was not frozen since the call began, has it open."""
        machine = self.machine
        return self.is_open and machine.life is Life.UP and machine.frozen_at < self.began


@dataclass
class Plan:
    """How a call will go: seconds to the head, status, sizes and pauses of what is sent, and how it ends."""

    head: float
    status: int
    parts: list[tuple[float, int]] = field(default_factory=list)
    end: Cut | str = "whole"  # or "never", or how it is cut


class Upstream:
    """Everything that is called. `calls` in order; `is_slow`: heads are long in coming."""

    def __init__(self, network: Network, dice: random.Random, seed: int) -> None:
        self._network = network
        self._dice = dice
        self._seed = seed
        self._loop = asyncio.get_running_loop()
        self.calls: list[Call] = []
        self.is_slow = False
        self.watch: Callable[[Call], None] = lambda _: None
        """Called with each new call."""

    def of(self, machine: Machine, budget: Budget) -> Handler:
        """The upstream as a machine reaches it."""
        limits = PipeLimits(8 * SIZE, budget)

        async def handler(request: Request) -> Response:
            name = request.target.decode().rpartition("/")[2]
            call = Call(len(self.calls), name, machine, self._loop.time(), self._plan())
            self.calls.append(call)
            self.watch(call)
            try:
                return await self._respond(call, request, limits)
            except BaseException:
                call.is_open = False
                raise

        return handler

    def dropped(self, machine: Machine) -> None:
        """A machine is gone, and all its connections."""
        for call in self.calls:
            if call.machine is machine:
                call.is_open = False

    def _plan(self) -> Plan:
        dice = self._dice
        fate = dice.random()
        if fate < 0.06:
            return Plan(dice.random(), 500)
        if fate < 0.10:
            return Plan(dice.random(), 0)  # the connection is lost before the head
        head = dice.choice((0.0, 0.05, 0.5, 3.0, 9.0)) if not self.is_slow else dice.choice((3.0, 14.0))
        pace = dice.choice((0.0, 0.01, 0.2, 0.8))
        count = dice.randrange(_PIECES)
        parts = [(dice.random() * pace, dice.randrange(1, 3 * SIZE)) for _ in range(count)]
        end: Cut | str = dice.choice(("whole", "whole", "whole", "never", Cut.RESET, Cut.FRAMING))
        return Plan(head, 200, parts, end)

    async def _respond(self, call: Call, request: Request, limits: PipeLimits) -> Response:
        plan = call.plan
        request.body.close()
        head: asyncio.Future[None] = self._loop.create_future()
        self._network.later(plan.head, lambda: None if head.done() else head.set_result(None))
        await head
        if plan.status == 0:
            raise ExchangeError(Fault.RESET, sent=True)
        if plan.status != 200:
            call.is_open = False
            return Response(plan.status, Headers([_TEXT]), BytesBody([b"no"]))
        return Response(200, Headers([_TEXT]), _Sending(call, self._network, limits, self._seed).pipe)


class _Sending:
    """The body of one call's answer, sent piece by piece: the source of its pipe."""

    def __init__(self, call: Call, network: Network, limits: PipeLimits, seed: int) -> None:
        self._call = call
        self._network = network
        self._is_paused = False
        self._is_due = False  # the next part waits for the pause to end
        sizes = sum(size for _, size in call.plan.parts)
        self._rest = b"".join(piece(seed, call.number, index) for index in range(sizes // SIZE + 1))[:sizes]
        self._parts = iter(call.plan.parts)
        self._next = 0
        self.pipe = Pipe(self, limits)
        self._plan_next()

    def _plan_next(self) -> None:
        part = next(self._parts, None)
        if part is not None:
            pause, self._next = part
            self._network.later(pause, self._send)
        elif self._call.plan.end != "never":
            self._network.later(0.01, self._end)

    def _send(self) -> None:
        if not self._call.is_open:
            return
        if self._is_paused:
            self._is_due = True
            return
        data, self._rest = self._rest[: self._next], self._rest[self._next :]
        self._call.sent += len(data)
        self.pipe.feed([data])
        self._plan_next()

    def _end(self) -> None:
        call, end = self._call, self._call.plan.end
        if not call.is_open:
            return
        call.is_open = False
        if isinstance(end, Cut):
            self.pipe.fail(end)
        else:
            call.is_whole = True
            self.pipe.end()

    def pause(self) -> None:
        """See Source."""
        self._is_paused = True

    def resume(self) -> None:
        """See Source."""
        self._is_paused = False
        if self._is_due:
            self._is_due = False
            self._network.later(0.0, self._send)

    def body_cut(self) -> None:
        """See Source."""
        self._call.is_open = False
