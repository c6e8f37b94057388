"""Instances of the simulation: each a whole `App` on a machine of its own, with the network and the upstream beside."""

import asyncio
import random
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from proxy.app import App
from proxy.config import Config
from proxy.http.body import BodyError
from proxy.http.message import Handler, Request
from proxy.http.pipe import Budget
from proxy.net.client_tls import ClientContexts
from proxy.wire.headers import Field, Headers
from tests.simulation.loop import Life, Machine, MachineLoop
from tests.simulation.network import Link, Network
from tests.simulation.upstream import Upstream

__all__ = ["CONFIG", "Answer", "Instance", "repeatable"]

_SECRET = "a secret of the simulation: nobody has it"
_AUTHORIZATION: Field = (b"authorization", b"Bearer " + _SECRET.encode())
_BUDGET_BYTES = 1 << 20
_FLUSH_SECONDS = 3.0
_TLS = ClientContexts("", ())

CONFIG = Config.of(
    durable_streams_url="http://127.0.0.1:1/v1/streams/",
    allowlist=("http://upstream.test/**",),
    upstream_timeout_seconds=15.0,
    append_budget_seconds=12.0,
    flush_timeout_seconds=_FLUSH_SECONDS,
    sweep_seconds=5.0,
)


@dataclass
class Answer:
    """What a client got: the head, and as much of the body as came. `is_whole`: the body ended by itself."""

    status: int
    headers: Headers
    body: bytearray = field(default_factory=bytearray)
    is_whole: bool = False

    def __getitem__(self, name: str) -> str | None:
        value = self.headers.get(name.lower().encode())
        return None if value is None else value.decode("latin-1")


class _PoolStub:
    """As much of a pool as an app uses: every origin is one Handler."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def at(self, _: object) -> Handler:
        """The origin, whatever its address."""
        return self._handler

    async def aclose(self) -> None:
        """There are no sockets."""


class Instance(Machine):
    """One process: an app that runs from when this is made until it is killed or stopped."""

    def __init__(self, number: int, network: Network, upstream: Upstream) -> None:
        super().__init__(number)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, MachineLoop)
        self._loop = loop
        self.link = Link(network)
        self.budget = Budget(_BUDGET_BYTES)
        self.began = loop.time()
        self.takes_requests = True
        self.gone: asyncio.Future[None] = loop.create_future()
        self._exchanges: set[asyncio.Task[Any]] = set()
        pools = SimpleNamespace(upstream=_PoolStub(upstream.of(self, self.budget)), storage=_PoolStub(self.link))
        with patch("proxy.app._pools", lambda *_: pools), patch("proxy.app._tls", lambda _: _TLS):
            self.app: App = self.context.run(App, CONFIG, (_SECRET,))
        self.context.run(self.app.open)

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = self._loop.create_task(work, context=self.context)
        self._exchanges.add(task)
        task.add_done_callback(self._exchanges.discard)
        return task

    async def ask(self, method: str, target: str, fields: Sequence[Field] = (), *, patience: float) -> Answer | None:
        """Send a request and take what comes for `patience` seconds; None when no head came."""
        request = Request(method.encode(), target.encode(), Headers([_AUTHORIZATION, *fields]))
        got: list[Answer] = []
        if self.life is Life.DEAD:
            return None
        task = self._start(self._exchange(request, got))
        await asyncio.wait({task, self.gone}, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
        elif not task.cancelled():
            task.result()
        return got[0] if got else None

    async def _exchange(self, request: Request, got: list[Answer]) -> None:
        response = await self.app.router(request)
        answer = Answer(response.status, response.headers)
        got.append(answer)
        try:
            with suppress(BodyError):
                while parts := await response.body.take():
                    answer.body += b"".join(parts)
                answer.is_whole = True
        finally:
            response.body.close()

    def freeze(self) -> None:
        """SIGSTOP."""
        self._loop.freeze(self)

    def thaw(self) -> None:
        """SIGCONT; nothing when it is not stopped."""
        if self.life is Life.FROZEN:
            self._loop.thaw(self)

    def kill(self) -> None:
        """SIGKILL: its connections are closed, and nothing of it runs any more."""
        self._loop.kill(self)
        self.takes_requests = False
        if not self.gone.done():
            self.gone.set_result(None)

    async def stop(self) -> None:
        """SIGTERM, with no time to drain."""
        self.takes_requests = False
        task = self._loop.create_task(self._stop(), context=self.context)
        await asyncio.wait({task, self.gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()

    async def _stop(self) -> None:
        await self.app.end_transfers()
        for task in self._exchanges:
            task.cancel()
        await self.app.aclose()
        self.kill()


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """A block in which all that is random follows from `seed`: jitter, ids, names. The time of day stands still."""
    dice = random.Random(seed)
    random.seed(seed)
    now = time.time()
    with (
        patch("os.urandom", dice.randbytes),
        patch("random._urandom", dice.randbytes),
        patch("time.time", lambda: now),
    ):
        yield
