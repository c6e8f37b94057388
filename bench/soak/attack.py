"""Adversaries in a process of their own: what the good client waits for is the proxy, not the load beside it."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict

from bench.soak.adversaries import ADVERSARIES
from bench.soak.target import Target

__all__ = ["attacking"]

_NICENESS = 10  # the good client and the upstream are on the same core, and must not wait for it


@contextmanager
def attacking(target: Target, names: Sequence[str]) -> Iterator[None]:
    """Let the adversaries called `names` misuse `target` until the block ends. Raises RuntimeError if they ended."""
    plan = json.dumps({"target": asdict(target), "names": names})
    process = subprocess.Popen([sys.executable, "-m", "bench.soak.attack"], stdin=subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(plan.encode() + b"\n")
    process.stdin.flush()
    try:
        yield
        if process.poll() is not None:
            raise RuntimeError("the adversaries did not last")
    finally:
        process.kill()
        process.wait()
        process.stdin.close()


async def _attack(target: Target, names: Sequence[str]) -> None:
    async with asyncio.TaskGroup() as group:
        for each in ADVERSARIES:
            if each.name in names:
                group.create_task(each.run(target))


def main() -> None:
    """Read the plan from stdin, then misuse until killed, or until stdin ends with the process that wrote it."""
    os.nice(_NICENESS)
    plan = json.loads(sys.stdin.readline())
    with suppress(KeyboardInterrupt):
        asyncio.run(_attack(Target(**plan["target"]), plan["names"]))


if __name__ == "__main__":
    main()
