"""The command: a baseline, the same load with adversaries, then rest. Prints figures; exits with 1 if a bound fails."""

import argparse
import asyncio
import math
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench.machine import conditions
from bench.process import PROXY_CORE, Child, cpu_seconds, free_port, pin_self
from bench.rig.http import BrokenRun
from bench.rig.upstream import Upstream
from bench.soak import simulation
from bench.soak.adversaries import ADVERSARIES, Adversary
from bench.soak.attack import attacking
from bench.soak.target import Target

_SECRET = "soak-secret-that-is-longer-than-32-bytes"  # the secret of this run's own proxy
_EVENTS = 20
_ANSWERS_A_SECOND = 10
_P99_RATIO = 3.0
_MEMORY_BYTES = 10 << 20
_PEACE_SECONDS = 120.0
_PATIENCE_SECONDS = 30.0  # of the good client
_NEEDED_DESCRIPTORS = 16_384


@dataclass(slots=True)
class Good:
    """What the good client saw: seconds of each create, and what went wrong.

    `cpu` is the time that the proxy itself worked during each create. On a machine that others use, too, it says what a
    slow create is due to: the proxy, or the machine.
    """

    seconds: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def said(self) -> str:
        """Both p99 and the number of errors."""
        took, cpu = _p99(self.seconds), _p99(self.cpu)
        return f"create p99 {took:.1f} ms, of the proxy's CPU {cpu:.1f} ms, errors {len(self.errors)}"


def _p99(seconds: list[float]) -> float:
    """Milliseconds within which 99 of 100 were done."""
    ordered = sorted(seconds)
    return 1000 * ordered[min(len(ordered) - 1, math.ceil(0.99 * len(ordered)) - 1)] if ordered else math.inf


async def _behave(target: Target, upstream: Upstream, child: Child, seconds: float) -> Good:
    """Create streams at a steady pace and read each to its end, at `target`."""
    good = Good()

    async def once(index: int) -> None:
        began, cpu = time.monotonic(), cpu_seconds(child.pid)
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                location = await target.create(f"{upstream.url}/events/{index}/{_EVENTS}")
                good.seconds.append(time.monotonic() - began)
                good.cpu.append(cpu_seconds(child.pid) - cpu)
                await target.read(location)
        except (BrokenRun, OSError, EOFError, TimeoutError) as error:
            good.errors.append(f"{type(error).__name__} {error}")

    async with asyncio.TaskGroup() as group:
        until = time.monotonic() + seconds
        index = 0
        while time.monotonic() < until:
            group.create_task(once(index))
            index += 1
            await asyncio.sleep(1 / _ANSWERS_A_SECOND)
    return good


def _proxy(port: int, upstream: Upstream, directory: Path) -> Child:
    names = str(Path(__file__).with_name("silent_names"))
    command = [
        sys.executable, "-m", "proxy", "--host", "127.0.0.1", "--port", str(port),
        "--data-dir", str(directory / "data"), "--allow", f"{upstream.url}/**", "--allow", "http://*.silent.test/**",
    ]  # fmt: skip
    environment = {"PROXY_SECRET": _SECRET, "PYTHONPATH": os.pathsep.join([names, os.getcwd()])}
    child = Child(command, directory, environment, PROXY_CORE)
    child.wait_for_port(port)
    return child


async def _run(seconds: float, adversaries: list[Adversary], say: Callable[[str], None]) -> bool:
    upstream = Upstream()
    await upstream.start()
    port = free_port()
    child = _proxy(port, upstream, Path(tempfile.mkdtemp(prefix="soak-")))
    try:
        target = Target(port, _SECRET, f"{upstream.url}/events/0/1")
        return await _measure(target, upstream, child, seconds, adversaries, say)
    finally:
        child.stop()
        await upstream.stop()


async def _measure(
    target: Target, upstream: Upstream, child: Child, seconds: float, adversaries: list[Adversary],
    say: Callable[[str], None],
) -> bool:  # fmt: skip
    say(f"baseline: a good client alone for {seconds:.0f} s")
    target.popular = await target.create(f"{upstream.url}/held/1000000")
    await _behave(target, upstream, child, seconds / 4)  # objects that are made once are made now
    alone = await _behave(target, upstream, child, seconds)
    memory = child.memory()
    say(f"  {alone.said()}, memory {memory / 2**20:.1f} MiB")
    for each in adversaries:
        say(f"with {each.count} {each.name}")
    with attacking(target, [each.name for each in adversaries]):
        beside = await _behave(target, upstream, child, 2 * seconds)
        peak = child.peak()
    say(f"  {beside.said()}, peak memory {peak / 2**20:.1f} MiB")
    for text in sorted(set(beside.errors))[:5]:
        say(f"    {text}")
    say(f"peace: memory must come back within {_PEACE_SECONDS:.0f} s")
    left = await _memory_back(child, memory + _MEMORY_BYTES)
    say(f"  memory {left / 2**20:.1f} MiB")
    checks = {
        f"create p99 within {_P99_RATIO:g} x its baseline": _p99(beside.seconds) <= _P99_RATIO * _p99(alone.seconds),
        "no error of the good client": not beside.errors and not alone.errors,
        "memory back to its baseline + 10 MiB": left <= memory + _MEMORY_BYTES,
    }
    for text, holds in checks.items():
        say(f"{'holds ' if holds else 'FAILS '} {text}")
    return all(checks.values())


async def _memory_back(child: Child, bound: int) -> int:
    until = time.monotonic() + _PEACE_SECONDS
    while child.memory() > bound and time.monotonic() < until:  # noqa: ASYNC110  # another process's memory has no event
        await asyncio.sleep(1)
    return child.memory()


def main(argv: list[str]) -> int:
    """0 when every bound holds, 1 when one does not, 2 when it cannot run."""
    if argv[:1] == ["simulation"]:
        return simulation.main(argv[1:])
    names = [each.name for each in ADVERSARIES]
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak", description=f"{__doc__} `simulation` runs the simulated fleet."
    )
    parser.add_argument(
        "--seconds", type=float, default=30.0, help="length of the baseline; the attack lasts twice that"
    )
    parser.add_argument("--only", action="append", choices=names, metavar="NAME", help=f"one of: {', '.join(names)}")
    arguments = parser.parse_args(argv)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard != resource.RLIM_INFINITY and hard < _NEEDED_DESCRIPTORS:
        print(f"soak: {_NEEDED_DESCRIPTORS} file descriptors are needed, ulimit -Hn says {hard}", file=sys.stderr)
        return 2
    for name, text in conditions(pin_self()).items():
        print(f"{name:>12}  {text}")
    chosen = [each for each in ADVERSARIES if not arguments.only or each.name in arguments.only]
    holds = asyncio.run(_run(arguments.seconds, chosen, lambda line: print(line, flush=True)))
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
