"""One run of the simulation: instances, clients, and what goes wrong, all drawn from one seed.

For `TROUBLE` seconds instances crash, freeze and stop, links and storage fail. Then everything is well again, and
within `PEACE` seconds every stream must have its end, every key its stream, and every machine its peace.
"""

import asyncio
import contextvars
import logging
import random
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from tests.simulation.clients import Client
from tests.simulation.fleet import Instance, repeatable
from tests.simulation.loop import Life, MachineLoop
from tests.simulation.network import CALM, Network, Weather
from tests.simulation.oracle import Broken, Oracle
from tests.simulation.storage import ModelStorage
from tests.simulation.upstream import Upstream

__all__ = ["Report", "simulate"]

TROUBLE = 25.0
PEACE = 60.0
_LOOK = 5.0
_MOST_REQUESTS = 150  # of an instance between two looks: far more than any needs
_SPANS = (0.5, 3.0, 6.0, 10.0, 16.0)  # seconds that a failure lasts
_TROUBLES = ("kill", "freeze", "stop", "deaf link", "cut link", "deaf storage", "down storage", "deaf link")
_WEATHERS = (
    CALM,
    Weather(delay=0.3),
    Weather(refused=0.1, lost=0.03, unheard=0.05),
    Weather(unheard=0.1, late=0.05, twice=0.1),
    Weather(refused=0.05, lost=0.05, unheard=0.1, late=0.1, twice=0.1),
)


@dataclass(frozen=True)
class Report:
    """What a run came to: for each stream that a client knew, what was said of it; calls, requests, and seconds."""

    outcomes: tuple[str, ...]
    calls: int
    requests: int
    seconds: float


class World:
    """Everything of one run."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self._loop = asyncio.get_running_loop()
        dice = self.dice
        self.is_crowded = dice.random() < 0.3  # all clients use one key, and who has it is in trouble
        self.storage = ModelStorage(self._loop.time, closed_first=dice.random() < 0.5)
        self.network = Network(
            self.storage, random.Random(seed + 1), dice.choice(_WEATHERS), contextvars.copy_context()
        )
        self.upstream = Upstream(self.network, random.Random(seed + 2), seed)
        self.upstream.is_slow = self.is_crowded
        self.oracle = Oracle(seed, self.storage, self.upstream)
        self.instances: list[Instance] = []
        for _ in range(dice.randrange(2, 5)):
            self.instances.append(self.instance())

    def instance(self) -> Instance:
        """A new one."""
        return Instance(len(self.instances), self.network, self.upstream)

    def some(self) -> Instance:
        """One that takes requests; it may be frozen."""
        return self.dice.choice([each for each in self.instances if each.takes_requests])

    async def run(self) -> Report:
        """The whole run. Raises Broken."""
        clients = [Client(self, number) for number in range(self.dice.randrange(2, 6))]
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(client.live(TROUBLE))
            for _ in range(self.dice.randrange(0, 5)):
                group.create_task(self._trouble())
            for _ in range(round(TROUBLE / _LOOK)):
                await asyncio.sleep(_LOOK)
                self._check_rates()
            self._heal()
        await self._settle(clients)
        said = tuple("/".join(sorted(known.said)) for known in self.oracle.streams.values())
        requests = sum(each.link.sent for each in self.instances)
        return Report(said, len(self.upstream.calls), requests, self._loop.time())

    def _check_rates(self) -> None:
        """I8: nobody asks storage without end."""
        for instance in self.instances:
            sent = instance.link.sent - instance.link.counted
            instance.link.counted = instance.link.sent
            if sent > _MOST_REQUESTS:
                raise Broken(f"I8: {instance} has sent {sent} requests in {_LOOK:.0f} s")

    async def _trouble(self) -> None:
        dice = self.dice
        await asyncio.sleep(dice.random() * TROUBLE * (0.3 if self.is_crowded else 1.0))
        span = dice.choice(_SPANS)
        victim = self.some()
        kind = dice.choice(_TROUBLES)
        busy = [call.machine for call in self.upstream.calls if call.is_open]
        if self.is_crowded and isinstance(holder := next(iter(busy), None), Instance):
            span, victim, kind = max(_SPANS), holder, dice.choice(("deaf link", "cut link", "freeze"))
        until = min(self._loop.time() + span, TROUBLE)
        if kind in ("kill", "stop"):
            await self._end(victim, kind)
        elif kind == "freeze" and victim.life is Life.UP:
            victim.freeze()
            await asyncio.sleep(until - self._loop.time())
            victim.thaw()
        elif kind == "deaf link":
            victim.link.deaf_until = until
        elif kind == "cut link":
            victim.link.cut_until = until
        elif kind == "deaf storage":
            self.network.deaf_until = until
        elif kind == "down storage":
            self.network.down_until = until

    async def _end(self, victim: Instance, kind: str) -> None:
        """Kill or stop an instance. There is always another one to turn to."""
        if not any(each.takes_requests for each in self.instances if each is not victim) or self.dice.random() < 0.5:
            self.instances.append(self.instance())
        if kind == "kill":
            victim.kill()
            self.upstream.dropped(victim)
        elif victim.takes_requests:
            await victim.stop()
            self.upstream.dropped(victim)

    def _heal(self) -> None:
        self.network.weather = CALM
        self.network.deaf_until = self.network.down_until = 0.0
        for instance in self.instances:
            instance.link.deaf_until = instance.link.cut_until = 0.0
            if instance.life is Life.FROZEN:
                instance.thaw()
        self.instances.append(self.instance())  # one that remembers nothing

    def _left(self, living: list[Instance]) -> str:
        """I8: what is not at rest, in words."""
        calls = [call for call in self.upstream.calls if call.is_open]
        found = [f"call {call.number}" for call in calls if self.oracle.is_left(call)]
        for each in living:
            silent = sum(call.machine is each for call in calls)
            if len(each.app.transfers) > silent or each.budget.used:
                found.append(f"{each}: {len(each.app.transfers)} transfers, {each.budget.used} bytes")
        return ", ".join(found)

    async def _settle(self, clients: list[Client]) -> None:
        until = self._loop.time() + PEACE
        await _within(until, [client.finish() for client in clients], "a key is still blocked")
        known = list(self.oracle.streams.values())
        await _within(until, [clients[0].see_end(each) for each in known], "I4: a stream has no end")
        living = [each for each in self.instances if each.life is Life.UP]
        while left := self._left(living):
            if self._loop.time() > until:
                raise Broken(f"I8: {left} left")
            await asyncio.sleep(1.0)
        for each in known:
            self.oracle.has_ended(each)
            for instance in living:
                await clients[0].look(each, instance)


async def _within(until: float, work: list[Coroutine[Any, Any, None]], text: str) -> None:
    try:
        async with asyncio.timeout_at(until):
            await asyncio.gather(*work)
    except TimeoutError:
        raise Broken(text) from None


def simulate(seed: int) -> Report:
    """Run the simulation with `seed`. Raises Broken, with the seed in a note, when an invariant does not hold."""

    async def run() -> Report:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, MachineLoop)
        try:
            return await World(seed).run()
        finally:
            loop.exhume()
            while tasks := asyncio.all_tasks() - {asyncio.current_task()}:  # one may start another when it is cancelled
                for task in tasks:
                    task.cancel()
                await asyncio.wait(tasks)

    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with repeatable(seed), asyncio.Runner(loop_factory=MachineLoop) as runner:
            return runner.run(run())
    except BaseException as error:
        error.add_note(f"seed {seed}")
        raise
    finally:
        logging.disable(level)
