"""Every order in which the requests of several parties can reach storage, and every place at which one may die.

`explore` runs a scenario again and again, once for each way in which its choices can come out. A scenario makes
`Turns`, gives each party a Handler of its own, and lets `play` run them: one request is answered at a time, and which
one is a choice; so is whether the party that sent it dies, before the request has arrived or before it has its answer.
For virtual time only.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from typing import Any

from proxy.http.body import BytesBody, read_all
from proxy.http.message import Handler, Request, Response

__all__ = ["DEAD", "Choices", "Turns", "explore", "sample"]

_MOMENT = 1e-6  # virtual seconds: it passes when everything that can run has run
_A_WHILE = 0.01  # virtual seconds, for those that wait before they ask again
DEAD = "dead"


class Choices:
    """Decisions of one run: those of `script` first, then the first option of each, or one at random."""

    def __init__(self, script: list[int], dice: random.Random | None = None) -> None:
        self._script = script
        self._dice = dice
        self.made: list[tuple[int, int]] = []  # what was chosen, of how many

    def pick(self, options: int) -> int:
        """One of `options`, by number."""
        at = len(self.made)
        if at < len(self._script):
            chosen = self._script[at]
        else:
            chosen = 0 if self._dice is None else self._dice.randrange(options)
        self.made.append((chosen, options))
        return chosen

    def __repr__(self) -> str:
        return f"<Choices {[chosen for chosen, _ in self.made]}>"


async def explore(scenario: Callable[[Choices], Awaitable[None]], *, at_most: int) -> int:
    """Run `scenario` for every combination of choices; how many there were. AssertionError beyond `at_most`."""
    script: list[int] = []
    for count in range(1, at_most + 1):
        choices = Choices(script)
        try:
            await scenario(choices)
        except BaseException as error:
            error.add_note(f"{choices!r}")
            raise
        made = choices.made
        while made and made[-1][0] + 1 == made[-1][1]:
            made.pop()
        if not made:
            return count
        script = [chosen for chosen, _ in made[:-1]] + [made[-1][0] + 1]
    raise AssertionError(f"more than {at_most} runs")


async def sample(scenario: Callable[[Choices], Awaitable[None]], seeds: Iterable[int]) -> None:
    """Run `scenario` once for each seed, with choices at random."""
    for seed in seeds:
        choices = Choices([], random.Random(seed))
        try:
            await scenario(choices)
        except BaseException as error:
            error.add_note(f"seed {seed}: {choices!r}")
            raise


class Turns:
    """The requests of several parties to `storage`, one at a time. At most `deaths` parties die in a run.

    `order` tells what happened, in order; `dead` names those that died.
    """

    def __init__(self, storage: Handler, choices: Choices, *, deaths: int = 0) -> None:
        self._storage = storage
        self._choices = choices
        self._deaths = deaths
        self._waiting: list[tuple[str, Request, asyncio.Future[Response]]] = []
        self.order: list[str] = []
        self.dead: set[str] = set()

    def of(self, party: str) -> Handler:
        """The Handler of one party. Once it is dead, nothing that is left of it gets an answer."""

        async def handler(request: Request) -> Response:
            body = BytesBody([await read_all(request.body, 1 << 20)])
            answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
            copy = Request(request.method, request.target, request.headers, body)
            if party not in self.dead:
                self._waiting.append((party, copy, answer))
            return await answer

        return handler

    async def play(self, parties: Mapping[str, Coroutine[Any, Any, object]]) -> dict[str, object]:
        """Run the parties to their ends; what each returned, DEAD for one that died."""
        running = {name: asyncio.ensure_future(work) for name, work in parties.items()}
        while not all(task.done() for task in running.values()):
            await asyncio.sleep(_MOMENT)
            if self._waiting:
                await self._step(running)
            else:
                await asyncio.sleep(_A_WHILE)
        return {name: DEAD if task.cancelled() else task.result() for name, task in running.items()}

    async def _step(self, running: Mapping[str, "asyncio.Future[object]"]) -> None:
        fates = 3 if self._deaths else 1
        picked = self._choices.pick(len(self._waiting) * fates)
        which, fate = picked % len(self._waiting), picked // len(self._waiting)
        party, request, answer = self._waiting.pop(which)
        self.order.append(f"{party} {request.method.decode()} {request.target.decode().rpartition('/')[2]} {fate}")
        if fate != 1:
            response = await self._storage(request)
            if fate == 0:
                answer.set_result(response)
        if fate:
            self._deaths -= 1
            self.dead.add(party)
            self._waiting = [waiting for waiting in self._waiting if waiting[0] != party]
            running[party].cancel()
