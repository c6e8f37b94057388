"""What leaving early does: to the connection, to the upstream call, to what is remembered."""

import asyncio
import gc
import threading
import warnings
from collections.abc import Callable

import anyio
import httpx2
import pytest

from proxy.client import (
    AsyncDurableResponse,
    IncompleteStream,
    NetworkError,
    Outcome,
    ProxyError,
    Timeouts,
    create_abort,
    create_async_abort,
    create_async_durable_fetch,
    create_durable_fetch,
)
from proxy.client.httpx2 import DurableTransport
from tests.client.conftest import QUICK, Connect
from tests.client.drivers import Driver
from tests.client.scripted_proxy import ScriptedProxy, error_answer
from tests.client.test_isolation import python

DONE = b'data: {"x": 1}\n\ndata: [DONE]\n\n'


@pytest.mark.parametrize(
    ("on_close", "request_id", "aborts"),
    [
        ("auto", None, True),
        ("auto", "turn", False),
        ("abort", None, True),
        ("abort", "turn", True),
        ("detach", None, False),
        ("detach", "turn", False),
    ],
)
def test_closing_early_aborts_as_chosen(
    proxy: ScriptedProxy, connect: Connect, on_close: str, request_id: str | None, aborts: bool
) -> None:
    stream = proxy.stream(b"hello", outcome=None)
    fetch = connect(on_close=on_close)
    response = fetch(request_id=request_id)
    assert response.take(5) == b"hello"
    response.close()
    response.close()
    fetch.close()
    assert proxy.aborts == ([stream.id] if aborts else [])


@pytest.mark.parametrize(
    ("on_close", "request_id", "aborts"),
    [("auto", None, True), ("auto", "turn", False), ("abort", "turn", True), ("detach", None, False)],
)
def test_closing_the_fetch_closes_what_was_left_open_in_it(
    proxy: ScriptedProxy, connect: Connect, on_close: str, request_id: str | None, aborts: bool
) -> None:
    stream = proxy.stream(b"hello", outcome=None)
    fetch = connect(on_close=on_close)
    response = fetch(request_id=request_id)
    assert response.take(5) == b"hello"
    fetch.close()
    assert proxy.aborts == ([stream.id] if aborts else [])


def test_what_has_been_read_is_there_after_the_fetch_was_closed(proxy: ScriptedProxy) -> None:
    proxy.answers.append(error_answer(502, "x", message="own words", headers={"Upstream-Status": "429"}))
    proxy.stream(b"hello")
    fetch = create_durable_fetch(proxy.url, proxy_authorization=proxy.secret)
    refused, whole = fetch("http://upstream.test/"), fetch("http://upstream.test/")
    assert whole.read() == b"hello"
    fetch.close()
    assert b"own words" in refused.read()
    assert list(whole.iter_bytes()) == []


def test_what_was_detached_can_be_resumed_and_what_was_aborted_is_forgotten(
    proxy: ScriptedProxy, connect: Connect
) -> None:
    for on_close, resumable in (("detach", True), ("abort", False)):
        proxy.stream(b"hello", outcome=None)
        fetch = connect(on_close=on_close)
        fetch(request_id="turn").close()
        assert (fetch.resume("turn") is not None) is resumable


@pytest.mark.parametrize("on_close", ["auto", "abort"])
@pytest.mark.parametrize("parts", [[DONE], [DONE[:20], DONE[20:]], [DONE + b"\n"], [b"data:[DONE]\r\n\r\n"]])
def test_who_has_seen_done_has_seen_all_and_nothing_is_aborted(
    proxy: ScriptedProxy, connect: Connect, on_close: str, parts: list[bytes]
) -> None:
    proxy.stream(*parts, outcome=None)
    fetch = connect(on_close=on_close)
    response = fetch(request_id="turn")
    assert response.take(len(b"".join(parts))) == b"".join(parts)
    response.close()
    assert fetch.resume("turn") is None
    fetch.close()
    assert proxy.aborts == []


def test_a_whole_answer_is_not_aborted_by_its_close(proxy: ScriptedProxy, connect: Connect) -> None:
    proxy.stream(b"hello")
    fetch = connect(on_close="abort")
    response = fetch()
    assert response.read() == b"hello"
    response.close()
    fetch.close()
    assert proxy.aborts == []


def test_an_incomplete_answer_is_not_aborted_by_its_close(proxy: ScriptedProxy, connect: Connect) -> None:
    proxy.stream(b"hello", outcome="truncated")
    fetch = connect()
    response = fetch()
    with pytest.raises(IncompleteStream):
        response.read()
    response.close()
    fetch.close()
    assert proxy.aborts == []


@pytest.mark.parametrize(
    ("on_close", "request_id", "aborts"),
    [
        ("auto", None, True),
        ("auto", "turn", False),
        ("abort", None, True),
        ("abort", "turn", True),
        ("detach", None, False),
    ],
)
def test_a_close_after_a_read_that_failed_aborts_as_chosen(
    proxy: ScriptedProxy, connect: Connect, on_close: str, request_id: str | None, aborts: bool
) -> None:
    stream = proxy.stream(b"hello", outcome=None)
    fetch = connect(on_close=on_close, timeouts=Timeouts(data=0.05))
    response = fetch(request_id=request_id)
    assert response.take(5) == b"hello"
    with pytest.raises(NetworkError):
        list(response.pieces())
    assert proxy.aborts == []
    response.close()
    response.close()
    assert (fetch.resume("turn") is not None) is (request_id is not None and not aborts)
    fetch.close()
    assert proxy.aborts == ([stream.id] if aborts else [])


def test_a_close_after_a_network_failure_is_quiet_when_the_abort_fails_too(
    proxy: ScriptedProxy, connect: Connect
) -> None:
    proxy.stream(b"hello", outcome=None)
    fetch = connect()
    response = fetch()
    assert response.take(5) == b"hello"
    proxy.answers += [b""] * 20
    proxy.refuse()
    with pytest.raises(NetworkError):
        list(response.pieces())
    response.close()
    fetch.close()
    assert proxy.aborts == []


def test_an_abort_of_ours_ends_the_stream_as_aborted(proxy: ScriptedProxy, fetch: Driver) -> None:
    stream = proxy.stream(b"hello", outcome=None)
    response = fetch()
    assert response.take(5) == b"hello"
    response.abort()
    response.abort()
    assert proxy.aborts == [stream.id] * 2
    with pytest.raises(IncompleteStream) as raised:
        list(response.pieces())
    assert raised.value.outcome is Outcome.ABORTED


def test_an_abort_that_is_refused_or_unanswered_raises(proxy: ScriptedProxy, fetch: Driver) -> None:
    proxy.stream(b"hello", outcome=None)
    response = fetch()
    proxy.answers.append(error_answer(401, "SIGNATURE_EXPIRED"))
    with pytest.raises(ProxyError, match="SIGNATURE_EXPIRED"):
        response.abort()
    proxy.refuse()
    with pytest.raises(NetworkError):
        response.abort()


def test_create_abort_needs_nothing_but_the_streams_url(proxy: ScriptedProxy, fetch: Driver) -> None:
    stream = proxy.stream(b"hello", outcome=None)
    url = fetch().stream_url
    assert url is not None
    create_abort(url)()
    asyncio.run(create_async_abort(url)())  # type: ignore[arg-type]  # it is a coroutine, declared as an Awaitable
    assert proxy.aborts == [stream.id] * 2
    del proxy.streams[stream.id]
    create_abort(url)()  # gone is as good as aborted


@pytest.mark.parametrize("url", ["", "/v1/proxy/x?signature=s", "ftp://a/b"])
def test_create_abort_refuses_a_url_that_is_not_absolute(url: str) -> None:
    with pytest.raises(ValueError, match="absolute"):
        create_abort(url)


def test_nothing_can_be_read_after_a_close_and_nothing_ends_quietly(proxy: ScriptedProxy, fetch: Driver) -> None:
    proxy.stream(b"hello", outcome=None)
    response = fetch(request_id="turn")
    assert response.take(5) == b"hello"
    response.close()
    for _ in range(2):
        with pytest.raises(RuntimeError, match="closed"):
            list(response.pieces())


def test_an_error_is_raised_again_and_never_followed_by_a_quiet_end(proxy: ScriptedProxy, fetch: Driver) -> None:
    proxy.stream(b"hello", outcome="timeout")
    response = fetch()
    for _ in range(3):
        with pytest.raises(IncompleteStream):
            response.read()


def test_leaving_a_loop_loses_nothing(proxy: ScriptedProxy, fetch: Driver) -> None:
    stream = proxy.stream(b"a", outcome=None)
    response = fetch()
    assert next(response.pieces()) == b"a"
    gc.collect()
    proxy.append(stream, b"b")
    assert next(response.pieces()) == b"b"
    proxy.close(stream, "complete", b"c")
    assert response.read() == b"c"


def dropped(make: Callable[[], object]) -> list[str]:
    """The warnings about responses that `make` drops."""
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make()
        gc.collect()
    return [str(each.message) for each in caught if "Response" in str(each.message)]


def test_a_response_that_is_dropped_does_not_block_aborts_nothing_and_is_warned_about(proxy: ScriptedProxy) -> None:
    proxy.stream(b"hello", outcome=None)
    with create_durable_fetch(proxy.url, proxy_authorization=proxy.secret) as fetch:

        def drop() -> None:
            assert next(iter(fetch("http://upstream.test/").iter_bytes())) == b"hello"
            proxy.answers.append(b"")  # a request sent now would wait

        (warning,) = dropped(drop)
    assert proxy.aborts == []
    assert "upstream call goes on" in warning
    assert "SIGNATURE" not in warning


def test_a_response_that_was_never_read_is_warned_about_whichever_kind_it_is(
    proxy: ScriptedProxy, connect: Connect
) -> None:
    proxy.stream(b"hello", outcome=None)
    fetch = connect()
    assert len(dropped(fetch)) == 1


def test_a_response_that_an_sdks_client_drops_is_warned_about(proxy: ScriptedProxy) -> None:
    proxy.stream(b"hello", outcome=None)
    transport = DurableTransport(proxy.url, proxy_authorization=proxy.secret)
    with httpx2.Client(transport=transport) as client:
        request = client.build_request("POST", "http://upstream.test/")
        assert len(dropped(lambda: client.send(request, stream=True))) == 1


@pytest.mark.parametrize("end", ["read", "close", "incomplete", "gone", "refused", "closed with its fetch"])
def test_a_response_that_is_over_is_dropped_without_a_warning(proxy: ScriptedProxy, connect: Connect, end: str) -> None:
    stream = proxy.stream(b"hello", outcome="truncated" if end == "incomplete" else "complete")
    fetch = connect()

    def use() -> None:
        response = fetch(request_id="turn")
        if end == "read":
            assert response.read() == b"hello"
        elif end == "close":
            response.close()
        elif end == "incomplete":
            with pytest.raises(IncompleteStream):
                response.read()
        elif end == "closed with its fetch":
            fetch.close()
        else:
            response.close()
            if end == "gone":
                del proxy.streams[stream.id]
                assert fetch.resume("turn") is None
            else:
                proxy.answers.append(error_answer(403, "SOME_CODE"))
                with pytest.raises(ProxyError):
                    fetch.resume("turn")

    assert dropped(use) == []


def test_a_call_that_is_cancelled_while_it_resumes_drops_nothing_that_could_be_closed(proxy: ScriptedProxy) -> None:
    proxy.stream(b"hello", outcome=None)

    async def work() -> None:
        async with async_fetch(proxy) as fetch:
            await (await fetch("http://upstream.test/", request_id="turn")).aclose()
            proxy.answers.append(b"")  # says nothing
            proxy.reading.clear()
            task = asyncio.create_task(fetch("http://upstream.test/", request_id="turn"))
            assert await asyncio.to_thread(proxy.reading.wait, 5)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    assert dropped(lambda: asyncio.run(work())) == []


ENDING = """
import sys
from proxy.client import create_durable_fetch
fetch = create_durable_fetch(sys.argv[1], proxy_authorization=sys.argv[2])
def events():
    response = fetch("http://upstream.test/")
    try:
        yield from response.iter_bytes()
    finally:
        response.close()
stream = events()
print(next(stream).decode())
"""


def test_a_stream_that_is_still_open_when_the_interpreter_ends_does_not_hold_it_up(proxy: ScriptedProxy) -> None:
    proxy.stream(b"hello", outcome=None)
    assert python(ENDING, proxy.url, proxy.secret) == "hello\n"


def test_a_close_does_not_wait_for_the_abort_but_closing_the_fetch_does(proxy: ScriptedProxy) -> None:
    stream = proxy.stream(b"hello", outcome=None)
    fetch = create_durable_fetch(proxy.url, proxy_authorization=proxy.secret)
    response = fetch("http://upstream.test/")
    assert next(response.iter_bytes()) == b"hello"
    answered = threading.Event()

    def late(_: object) -> bytes:
        proxy.aborts.append(stream.id)
        answered.set()
        return b"HTTP/1.1 204 x\r\n\r\n"

    proxy.answers.append(late)
    response.close()
    fetch.close()
    assert answered.is_set()


# Cancellation


def async_fetch(proxy: ScriptedProxy):  # type: ignore[no-untyped-def]  # the type is the function's own
    return create_async_durable_fetch(proxy.url, proxy_authorization=proxy.secret, retry=QUICK)


async def first_piece(response: AsyncDurableResponse) -> bytes:
    return await anext(response.iter_bytes())


async def test_a_cancelled_wait_for_a_piece_loses_nothing(proxy: ScriptedProxy) -> None:
    async with async_fetch(proxy) as fetch:
        stream = proxy.stream(b"a", outcome=None)
        async with await fetch("http://upstream.test/") as response:
            assert await first_piece(response) == b"a"
            for append in (b"b", b"c"):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(first_piece(response), 0.02)
                await asyncio.to_thread(proxy.append, stream, append)
                assert await first_piece(response) == append
            await asyncio.to_thread(proxy.close, stream)
            assert await response.read() == b""


async def test_a_cancelled_reader_closes_its_connection_and_aborts_when_nobody_can_resume(proxy: ScriptedProxy) -> None:
    stream = proxy.stream(b"a", outcome=None)
    began = asyncio.Event()

    async def work() -> None:
        async with async_fetch(proxy) as fetch, await fetch("http://upstream.test/") as response:
            async for _ in response.iter_bytes():
                began.set()

    task = asyncio.create_task(work())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert proxy.aborts == [stream.id]


async def test_an_abort_that_is_itself_cancelled_is_sent_all_the_same(proxy: ScriptedProxy) -> None:
    stream = proxy.stream(b"a", outcome=None)
    async with async_fetch(proxy) as fetch:
        response = await fetch("http://upstream.test/")
        assert await first_piece(response) == b"a"
        with anyio.CancelScope() as scope:  # as a server's, whose client has gone: it cancels every await
            scope.cancel()
            await response.aclose()
        assert scope.cancelled_caught
        assert await asyncio.to_thread(proxy.aborted.wait, 5)
    assert proxy.aborts == [stream.id]


async def test_a_call_cancelled_before_its_answer_leaves_no_connection(proxy: ScriptedProxy) -> None:
    proxy.answers.append(b"")
    async with async_fetch(proxy) as fetch:
        task = asyncio.create_task(fetch("http://upstream.test/"))
        assert await asyncio.to_thread(proxy.asked.wait, 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await asyncio.to_thread(proxy.wait_no_connections)
