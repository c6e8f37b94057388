"""The way between each machine and storage, on which requests and answers are lost, late, repeated, or held for long.

A request is on its way by itself: it reaches storage also when its sender has given up, is frozen, or is dead.
"""

import asyncio
import random
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, replace

from proxy.http.body import BytesBody, read_all
from proxy.http.message import ExchangeError, Fault, Request, Response
from proxy.http.pipe import Budget, Pipe, PipeLimits
from proxy.wire.headers import Headers
from tests.simulation.storage import LONG_POLL_SECONDS, Live, ModelStorage

__all__ = ["CALM", "Link", "Network", "Weather"]

_SSE_SECONDS = 30.0  # that a response by SSE lasts
_LIMITS = PipeLimits(1 << 20, Budget(1 << 30))
_EVENT_STREAM = ((b"content-type", b"text/event-stream"), (b"stream-cursor", b"1"))


@dataclass(frozen=True)
class Weather:
    """What happens on the way: the share of requests that meet each fate, and times in seconds."""

    delay: float = 0.02  # at most, one way
    refused: float = 0.0  # answered 5xx or 429, not done
    lost: float = 0.0  # the connection is lost before the request is done
    unheard: float = 0.0  # done, but the answer is lost
    late: float = 0.0  # reaches storage long after its sender has given up
    twice: float = 0.0  # done, and done again later
    late_seconds: float = 30.0  # at most


CALM = Weather()


class Network:
    """All links to one storage."""

    def __init__(self, storage: ModelStorage, dice: random.Random, weather: Weather, world: Context) -> None:
        """`world`: the context in which the network runs, which belongs to no machine."""
        self.storage = storage
        self.dice = dice
        self.weather = weather
        self.world = world
        self.deaf_until = 0.0  # storage holds every request
        self.down_until = 0.0  # storage refuses connections
        self._loop = asyncio.get_running_loop()

    def later(self, seconds: float, work: Callable[[], object]) -> asyncio.TimerHandle:
        """Call `work` in the world's context."""
        return self._loop.call_later(seconds, work, context=self.world)

    def delay(self) -> float:
        """How long one way takes."""
        return self.dice.random() * self.weather.delay


class Link:
    """The way of one machine: a `Handler` for it."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._loop = asyncio.get_running_loop()
        self.deaf_until = 0.0  # requests and answers are held on the way
        self.cut_until = 0.0  # connections are refused
        self.sent = 0
        self.counted = 0  # of those sent, for who looks at the rate

    async def __call__(self, request: Request) -> Response:
        body = await read_all(request.body, 1 << 30)
        self.sent += 1
        copy = replace(request, body=BytesBody([body]))
        answer: asyncio.Future[Response] = self._loop.create_future()
        self._send(copy, body, answer)
        timer = self._loop.call_later(request.timeout or 3600.0, _fail, answer, Fault.TIMEOUT)
        try:
            return await answer
        finally:
            timer.cancel()

    def _send(self, request: Request, body: bytes, answer: "asyncio.Future[Response]") -> None:
        network, now = self._network, self._loop.time()
        if now < max(self.cut_until, network.down_until):
            network.later(network.delay(), lambda: _fail(answer, Fault.CONNECT, sent=False))
            return
        weather, dice = network.weather, network.dice
        held = max(self.deaf_until, network.deaf_until) - now
        if held > 0:
            if dice.random() < 0.7:  # the others are lost for good
                network.later(held + network.delay(), lambda: self._arrived(request, body, answer))
            return
        fate = dice.random()
        if (fate := fate - weather.refused) < 0:
            network.later(network.delay(), lambda: _answered(answer, _refusal(dice)))
        elif (fate := fate - weather.lost) < 0:
            network.later(network.delay(), lambda: _fail(answer, Fault.RESET))
        elif (fate := fate - weather.unheard) < 0:
            network.later(network.delay(), lambda: self._unheard(request, body, answer))
        elif fate < weather.late:
            network.later(dice.random() * weather.late_seconds, lambda: self._arrived(request, body, answer))
        else:
            network.later(network.delay(), lambda: self._arrived(request, body, answer))
            if weather.twice and request.method != b"GET" and dice.random() < weather.twice:
                seconds = dice.random() * weather.late_seconds
                network.later(seconds, lambda: network.storage.answer(request, body))

    def _unheard(self, request: Request, body: bytes, answer: "asyncio.Future[Response]") -> None:
        self._network.storage.answer(request, body)
        _fail(answer, Fault.RESET)

    def _arrived(self, request: Request, body: bytes, answer: "asyncio.Future[Response]") -> None:
        found = self._network.storage.answer(request, body)
        if isinstance(found, Response):
            self._reply(answer, found)
        elif found.is_events:
            self._follow(found, answer)
        else:
            self._poll(found, answer)

    def _back(self) -> float:
        """Seconds until an answer that leaves storage now is here."""
        network = self._network
        return max(network.delay(), self.deaf_until - self._loop.time())

    def _reply(self, answer: "asyncio.Future[Response]", response: Response) -> None:
        self._network.later(self._back(), lambda: _answered(answer, response))

    def _poll(self, live: Live, answer: "asyncio.Future[Response]") -> None:
        storage = self._network.storage

        def look() -> None:
            response = storage.poll_answer(live)
            if response is not None:
                give_up.cancel()
                stop()
                self._reply(answer, response)

        def over() -> None:
            stop()
            self._reply(answer, storage.nothing_new(live.path))

        give_up = self._network.later(LONG_POLL_SECONDS, over)
        stop = storage.on_change(live, look)

    def _follow(self, live: Live, answer: "asyncio.Future[Response]") -> None:
        storage, network = self._network.storage, self._network
        feed = _Feed()
        pipe = feed.pipe = Pipe(feed, _LIMITS)
        arrives = self._loop.time()

        def look() -> None:
            nonlocal arrives
            events, is_last = storage.events(live)
            arrives = max(arrives + 1e-6, self._loop.time() + self._back())  # in order
            network.later(arrives - self._loop.time(), lambda: feed.events(events, is_last=is_last))
            if is_last:
                stop()

        stop = storage.on_change(live, look)
        feed.stop = stop
        network.later(_SSE_SECONDS, feed.over)
        self._reply(answer, Response(200, Headers(_EVENT_STREAM), pipe))
        look()


class _Feed:
    """The source of a live response's body."""

    pipe: Pipe
    stop: Callable[[], None]

    def events(self, events: bytes, *, is_last: bool) -> None:
        """Events arrive."""
        if events:
            self.pipe.feed([events])
        if is_last:
            self.pipe.end()

    def over(self) -> None:
        """The response has lasted long enough: its reader asks again."""
        self.stop()
        self.pipe.end()

    def pause(self) -> None:
        """See Source."""

    def resume(self) -> None:
        """See Source."""

    def body_cut(self) -> None:
        """See Source."""
        self.stop()


def _refusal(dice: random.Random) -> Response:
    if dice.random() < 0.3:
        return Response(429, Headers([(b"retry-after", b"1")]))
    return Response(dice.choice((500, 502, 503)), Headers())


def _answered(answer: "asyncio.Future[Response]", response: Response) -> None:
    if answer.done():
        response.body.close()
    else:
        answer.set_result(response)


def _fail(answer: "asyncio.Future[Response]", fault: Fault, *, sent: bool = True) -> None:
    if not answer.done():
        answer.set_exception(ExchangeError(fault, sent=sent))
