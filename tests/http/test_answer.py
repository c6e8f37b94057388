"""One answer, without a connection: what an outlet of any HTTP version is asked to do, and that bodies are closed."""

import asyncio
from collections.abc import Iterable

import pytest

from proxy.base.errors import Code, Refusal
from proxy.http.answer import Answer, InvitedBody, Service
from proxy.http.body import Body, BodyError, BytesBody, Cut
from proxy.http.message import Handler, Request, Response
from proxy.http.pipe import Budget, PipeLimits
from proxy.wire.events import Buffer
from proxy.wire.headers import Headers
from tests.http.kit import refuse
from tests.kit.bodies import Silent, Tap, fed_pipe


class Recorder:
    """An outlet that writes down what it is asked to do; `full` holds it back, `is_gone` is a client that has left."""

    def __init__(self, *, is_full: bool = False, is_gone: bool = False) -> None:
        self.calls: list[object] = []
        self.is_full = is_full
        self._is_gone = is_gone

    def begin(self, response: Response) -> None:
        self.calls.append(response.status)

    def send(self, parts: Iterable[Buffer]) -> None:
        self.calls.append(b"".join(parts))

    def end(self) -> None:
        self.calls.append("end")

    async def drained(self) -> None:
        self.calls.append("drained")
        if self._is_gone:
            raise ConnectionResetError

    def done(self, *, is_whole: bool) -> None:
        self.calls.append("whole" if is_whole else "broken")


def answering(body: Body, status: int = 200) -> Handler:
    async def handler(_: Request) -> Response:
        return Response(status, Headers(), body)

    return handler


def ask(method: bytes = b"GET", body: Body | None = None) -> Request:
    return Request(method, b"/", Headers(), body or BytesBody())


async def run(handler: Handler, outlet: Recorder, request: Request | None = None) -> list[object]:
    await Answer(Service(handler, refuse), outlet, request or ask()).run()
    return outlet.calls


@pytest.mark.parametrize(
    ("body", "calls"),
    [
        (lambda: BytesBody([b"a", b"b"]), [200, b"ab", "end", "whole"]),
        (lambda: fed_pipe(b"ab", length=2), [200, b"ab", "end", "whole"]),
        (lambda: fed_pipe(b"ab"), [200, b"", b"ab", "end", "whole"]),
        (lambda: fed_pipe(b"ab", cut=Cut.RESET), [200, b"", b"ab", "broken"]),
        (lambda: fed_pipe(length=2, cut=Cut.RESET), [200, "broken"]),
    ],
    ids=["in memory", "of known length", "of unknown length", "cut", "cut before its first byte"],
)
async def test_a_response_goes_out_in_order(body: object, calls: list[object]) -> None:
    assert callable(body)
    assert await run(answering(body()), Recorder()) == calls


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
async def test_what_has_no_body_sends_none_and_closes_it(method: bytes, status: int) -> None:
    tap = Tap()
    calls = await run(answering(tap.body, status), Recorder(), ask(method))
    assert calls == [status, "end", "whole"]
    assert tap.is_cut


async def test_a_full_outlet_is_waited_for_before_more_is_taken() -> None:
    calls = await run(answering(fed_pipe(b"ab")), Recorder(is_full=True))
    assert calls == [200, b"", "drained", b"ab", "drained", "end", "drained", "whole"]


async def test_a_client_that_is_gone_ends_the_body() -> None:
    tap = Tap()
    tap.feed(b"ab")
    assert (await run(answering(tap.body), Recorder(is_full=True, is_gone=True)))[-1] == "broken"
    assert tap.is_cut


async def test_a_refusal_in_between_takes_the_place_of_the_handlers_response() -> None:
    tap, outlet = Tap(), Recorder()

    async def handler(_: Request) -> Response:
        answer.refuse(Refusal(Code.BAD_REQUEST, "broken framing"))
        return Response(201, Headers(), tap.body)

    answer = Answer(Service(handler, refuse), outlet, ask())
    await answer.run()
    assert outlet.calls == [400, b"BAD_REQUEST", "end", "whole"]
    assert tap.is_cut


async def test_a_request_that_could_not_be_read_is_refused_without_asking_the_handler() -> None:
    outlet = Recorder()
    answer = Answer(Service(answering(BytesBody()), refuse), outlet, None)
    answer.refuse(Refusal(Code.HEAD_TOO_LARGE, "the head is too large"))
    await answer.run()
    assert outlet.calls == [431, b"HEAD_TOO_LARGE", "end", "whole"]


@pytest.mark.parametrize("is_answered", [False, True])
async def test_a_cancelled_answer_closes_both_bodies_and_tells_its_outlet(is_answered: bool) -> None:
    sent, received, outlet = Tap(), Tap(), Recorder()
    reached = asyncio.Event()

    async def handler(_: Request) -> Response:
        reached.set()
        if not is_answered:
            await asyncio.Event().wait()
        return Response(200, Headers(), sent.body)

    task = asyncio.ensure_future(run(handler, outlet, ask(b"POST", received.body)))
    await reached.wait()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert outlet.calls[-1] == "broken"
    assert received.is_cut
    assert sent.is_cut == is_answered


async def test_a_body_invites_its_sender_once_and_never_after_it_was_closed() -> None:
    invitations: list[None] = []
    limits = PipeLimits(1 << 10, Budget(1 << 20))

    def invite() -> None:
        invitations.append(None)
        body.feed([b"sent"])

    body = InvitedBody(Silent(), limits, None, invite)
    assert await body.take() == (b"sent",)
    body.end()
    assert await body.take() == ()
    assert len(invitations) == 1
    body = InvitedBody(Silent(), limits, None, invite)
    body.close()
    with pytest.raises(BodyError):
        await body.take()
    assert len(invitations) == 1
