"""A process that was stopped for a while (SIGSTOP, a frozen machine) looks at its sockets before it judges them."""

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from proxy.http.body import BodyError, BodyWrapper, TimeoutBody, read_all
from proxy.http.message import ExchangeError, Fault
from proxy.http.pipe import Pipe
from proxy.wire.events import Buffer
from tests.http.kit import echo, get, pooling, serving
from tests.http.test_server import GET
from tests.kit.bodies import fed_pipe
from tests.kit.loop_peers import OK, Peer, origin, request_of
from tests.kit.peers import RawClient
from tests.kit.proxy_process import ProxyProcess
from tests.kit.waiting import until


def _put(peer: Peer, data: bytes) -> None:
    """Into the socket, in this turn of the loop."""
    assert os.write(peer.writer.get_extra_info("socket").fileno(), data) == len(data)


def test_requests_that_came_while_the_process_was_stopped_are_answered(tmp_path: Path) -> None:
    args = ["--data-dir", str(tmp_path), "--allow", "http://upstream.test/**", "--idle-timeout-seconds", "0.5"]
    health = b"GET /health HTTP/1.1\r\nHost: h\r\n\r\n"
    with ProxyProcess(args) as proxy:
        clients = [RawClient(proxy.url) for _ in range(10)]
        for client in clients:
            client.send(health)
            assert client.response().status == 200
        time.sleep(0.1)  # by then its loop waits for its sockets
        proxy.signal(signal.SIGSTOP)
        for client in clients:
            client.send(health)
        time.sleep(1.7)  # longer than the time-out and the pause between two sweeps
        proxy.signal(signal.SIGCONT)
        assert [client.response().status for client in clients] == [200] * 10
        for client in clients:
            client.close()


@pytest.mark.parametrize("is_late", [True, False])
async def test_a_late_sweep_reads_a_request_before_it_closes_the_connection(is_late: bool) -> None:
    async with serving(echo) as served:
        peer = await served.connect()
        await until(lambda: len(served.server.connections) == 1)
        _put(peer, GET % b"a")
        server = served.server
        server.judge(list(server.connections), asyncio.get_running_loop().time() + 1000, is_late=is_late)
        if is_late:
            assert (await peer.response()).body == b"/a "
        else:
            with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
                await peer.response()


@pytest.mark.parametrize("is_late", [True, False])
async def test_a_late_sweep_reads_a_response_before_it_gives_it_up(is_late: bool) -> None:
    async def script(peer: Peer) -> None:
        await request_of(peer)
        asked.set()
        await peer.rest()

    asked = asyncio.Event()
    async with origin(script) as (served, address), pooling() as pool:
        asking = asyncio.ensure_future(pool.at(address)(get()))
        await asked.wait()
        _put(served.peers[0], OK)
        pool.judge(asyncio.get_running_loop().time() + 1000, is_late=is_late)
        if is_late:
            assert await read_all((await asking).body, 100) == b"ok"
        else:
            with pytest.raises(ExchangeError) as raised:
                await asking
            assert raised.value.fault is Fault.TIMEOUT


class _Late(BodyWrapper):
    """A body whose bytes are read in the turn of the loop after the one in which its taker gave up."""

    async def take(self) -> tuple[Buffer, ...]:
        try:
            return await super().take()
        except asyncio.CancelledError:
            late: list[Buffer] = [b"late"]
            asyncio.get_running_loop().call_soon(_pipe_in(self).feed, late)
            raise


def _pipe_in(body: _Late) -> Pipe:
    assert isinstance(body._body, Pipe)
    return body._body


async def test_bytes_that_lie_in_the_socket_are_read_before_a_timeout_is_believed() -> None:
    body = TimeoutBody(_Late(fed_pipe(is_open=True)), 0.001)
    assert await body.take() == (b"late",)


async def test_a_body_of_which_nothing_has_come_is_closed_at_its_timeout() -> None:
    pipe = fed_pipe(is_open=True)
    with pytest.raises(BodyError):
        await TimeoutBody(pipe, 0.001).take()
