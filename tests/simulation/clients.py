"""Clients of the simulation: they create, read, abort and delete, each time at any instance, and tell the oracle."""

import asyncio
import base64
import json
import random
from typing import Protocol

from proxy.wire.headers import Field
from tests.simulation.fleet import Answer, Instance
from tests.simulation.oracle import Known, Oracle
from tests.simulation.storage import ModelStorage

__all__ = ["Client"]


class World(Protocol):
    """What clients know of the world."""

    dice: random.Random
    is_crowded: bool
    oracle: Oracle
    storage: ModelStorage

    def some(self) -> Instance:
        """An instance that takes requests."""


class Client:
    """One client, and what it does in a run. Clients with the same key make the same request."""

    def __init__(self, world: World, number: int) -> None:
        self._world = world
        self._dice = world.dice
        self._oracle = world.oracle
        self._number = number
        self._made = 0
        self._key = "key" if world.is_crowded else f"key{number % 2}" if self._dice.random() < 0.5 else ""
        self._until = 0.0

    async def live(self, until: float) -> None:
        """Make a stream or two before `until`, and do something with each."""
        self._until = until
        for _ in range(self._dice.randrange(1, 3)):
            await self._pause(until / (8 if self._world.is_crowded else 2))
            known = await self._create()
            if known is not None:
                await self._use(known)

    async def _pause(self, longest: float) -> None:
        rest = self._until - asyncio.get_running_loop().time()
        await asyncio.sleep(max(0.0, min(rest, self._dice.random() * longest)))

    def _in_time(self) -> bool:
        return asyncio.get_running_loop().time() < self._until

    async def _create(self) -> Known | None:
        """Create a stream; under a key, again and again until it is there."""
        name = self._key
        if not name:
            self._made += 1
            name = f"create{self._number}.{self._made}"
        while self._in_time():
            patience = min(self._dice.random() * 40.0, max(1.0, self._until - asyncio.get_running_loop().time()))
            known = await self._create_once(name, patience)
            if known is not None or not self._key:
                return known
            await self._pause(3.0)
        return None

    async def _create_once(self, name: str, patience: float) -> Known | None:
        fields: list[Field] = [
            (b"upstream-url", b"http://upstream.test/answer/" + name.encode()),
            (b"upstream-method", b"POST"),
        ]
        if self._key:
            fields.append((b"idempotency-key", name.encode()))
        answer = await self._world.some().ask("POST", "/v1/proxy", fields, patience=patience)
        if answer is None:
            return None
        if answer.status in (200, 201):
            return self._oracle.created(name, answer)
        self._oracle.refused(name, answer)
        return None

    async def _use(self, known: Known) -> None:
        """Read it, here or there; abort or delete it."""
        fate = self._dice.random()
        async with asyncio.TaskGroup() as group:
            for _ in range(self._dice.randrange(0, 3)):
                group.create_task(self._read(known))
            if fate < 0.3:
                group.create_task(self._abort_later(known))
            elif fate < 0.5:
                group.create_task(self._delete_later(known))

    async def _read(self, known: Known) -> None:
        """Read on until the end, each time in some way, at some instance."""
        offset = 0
        while self._in_time() and not known.said and not known.delete_asked:
            live = ("", "&live=long-poll", "&live=sse")[self._dice.randrange(3)]
            was_deleted = known.deleted
            target = f"{known.url}&offset={offset or -1}{live}"
            rest = self._until - asyncio.get_running_loop().time()
            answer = await self._world.some().ask("GET", target, patience=max(1.0, min(rest, 35.0)))
            if answer is not None:
                self._oracle.was_read(known, answer, was_deleted=was_deleted)
                offset = self._took(known, offset, answer, is_events=live == "&live=sse")
            await self._pause(1.0)

    def _took(self, known: Known, offset: int, answer: Answer, *, is_events: bool) -> int:
        """Where a reader goes on."""
        if answer.status != 200:
            return offset
        if not is_events:
            if not answer.is_whole:
                return offset
            self._oracle.had_bytes(known, offset, bytes(answer.body))
            return int(answer["stream-next-offset"] or offset)
        for block in answer.body.decode().split("\n\n")[:-1]:
            kind, _, data = block.partition("\ndata:")
            if kind == "event: data":
                content = base64.b64decode(data)
                self._oracle.had_bytes(known, offset, content)
                offset += len(content)
            elif kind == "event: control":
                control = json.loads(data)
                offset = int(control["streamNextOffset"])
                if "upstreamOutcome" in control:
                    self._oracle.said(known, control["upstreamOutcome"])
        return offset

    async def _abort_later(self, known: Known) -> None:
        await self._pause(8.0)
        await self._abort(known)

    async def _abort(self, known: Known) -> None:
        answer = await self._world.some().ask("PATCH", f"{known.url}&action=abort", patience=30.0)
        if answer is not None:
            self._oracle.aborted(known, answer)

    async def _delete_later(self, known: Known) -> None:
        await self._pause(8.0)
        known.delete_asked = True
        await self._delete(known)

    async def _delete(self, known: Known) -> None:
        instance = self._world.some()
        answer = await instance.ask("DELETE", known.url.partition("?")[0], patience=30.0)
        if answer is not None:
            self._oracle.deleted(known, answer, instance)

    async def finish(self) -> None:
        """In peace: the key gets its stream, whatever happened."""
        is_done = not self._key
        while not is_done:
            is_done = await self._create_once(self._key, 60.0) is not None
            await asyncio.sleep(1.0)

    async def see_end(self, known: Known) -> None:
        """In peace: wait until the stream has its outcome; one that may have no end by itself is aborted."""
        while known.delete_asked and not known.deleted:
            await self._delete(known)
            await asyncio.sleep(1.0)
        while not known.said and not known.deleted:
            if not known.is_stopped:
                await self._abort(known)
            await self.look(known, self._world.some())
            await asyncio.sleep(0.5)

    async def look(self, known: Known, instance: Instance) -> None:
        """In peace: what does this instance say?"""
        was_deleted = known.deleted
        answer = await instance.ask("HEAD", known.url.partition("?")[0], patience=60.0)
        if answer is not None:
            self._oracle.was_read(known, answer, was_deleted=was_deleted)
