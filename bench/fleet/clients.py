"""Clients of the fleet: each makes a stream, reads it through any instance, and looks again later."""

import asyncio
import random
import time
from dataclasses import dataclass
from itertools import pairwise

from bench.fleet.caller import Answer, Ended, NoAnswer
from bench.fleet.fleet import LEASE_SECONDS, Fleet
from bench.fleet.model import Model, Plan, content
from bench.fleet.oracle import Findings

__all__ = ["Clients"]

_STREAMS_A_SECOND = 4.0
_PATIENCE_SECONDS = 100.0  # past an answer's own time, in which its stream must end: longer than a budget of appends
_ABORT_SHARE = 0.15
_KEY_SHARE = 0.4
_SETTLE_SECONDS = 1.0  # after an abort's 204, for what the upstream's side of a closed connection takes to be seen


@dataclass(slots=True)
class _Seen:
    """A stream as its first reader saw it."""

    plan: Plan
    target: str
    owner: int
    data: bytes = b""
    outcome: str = ""


class Clients:
    """All clients of a run."""

    def __init__(self, fleet: Fleet, model: Model, dice: random.Random) -> None:
        self.findings = Findings()
        self._fleet = fleet
        self._model = model
        self._dice = dice
        self._seen: list[_Seen] = []
        self._keys: set[int] = set()  # answers that were asked for under a key
        self._settled: dict[int, tuple[float, set[str]]] = {}  # when a key's first success was heard, and its streams

    async def run(self, seconds: float) -> None:
        """Come at a steady pace for so long, and wait for the last ones."""
        until = time.monotonic() + seconds
        number = 0
        async with asyncio.TaskGroup() as group:
            while time.monotonic() < until:
                group.create_task(self._client(number))
                number += 1
                await asyncio.sleep(1 / _STREAMS_A_SECOND)
        await self._look_again()
        self._count_calls()

    async def _client(self, number: int) -> None:
        dice = self._dice
        is_keyed = dice.random() < _KEY_SHARE
        head = dice.choice([0.0, 3.0, 3.0]) if is_keyed else 0.0
        plan = Plan(number, head, dice.randrange(1, 150), dice.choice([0.005, 0.02, 0.1, 0.3]))
        if not is_keyed:
            made = await self._create(plan, self._fleet.any_up().number, "")
            if made is not None:
                await self._follow(plan, made)
            return
        self._keys.add(number)
        twins = [self._keyed(plan) for _ in range(dice.choice([1, 1, 2]))]
        found = [made for made in await asyncio.gather(*twins) if made is not None]
        if found:
            await self._follow(plan, found[0])

    async def _create(self, plan: Plan, via: int, key: str) -> tuple[str, int] | None:
        """The stream's signed URL, and the instance that was asked; None when there is none."""
        instance = self._fleet.instances[via]
        url = f"http://127.0.0.1:{self._model.port}{plan.target}"
        try:
            answer: Answer = await instance.caller.create(url, key)
        except NoAnswer:
            self.findings.answered("none")
            return None
        self.findings.answered(str(answer.status))
        if answer.status not in (200, 201):
            return None
        return answer.field(b"location"), via

    async def _keyed(self, plan: Plan) -> tuple[str, int] | None:
        """Ask under a key until it is answered, at another instance each time."""
        until = time.monotonic() + plan.seconds + _PATIENCE_SECONDS
        via = self._fleet.any_up().number
        died: float | None = None
        while time.monotonic() < until:
            began = time.monotonic()
            made = await self._create(plan, via, f"key-{plan.number}")
            if made is not None:
                self._heard(plan.number, made[0])
                if died is not None:
                    self.findings.keys.append(time.monotonic() - died - plan.head)
                return made
            killed = self._fleet.instances[via].killed
            if (
                killed
                and killed[-1] > began
                and any(call.via == via for call in self._model.calls.get(plan.number, []))
            ):
                died = died or killed[-1]
            elif self._fleet.instances[via].was_disturbed(began, time.monotonic()):
                died = None  # other things went wrong as well
            via = self._fleet.any_up(but=via).number
            await asyncio.sleep(0.2)
        self.findings.found("hung", f"{plan.number}: its key was not free for {_PATIENCE_SECONDS:g} s")
        return None

    def _heard(self, number: int, location: str) -> None:
        stream = location.partition("?")[0]
        _, streams = self._settled.setdefault(number, (time.monotonic(), set()))
        streams.add(stream)
        if len(streams) > 1:
            self.findings.found("contradicted", f"{number}: its key names {sorted(streams)}")

    async def _follow(self, plan: Plan, made: tuple[str, int]) -> None:
        """Read to the end through any instance, and abort sometimes."""
        self.findings.streams += 1
        seen = _Seen(plan, *made)
        calls = self._model.calls.get(plan.number, [])
        seen.owner = calls[-1].via if calls else seen.owner
        reading = asyncio.ensure_future(self._read(seen))
        if self._dice.random() < _ABORT_SHARE:
            await asyncio.sleep(self._dice.uniform(0.2, 2.0))
            await self._abort(seen)
        limit = plan.seconds + _PATIENCE_SECONDS
        try:
            await asyncio.wait_for(reading, limit)
        except TimeoutError:
            self.findings.found("hung", f"{plan.number}: no end after {limit:.0f} s, {len(seen.data)} bytes")
            return
        self.findings.ended(seen.outcome)
        expected = content(plan.number, plan.pieces)
        self.findings.compare(plan.number, seen.data, expected, seen.outcome)
        self._seen.append(seen)

    async def _read(self, seen: _Seen) -> None:
        offset = "-1"
        via = self._fleet.any_up().number
        while True:
            instance = self._fleet.instances[via]
            try:
                async for each in instance.caller.events(seen.target, offset):
                    if isinstance(each, Ended):
                        seen.outcome = each.outcome
                        self._ended(seen, via)
                        return
                    seen.data += each[0]
                    offset = each[1]
            except NoAnswer as error:
                if "404" in str(error):
                    self.findings.found("lost", f"{seen.plan.number}: 404 after its 201")
                    seen.outcome = "lost"
                    return
            via = self._fleet.any_up(but=via).number
            await asyncio.sleep(0.05)

    def _ended(self, seen: _Seen, via: int) -> None:
        """A reader heard the end just now; how long after its owner's death, if that was the reason."""
        now = time.monotonic()
        killed = self._fleet.instances[seen.owner].killed
        if seen.outcome != "interrupted" or via == seen.owner or not killed or now - killed[-1] > 2 * LEASE_SECONDS + 5:
            return
        if not self._fleet.instances[via].was_disturbed(killed[-1], now):
            self.findings.deaths.append(now - killed[-1])

    async def _abort(self, seen: _Seen) -> None:
        """Abort through another instance than the owner, and see that it is done."""
        calls = self._model.calls.get(seen.plan.number, [])
        if not calls or calls[-1].ended is not None:
            return
        instance, call = self._fleet.any_up(but=seen.owner), calls[-1]
        was_calm, began = self._fleet.is_calm, time.monotonic()
        try:
            answer = await instance.caller.ask("PATCH", f"{seen.target}&action=abort")
        except NoAnswer:
            return
        await asyncio.sleep(_SETTLE_SECONDS if answer.status == 204 else LEASE_SECONDS + 1.0)
        if was_calm and self._fleet.is_calm and call.was_cut and call.ended is not None:
            self.findings.aborts.append(call.ended - began)
        if answer.status == 204 and call.ended is None and not await self._is_closed(seen):
            self.findings.found("contradicted", f"{seen.plan.number}: abort was 204, and it goes on")

    async def _is_closed(self, seen: _Seen) -> bool:
        while True:
            try:
                found = await self._fleet.any_up().caller.ask("HEAD", seen.target)
            except NoAnswer:
                continue
            if found.status in (200, 404):
                return found.status == 404 or found.field(b"stream-closed") == "true"
            await asyncio.sleep(0.2)

    async def _look_again(self) -> None:
        """Every instance says of every stream what its first reader has heard."""
        limit = asyncio.Semaphore(20)

        async def look(seen: _Seen, via: int) -> None:
            async with limit:
                data, outcome = await self._whole(seen, via)
            if (data, outcome) != (seen.data, seen.outcome):
                self.findings.found(
                    "contradicted",
                    f"{seen.plan.number}: {len(seen.data)} bytes and {seen.outcome}, then {len(data)} and {outcome}",
                )

        await asyncio.sleep(2 * LEASE_SECONDS)
        await asyncio.gather(*(look(seen, via) for seen in self._seen for via in range(3)))

    async def _whole(self, seen: _Seen, via: int) -> tuple[bytes, str]:
        data, offset = b"", "-1"
        for _ in range(100):
            try:
                found = await self._fleet.instances[via].caller.ask("GET", f"{seen.target}&offset={offset}")
            except NoAnswer:
                await asyncio.sleep(0.2)
                continue
            if found.status != 200:
                return data, f"status {found.status}"
            data += found.body
            offset = found.field(b"stream-next-offset")
            if found.field(b"stream-closed") == "true":
                return data, found.field(b"upstream-outcome")
        return data, "no end"

    def _count_calls(self) -> None:
        """No answer was asked for twice, but under a key whose first caller was dead as far as anybody could know."""
        for number, calls in self._model.calls.items():
            for before, after in pairwise(calls):
                ended = before.ended or float("inf")
                if number not in self._keys:
                    self.findings.found("called twice", f"{number}: without a key")
                elif number in self._settled and after.began > self._settled[number][0]:
                    self.findings.found("called twice", f"{number}: after its stream was known")
                owner = self._fleet.instances[before.via]
                if after.began < ended and not owner.was_disturbed(before.began, after.began):
                    self.findings.found("called twice", f"{number}: at once, and the first caller was well")
