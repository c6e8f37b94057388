"""Wrappers of a `Handler`, for tests that run storage or an upstream in-process: record, fail, hold back.

Each is itself a `Handler`; wrap one in the other.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from proxy.http.body import BodyError, BytesBody, read_all
from proxy.http.message import ExchangeError, Fault, Handler, Request, Response
from proxy.wire.headers import Headers

__all__ = ["Failing", "Recorded", "Recording", "Slow", "answer", "bug", "lost"]

Failure = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True)
class Recorded:
    """A request that went through, its complete body (b"" if it was cut) and the response's status (None: none)."""

    method: str
    target: str
    headers: Headers
    body: bytes
    status: int | None


class Recording:
    """Keeps every request in `seen`, in the order of the responses. Reads each body completely before `inner` runs."""

    def __init__(self, inner: Handler, *, max_bytes: int = 1 << 28) -> None:
        self._inner = inner
        self._max_bytes = max_bytes
        self.seen: list[Recorded] = []

    async def __call__(self, request: Request) -> Response:
        try:
            body = await read_all(request.body, self._max_bytes)
        except BodyError:
            body = b""
        status = None
        try:
            response = await self._inner(
                Request(request.method, request.target, request.headers, BytesBody([body]), request.timeout)
            )
            status = response.status
            return response
        finally:
            target = request.target.decode("latin-1")
            self.seen.append(Recorded(request.method.decode(), target, request.headers, body, status))


def answer(status: int, *fields: tuple[bytes, bytes], body: bytes = b"") -> Failure:
    """A fault that answers in the inner handler's place."""

    async def fault(_: Request) -> Response:
        return Response(status, Headers(fields), BytesBody([body]))

    return fault


def bug() -> Failure:
    """A fault that raises RuntimeError, as a bug in a handler would."""

    async def fault(_: Request) -> Response:
        raise RuntimeError("a fault of ours")

    return fault


def lost(fault: Fault = Fault.RESET, *, sent: bool = True) -> Failure:
    """A fault that raises ExchangeError: no response came."""

    async def fail(_: Request) -> Response:
        raise ExchangeError(fault, sent=sent)

    return fail


class Failing:
    """Answers each request that `when` accepts with the next queued fault; passes other requests on.

    With `after=True` the inner handler has handled the request before its answer is replaced: a lost answer.
    """

    def __init__(self, inner: Handler, *, when: Callable[[Request], bool] = lambda _: True) -> None:
        self._inner = inner
        self._when = when
        self._faults: list[tuple[Failure, bool]] = []
        self.always: Failure | None = None  # when the queue is empty
        self.met = 0

    def then(self, fault: Failure, *, times: int = 1, after: bool = False) -> "Failing":
        """Queue `fault` for the next `times` requests."""
        self._faults += [(fault, after)] * times
        return self

    async def __call__(self, request: Request) -> Response:
        if not self._when(request):
            return await self._inner(request)
        if not self._faults and self.always is None:
            return await self._inner(request)
        fault, after = self._faults.pop(0) if self._faults else (self.always, False)
        assert fault is not None
        self.met += 1
        if after:
            response = await self._inner(request)
            await read_all(response.body, 1 << 28)
        return await fault(request)


class Slow:
    """Holds requests that `when` accepts until `release`. `waiting` counts them; the first one sets `arrived`."""

    def __init__(self, inner: Handler, *, when: Callable[[Request], bool] = lambda _: True) -> None:
        self._inner = inner
        self._when = when
        self._gate = asyncio.Semaphore(0)
        self._open = False
        self.arrived = asyncio.Event()
        self.waiting = 0

    def release(self, count: int = 1) -> None:
        """Let `count` requests pass, whether they wait now or come later."""
        for _ in range(count):
            self._gate.release()

    def open(self) -> None:
        """Let everything pass from now on."""
        self._open = True
        self.release(self.waiting)

    async def __call__(self, request: Request) -> Response:
        if self._when(request) and not self._open:
            self.waiting += 1
            self.arrived.set()
            try:
                await self._gate.acquire()
            finally:
                self.waiting -= 1
        return await self._inner(request)
