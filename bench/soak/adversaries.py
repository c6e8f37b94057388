"""Adversaries: each is a number of connections that misuse one thing until it is cancelled."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bench.soak.target import Target

__all__ = ["ADVERSARIES", "Adversary"]

Work = Callable[[Target, int], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Adversary:
    """`count` connections do `work` again and again. Each call gets its number."""

    name: str
    count: int
    work: Work

    async def run(self, target: Target) -> None:
        """Misuse `target` until cancelled."""
        async with asyncio.TaskGroup() as group:
            for number in range(self.count):
                group.create_task(self._again(target, number))
                if number % 50 == 49:
                    await asyncio.sleep(0.02)  # not to fill the listen queue, which is not tested

    async def _again(self, target: Target, number: int) -> None:
        while True:
            with contextlib.suppress(OSError, EOFError):  # cut off, as expected
                await self.work(target, number)
            await asyncio.sleep(0.5)


async def _silent(target: Target, number: int) -> None:
    async with target.connected() as (reader, _):
        await reader.read()


async def _slow_head(target: Target, number: int) -> None:
    async with target.connected() as (_, writer):
        writer.write(b"GET /health HTTP/1.1\r\nHost: h\r\nX-Slow: ")
        for _ in range(600):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(1.0)


async def _refused(target: Target, number: int) -> None:
    for _ in range(50):
        async with target.connected() as (reader, writer):
            writer.write(b"POST /v1/proxy HTTP/1.1\r\nHost: h\r\nContent-Length: 1, 2\r\n\r\n")
            await reader.read()
            await asyncio.sleep(0.02)


async def _pipelining(target: Target, number: int) -> None:
    async with target.connected() as (_, writer):
        writer.write(b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n" * 9_000)
        await asyncio.sleep(3600)


async def _silent_name(target: Target, number: int) -> None:
    async with target.connected() as (reader, writer):
        writer.write(target.create_head(f"http://name{number}.silent.test/", 0))
        await reader.read()


async def _same_stream(target: Target, number: int) -> None:
    async with target.connected() as (reader, writer):
        writer.write(f"GET {target.popular}&live=sse&offset=-1 HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        while await reader.read(4096):
            pass


async def _dripping(target: Target, number: int) -> None:
    async with target.connected() as (_, writer):
        writer.write(target.create_head(target.model, 64 << 20))
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(20.0)


ADVERSARIES = (
    Adversary("silent connections", 1000, _silent),
    Adversary("heads of a byte a second", 1000, _slow_head),
    Adversary("requests that are refused", 4, _refused),
    Adversary("pipeliners that read nothing", 1500, _pipelining),
    Adversary("names whose servers are silent", 100, _silent_name),
    Adversary("readers of one stream", 500, _same_stream),
    Adversary("bodies that drip", 8, _dripping),
)
