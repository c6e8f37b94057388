"""The pool: reuse, bounds, order, expiry, and cancelling at every point (places and sockets come back)."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from typing import ClassVar

import pytest

from proxy.http.body import BytesBody, read_all
from proxy.http.client import ClientConnection, ClientLimits, ConnectionOwner
from proxy.http.client1 import Http1Client
from proxy.http.message import ExchangeError, Fault, Request, Response
from proxy.http.pool import Pool
from proxy.net.dial import Address, ConnectionT, Dialler
from proxy.wire.headers import Headers
from tests.http.kit import get, pooling
from tests.kit.dialling import make_dialler
from tests.kit.loop_peers import OK, Peer, answering, origin, request_of
from tests.kit.waiting import SOON, until


async def _ask(pool: Pool, address: Address, request: Request | None = None) -> bytes:
    async with asyncio.timeout(SOON):
        response: Response = await pool.at(address)(request or get())
        return await read_all(response.body, 1 << 20)


class Gated:
    """A script that answers each request when the test lets it; `asked` are their targets, in the order they came."""

    def __init__(self) -> None:
        self.asked: list[bytes] = []
        self._gate = asyncio.Semaphore(0)

    def release(self, count: int = 1) -> None:
        for _ in range(count):
            self._gate.release()

    async def __call__(self, peer: Peer) -> None:
        while True:
            self.asked.append((await request_of(peer)).split(b" ")[1])
            await self._gate.acquire()
            peer.send(OK)


async def test_requests_one_after_the_other_share_a_connection() -> None:
    async with origin(answering(OK)) as (served, address), pooling() as pool:
        for _ in range(5):
            assert await _ask(pool, address) == b"ok"
        assert (len(served.peers), len(pool)) == (1, 1)


async def test_origins_do_not_share_connections() -> None:
    async with (
        origin(answering(OK)) as (first, one),
        origin(answering(OK)) as (second, two),
        pooling() as pool,
    ):
        await _ask(pool, one)
        await _ask(pool, two)
        assert (len(first.peers), len(second.peers), len(pool)) == (1, 1, 2)


@pytest.mark.parametrize("is_careful", [True, False])
@pytest.mark.parametrize("end", [Peer.close, Peer.reset, lambda peer: peer.send(b"stray")], ids=["fin", "rst", "stray"])
async def test_an_idle_connection_that_its_origin_ended_or_soiled_is_never_used_again(
    end: Callable[[Peer], None], is_careful: bool
) -> None:
    async with origin(answering(OK)) as (served, address), pooling(is_careful=is_careful) as pool:
        await _ask(pool, address)
        end(served.peers[0])
        await until(lambda: len(pool) == 0)
        assert await _ask(pool, address) == b"ok"
        assert len(served.peers) == 2


@pytest.mark.parametrize("end", [b"", b"stray"])
async def test_an_end_that_nobody_has_read_yet_is_noticed_before_the_connection_is_used(end: bytes) -> None:
    async with origin(answering(OK)) as (served, address), pooling() as pool:
        await _ask(pool, address)
        with socket.socket(fileno=os.dup(served.peers[0].writer.get_extra_info("socket").fileno())) as sock:
            if end:
                sock.send(end)
            else:
                sock.shutdown(socket.SHUT_WR)
        # In the same turn of the loop: the pool's connection cannot have read it.
        assert await _ask(pool, address) == b"ok"
        assert len(served.peers) == 2


async def test_an_idle_connection_is_closed_after_its_time() -> None:
    async with origin(answering(OK)) as (served, address), pooling(idle_seconds=0.03) as pool:
        await _ask(pool, address)
        assert len(pool) == 1
        await until(lambda: len(pool) == 0 and served.open == 0)


async def test_a_late_answer_closes_what_is_idle_at_its_origin_and_nowhere_else() -> None:
    used = asyncio.Barrier(3)  # three connections are in use at once

    async def deaf_after_one(peer: Peer) -> None:
        await request_of(peer)
        await used.wait()
        peer.send(OK)
        await peer.reader.read()

    async with (
        origin(deaf_after_one) as (served, address),
        origin(answering(OK)) as (others, elsewhere),
        pooling() as pool,
    ):
        await _ask(pool, elsewhere)
        await asyncio.gather(*(_ask(pool, address) for _ in range(3)))
        with pytest.raises(ExchangeError) as caught:
            await _ask(pool, address, get(timeout=0.03))
        assert caught.value.fault is Fault.TIMEOUT
        await until(lambda: len(pool) == 1)
        assert served.open == 0
        await _ask(pool, elsewhere)
        assert len(others.peers) == 1


async def test_the_bound_of_an_origin_holds_and_waiters_are_served_in_order() -> None:
    gated = Gated()
    async with origin(gated) as (served, address), pooling(connections_per_origin=2) as pool:
        asking = []
        for number in range(8):
            asking.append(asyncio.ensure_future(_ask(pool, address, get(b"/%d" % number))))
            await asyncio.sleep(0)
        for done in range(8):
            await until(lambda done=done: len(gated.asked) == min(done + 2, 8))  # type: ignore[misc]  # bound at once
            gated.release()
        assert await asyncio.gather(*asking) == [b"ok"] * 8
        assert sorted(gated.asked[:2]) == [b"/0", b"/1"]
        assert gated.asked[2:] == [b"/%d" % number for number in range(2, 8)]
        assert served.most == 2


async def test_the_bound_of_all_holds_over_origins_and_nobody_starves() -> None:
    async with (
        origin(answering(OK)) as (first, one),
        origin(answering(OK)) as (second, two),
        origin(answering(OK)) as (third, three),
        pooling(connections=3, connections_per_origin=2) as pool,
    ):
        most = 0

        async def ask(address: Address) -> None:
            nonlocal most
            for _ in range(10):
                assert await _ask(pool, address) == b"ok"
                most = max(most, len(pool))

        await asyncio.gather(*(ask(address) for address in (one, two, three) for _ in range(5)))
        assert most <= 3
        assert max(first.most, second.most, third.most) <= 2


async def test_an_idle_connection_makes_room_for_another_origin() -> None:
    async with origin(answering(OK)) as (first, one), origin(answering(OK)) as (_, two), pooling(connections=1) as pool:
        await _ask(pool, one)
        assert await _ask(pool, two) == b"ok"
        await until(lambda: first.open == 0)
        assert len(pool) == 1


async def test_three_origins_that_want_one_place_get_it_in_turn() -> None:
    async with (
        origin(answering(OK)) as (_, one),
        origin(answering(OK)) as (_, two),
        origin(answering(OK)) as (_, three),
        pooling(connections=1) as pool,
    ):
        await _ask(pool, one)
        answers = await asyncio.gather(*(_ask(pool, address) for address in (two, three, one, two)))
        assert answers == [b"ok"] * 4
        assert len(pool) == 1


async def test_an_origin_with_many_waiters_does_not_get_more_than_its_bound() -> None:
    gated = Gated()
    async with (
        origin(gated) as (busy, one),
        origin(gated) as (other, two),
        pooling(connections=4, connections_per_origin=2) as pool,
    ):
        first = [asyncio.ensure_future(_ask(pool, two)) for _ in range(2)]
        held = [asyncio.ensure_future(_ask(pool, one)) for _ in range(6)]
        await until(lambda: len(gated.asked) == 4)
        gated.release(8)
        await asyncio.gather(*first, *held)
        assert (busy.most, other.most) == (2, 2)


async def test_a_request_that_waits_too_long_fails_as_all_are_busy_and_nothing_was_sent() -> None:
    gated = Gated()
    async with origin(gated) as (_, address), pooling(connections_per_origin=1, pool_timeout_seconds=0.03) as pool:
        holder = asyncio.ensure_future(_ask(pool, address))
        await until(lambda: len(gated.asked) == 1)
        with pytest.raises(ExchangeError) as caught:
            await _ask(pool, address)
        assert (caught.value.fault, caught.value.sent) == (Fault.BUSY, False)
        gated.release(2)
        assert await holder == b"ok"
        assert await _ask(pool, address) == b"ok"


async def test_a_waiter_gets_the_place_of_a_connection_that_died() -> None:
    async def script(peer: Peer) -> None:
        request = await request_of(peer)
        if b"/doomed" in request:
            await doom.wait()
            return
        peer.send(OK)
        await peer.rest()

    doom = asyncio.Event()
    async with origin(script) as (_, address), pooling(connections_per_origin=1) as pool:
        doomed = asyncio.ensure_future(_ask(pool, address, get(b"/doomed")))
        await until(lambda: len(pool) == 1)
        waiting = asyncio.ensure_future(_ask(pool, address))
        await asyncio.sleep(0)
        doom.set()
        with pytest.raises(ExchangeError):
            await doomed
        assert await waiting == b"ok"


async def test_a_connection_that_dies_on_its_way_to_a_waiter_is_replaced() -> None:
    async def script(peer: Peer) -> None:
        await request_of(peer)
        await go.wait()
        peer.send(OK)
        peer.close()  # the FIN comes with the response or just after it

    go = asyncio.Event()
    async with origin(script) as (served, address), pooling(connections_per_origin=1) as pool:
        asking = [asyncio.ensure_future(_ask(pool, address, get(timeout=None))) for _ in range(5)]
        await until(lambda: len(pool) == 1)
        go.set()
        answers = await asyncio.gather(*asking, return_exceptions=True)
        assert all(answer == b"ok" or isinstance(answer, ExchangeError) for answer in answers)
        assert answers[0] == b"ok"
        assert served.most <= 2  # one that it still closes, one that is new


async def test_places_of_dials_that_fail_are_free_again() -> None:
    nobody = Address("127.0.0.1", 1)
    async with origin(answering(OK)) as (_, address), pooling(connections=1) as pool:
        for _ in range(3):
            with pytest.raises(ExchangeError) as caught:
                await _ask(pool, nobody)
            assert (caught.value.fault, caught.value.sent) == (Fault.CONNECT, False)
        assert await _ask(pool, address) == b"ok"


async def _cancelled_after(steps: int, work: Awaitable[object]) -> bool:
    """Cancel `work` after a number of turns of the loop; False when it was over before."""
    task = asyncio.ensure_future(work)
    for _ in range(steps):
        await asyncio.sleep(0)
    was_over = task.done()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return not was_over


@pytest.mark.parametrize("is_reused", [False, True])
async def test_a_call_cancelled_anywhere_leaves_no_socket_and_no_place(is_reused: bool) -> None:
    async with origin(answering(OK)) as (served, address), pooling(connections_per_origin=1) as pool:
        cancelled = steps = 0
        while steps < 4 or await _cancelled_after(steps, _ask(pool, address)):
            if steps < 4:
                await _cancelled_after(steps, _ask(pool, address))
            cancelled += 1
            steps += 1
            assert steps < 500
            if is_reused:
                assert await _ask(pool, address) == b"ok"
            assert len(pool) <= 1
        assert cancelled > 3
        assert await _ask(pool, address) == b"ok"
        await until(lambda: served.open == 1)


@pytest.mark.parametrize("per_origin", [1, 10])
async def test_waiters_cancelled_anywhere_lose_no_place(per_origin: int) -> None:
    async with (
        origin(answering(OK)) as (served, address),
        origin(answering(OK)) as (_, other),
        pooling(connections_per_origin=per_origin, connections=1 if per_origin > 1 else 10) as pool,
    ):
        for steps in range(25):
            holder = asyncio.ensure_future(_ask(pool, other if per_origin > 1 else address))
            waiters = [_cancelled_after(steps + number, _ask(pool, address)) for number in range(3)]
            await asyncio.gather(*waiters)
            assert await holder == b"ok"
            assert await _ask(pool, address) == b"ok"
        assert served.most <= 2  # one that it still closes, one that is new
        assert len(pool) <= 2


async def test_closing_ends_what_is_lent_what_waits_and_what_comes_later() -> None:
    gated = Gated()
    async with origin(gated) as (served, address), pooling(connections_per_origin=1) as pool:
        lent = asyncio.ensure_future(_ask(pool, address))
        await until(lambda: len(gated.asked) == 1)
        waiting = asyncio.ensure_future(_ask(pool, address))
        await asyncio.sleep(0)
        await pool.aclose()
        for task in (lent, waiting):
            with pytest.raises(ExchangeError):
                await task
        with pytest.raises(ExchangeError):
            await _ask(pool, address)
        gated.release()
        await until(lambda: served.open == 0)


async def test_nothing_is_remembered_of_origins_that_are_gone() -> None:
    async with (
        origin(answering(OK)) as (_, address),
        pooling(connections=1, pool_timeout_seconds=0.02, idle_seconds=0.02) as pool,
    ):
        gated = Gated()
        async with origin(gated) as (_, busy):
            holder = asyncio.ensure_future(_ask(pool, busy))
            await until(lambda: len(gated.asked) == 1)
            with pytest.raises(ExchangeError):
                await _ask(pool, address)
            gated.release()
            await holder
            await until(lambda: len(pool) == 0)
        assert not pool._origins


@pytest.mark.parametrize("is_careful", [True, False])
async def test_a_connection_that_is_cut_while_it_is_handed_on_costs_nobody_a_request(is_careful: bool) -> None:
    gated = Gated()
    async with origin(gated) as (served, address), pooling(connections_per_origin=1, is_careful=is_careful) as pool:
        holder = asyncio.ensure_future(_ask(pool, address))
        await until(lambda: len(gated.asked) == 1)
        waiting = asyncio.ensure_future(_ask(pool, address))
        await asyncio.sleep(0)
        (connection,) = pool._connections
        connection.data_received(OK)  # serves the waiter, which has not run yet
        connection.cut()
        assert await holder == b"ok"
        gated.release(2)
        assert await waiting == b"ok"
        assert len(served.peers) == 2


@pytest.mark.parametrize("how", ["end of input", "bytes"])
async def test_a_connection_that_is_spoilt_as_soon_as_it_is_open_is_not_used(how: str) -> None:
    class Spoiling(Dialler):
        async def dial(self, factory: Callable[[], ConnectionT], address: Address) -> ConnectionT:
            connection = await super().dial(factory, address)
            assert isinstance(connection, Http1Client)
            if how == "bytes":
                connection.data_received(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
            else:
                connection.eof_received()
            return connection

    dial = make_dialler(kind=Spoiling)
    async with origin(answering(OK)) as (_, address), pooling(dial) as pool:
        with pytest.raises(ExchangeError) as raised:
            await pool.at(address)(get())
        assert (raised.value.fault, raised.value.sent) == (Fault.CONNECT, False)
        assert len(pool) == 0


# Connections with room for several exchanges


class Shared(ClientConnection):
    """A connection that carries three exchanges at once, each of which ends when the test lets it."""

    made: ClassVar["list[Shared]"] = []

    def __init__(self, owner: ConnectionOwner, _: ClientLimits) -> None:
        super().__init__(owner, capacity=3, is_settled=True)
        self.running: list[asyncio.Future[Response]] = []
        self.made.append(self)

    def is_fit(self, *, look: bool) -> bool:
        return not self.is_closing

    async def exchange(self, _: Request) -> Response:
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self.running.append(answer)
        try:
            return await answer
        finally:
            self.running.remove(answer)
            if not self.is_closing:
                self._owner.released(self)

    def overdue(self) -> bool:
        raise AssertionError

    def lost(self) -> None:
        self._owner.gone(self)

    async def end(self, count: int = 1) -> None:
        for answer in self.running[:count]:
            answer.set_result(Response(200, Headers(), BytesBody([b"ok"])))
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
def shared() -> Iterator[list[Shared]]:
    Shared.made = []
    yield Shared.made
    assert all(each.is_lost and each.lent == 0 for each in Shared.made)


async def _idle(peer: Peer) -> None:
    await peer.rest()


async def test_a_connection_is_lent_out_while_it_has_room_and_a_place_counts_a_socket(shared: list[Shared]) -> None:
    async with origin(_idle) as (served, address), pooling(connect=Shared, connections_per_origin=2) as pool:
        asking = []
        for _ in range(8):
            asking.append(asyncio.ensure_future(_ask(pool, address)))
            await until(lambda: sum(len(each.running) for each in shared) == min(len(asking), 6))
        assert [len(each.running) for each in shared] == [3, 3]
        assert (len(pool), served.most) == (2, 2)
        await shared[1].end(2)  # the two that wait get the room
        assert [len(each.running) for each in shared] == [3, 3]
        await shared[0].end(3)
        await shared[1].end(3)
        assert await asyncio.gather(*asking) == [b"ok"] * 8


async def test_those_that_wait_for_a_dial_share_the_new_connection(shared: list[Shared]) -> None:
    async with origin(_idle) as (served, address), pooling(connect=Shared, connections_per_origin=1) as pool:
        asking = [asyncio.ensure_future(_ask(pool, address)) for _ in range(4)]
        await until(lambda: len(shared) == 1 and len(shared[0].running) == 3)
        await shared[0].end()
        assert len(shared[0].running) == 3
        await shared[0].end(3)
        assert await asyncio.gather(*asking) == [b"ok"] * 4
        assert len(served.peers) == 1


async def test_a_connection_is_idle_only_when_its_last_exchange_has_ended(shared: list[Shared]) -> None:
    async with (
        origin(_idle) as (_, one),
        origin(_idle) as (_, two),
        pooling(connect=Shared, connections=1, idle_seconds=0.0) as pool,
    ):
        asking = [asyncio.ensure_future(_ask(pool, one)) for _ in range(2)]
        await until(lambda: len(shared) == 1 and len(shared[0].running) == 2)
        starved = asyncio.ensure_future(_ask(pool, two))
        await shared[0].end()
        await asyncio.sleep(0.03)  # some sweeps, for what must not happen
        assert not shared[0].is_closing
        await shared[0].end()
        await until(lambda: len(shared) == 2 and len(shared[1].running) == 1)
        await shared[1].end()
        assert await asyncio.gather(*asking, starved) == [b"ok"] * 3


async def test_a_waiter_that_is_cancelled_as_it_is_served_gives_its_room_back(shared: list[Shared]) -> None:
    async with origin(_idle) as (_, address), pooling(connect=Shared, connections_per_origin=1) as pool:
        asking = [asyncio.ensure_future(_ask(pool, address)) for _ in range(3)]
        await until(lambda: len(shared) == 1 and len(shared[0].running) == 3)
        waiting = [asyncio.ensure_future(_ask(pool, address)) for _ in range(2)]
        await asyncio.sleep(0)
        shared[0].running[0].set_result(Response(200, Headers(), BytesBody([b"ok"])))
        await asyncio.sleep(0)
        waiting[0].cancel()  # it has the room by now, and has not run since
        await until(lambda: len(shared[0].running) == 3)
        await shared[0].end(3)
        assert await asyncio.gather(*asking, waiting[1]) == [b"ok"] * 4
