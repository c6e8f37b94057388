"""Storage and three instances as processes, and what is done to them."""

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from bench.fleet.caller import Caller, NoAnswer
from bench.fleet.way import Fault, Way
from bench.process import free_port

__all__ = ["LEASE_SECONDS", "Fleet", "Instance", "Storage"]

LEASE_SECONDS = 8
_SECRET = "soak-secret-that-is-longer-than-32-bytes"  # of this run's own proxies
_NPM = Path(__file__).parent.parent.parent / "tests"
_START_SECONDS = 30.0


class Storage:
    """A storage's process: `store`, the store of this package, or `npm`, the npm server in memory."""

    def __init__(self, kind: str, directory: Path) -> None:
        if kind == "npm":
            command, place = ["node", "kit/npm_server.mjs", "{}"], _NPM
        else:
            self.port = free_port()
            command, place = [sys.executable, "-m", "proxy", "store", "--port", str(self.port)], Path.cwd()
            command += ["--host", "127.0.0.1", "--data-dir", str(directory)]
        self._process = subprocess.Popen(
            command, cwd=place, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self._process.stdout is not None  # it was asked for
        while line := self._process.stdout.readline():
            if kind == "npm":
                self.port = int(json.loads(line)["url"].rpartition(":")[2])
                break
            if "running at" in line:
                break

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


class Instance:
    """One proxy behind its way to storage. `killed` and `disturbed` are times of the monotonic clock."""

    def __init__(self, number: int, way: Way, allowed: str, directory: Path) -> None:
        self.number = number
        self.way = way
        self.port = free_port()
        self.caller = Caller(self.port, _SECRET, number)
        self.starts = 0
        self.killed: list[float] = []
        self.disturbed: list[tuple[float, float]] = []  # from when to when it was frozen or its way did not work
        self.is_up = False
        self._allowed = allowed
        self._log = (directory / f"instance{number}.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None

    async def start(self) -> None:
        """Start, and wait until it answers. Raises RuntimeError."""
        command = [
            sys.executable, "-m", "proxy", "--host", "127.0.0.1", "--port", str(self.port),
            "--durable-streams-url", f"http://127.0.0.1:{self.way.port}", "--allow", self._allowed,
            "--lease-seconds", str(LEASE_SECONDS), "--drain-timeout-seconds", "0",
        ]  # fmt: skip
        self._process = await asyncio.to_thread(
            subprocess.Popen, command, env={**os.environ, "PROXY_SECRET": _SECRET}, stdout=self._log, stderr=self._log
        )
        self.starts += 1
        until = time.monotonic() + _START_SECONDS
        while time.monotonic() < until:
            with suppress(NoAnswer):
                if (await self.caller.ask("GET", "/health")).status == 200:
                    self.is_up = True
                    return
            await asyncio.sleep(0.05)
        raise RuntimeError(f"instance {self.number} did not start")

    def kill(self) -> None:
        """SIGKILL."""
        self.is_up = False
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self.killed.append(time.monotonic())

    async def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.is_up = False
        assert self._process is not None  # it was started
        self._process.terminate()
        return await asyncio.to_thread(self._process.wait)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self._process is not None  # it was started
        self._process.send_signal(number)

    def was_disturbed(self, since: float, until: float) -> bool:
        """Whether it was killed, frozen or cut off at any time of these."""
        return any(since <= at <= until for at in self.killed) or any(
            begin <= until and end >= since for begin, end in self.disturbed
        )


class Fleet:
    """Three instances on one storage, and what goes wrong with them."""

    def __init__(self, instances: list[Instance], dice: random.Random) -> None:
        self.instances = instances
        self.calm_since = time.monotonic()  # infinite while something is wrong
        self.faults: dict[str, int] = {}
        self._dice = dice

    @classmethod
    async def start(cls, storage: Storage, model_port: int, dice: random.Random) -> "Fleet":
        """Start all of them."""
        directory = Path(tempfile.mkdtemp(prefix="soak-fleet-"))
        instances = []
        for number in range(3):
            way = Way(storage.port, dice)
            await way.listen()
            instances.append(Instance(number, way, f"http://127.0.0.1:{model_port}/**", directory))
        await asyncio.gather(*(instance.start() for instance in instances))
        return cls(instances, dice)

    @property
    def is_calm(self) -> bool:
        """Whether nothing is wrong, and no mailbox waits at a connection any more that had gone deaf."""
        return time.monotonic() - self.calm_since > LEASE_SECONDS + 1.0

    def any_up(self, *, but: int = -1) -> Instance:
        """One that runs, if there is one."""
        found = [each for each in self.instances if each.is_up and each.number != but]
        return self._dice.choice(found or self.instances)

    async def disturb(self, seconds: float) -> None:
        """One fault after the other, with calm between, for so long."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            await asyncio.sleep(self._dice.uniform(6.0, 24.0))
            self.calm_since = float("inf")
            await self._one()
            self.calm_since = time.monotonic()

    async def _one(self) -> None:
        victim = self._dice.choice(self.instances)
        name = self._dice.choice(
            ["kill", "freeze", "stop", *(fault.name for fault in Fault if fault is not Fault.NONE)]
        )
        length = self._dice.choice([self._dice.uniform(0.5, 3.0), self._dice.uniform(3.0, 18.0)])
        self.faults[name] = self.faults.get(name, 0) + 1
        began = time.monotonic()
        if name == "kill":
            victim.kill()
            await asyncio.sleep(min(length, 5.0))
            await victim.start()
            return
        victim.disturbed.append((began, float("inf")))
        if name == "stop":
            await victim.stop()
            await victim.start()
        elif name == "freeze":
            victim.signal(signal.SIGSTOP)
            await asyncio.sleep(length)
            victim.signal(signal.SIGCONT)
        else:
            victim.way.fault(Fault[name])
            await asyncio.sleep(length)
            victim.way.fault(Fault.NONE)
        # Connections that went deaf, and requests that come late, count until they have been given up.
        victim.disturbed[-1] = (began, time.monotonic() + 2 * LEASE_SECONDS)

    async def aclose(self) -> None:
        """End everything."""
        for instance in self.instances:
            instance.kill()
            await instance.way.aclose()
