"""Mail and orphans without processes: what instances on one storage do about each other's streams."""

import asyncio
from dataclasses import replace
from itertools import pairwise

import pytest

from proxy.http.body import Cut
from proxy.http.message import ExchangeError, Fault, Request, Response
from proxy.relay.fleet import Fleet
from proxy.relay.lease import lease_name
from proxy.relay.mailbox import mailbox_name
from proxy.relay.orphans import Unwatched
from proxy.streams.answers import StorageError
from proxy.streams.client import JSON, OCTETS
from tests.kit.handlers import Failing, Recording, answer
from tests.kit.virtual_time import in_virtual_time
from tests.relay.kit import ID, LEASE, MAIL, RECORD, RETRY, Relay, ending
from tests.relay.members import DEAD, ORPHANS, PAUSES, Expiring, Instance, owned

OTHER = "00000000-0000-4000-8000-000000000001"


@in_virtual_time
async def test_an_abort_is_sent_to_the_owner_and_awaited() -> None:
    storage = Expiring()
    async with Instance(storage) as here, Instance(storage) as there:
        tap = await owned(here, storage, b"one")
        assert await there.fleet.abort(ID, wait=5.0)
        assert tap.is_cut
        assert ending(storage) == (b"one", True, "aborted")
        assert await there.fleet.abort(ID, wait=5.0)  # it has ended: no message is sent
        mail = storage.named(mailbox_name(here.name))
        assert mail is not None
        assert mail.data.count(b"abort") == 1


@in_virtual_time
async def test_mail_is_asked_for_about_once_a_second_however_soon_storage_answers() -> None:
    recording = Recording(Expiring())
    async with Instance(recording) as member:
        await asyncio.sleep(100)
        target = member.storage.target(mailbox_name(member.name)).decode()
        assert 90 <= sum(seen.method == "GET" and target in seen.target for seen in recording.seen) <= 110


@in_virtual_time
async def test_an_abort_that_storage_does_not_take_is_an_error() -> None:
    storage = Expiring()
    failing = Failing(storage, when=lambda request: b".mail" in request.target and request.method == b"POST")
    failing.always = answer(503)
    async with Instance(storage) as here, Instance(failing) as there:
        tap = await owned(here, storage, b"one")
        with pytest.raises(StorageError):
            await there.fleet.abort(ID, wait=2.0)
        assert not tap.is_cut


@in_virtual_time
async def test_a_dead_owner_s_stream_is_closed_by_the_instance_that_reads_it() -> None:
    storage = Expiring()
    async with Instance(storage) as there:
        async with Instance(storage, dies=True) as dying:
            for stream_id in (ID, OTHER):
                await owned(dying, storage, b"one", stream_id=stream_id)
        there.orphans.watch(ID, await there.record())
        await asyncio.sleep(LEASE.lease_seconds / 2)
        assert not ending(storage)[1]
        await asyncio.sleep(DEAD)
        assert ending(storage) == (b"one", True, "interrupted")
        assert not ending(storage, OTHER)[1]  # nobody has read it so far
        there.orphans.watch(OTHER, await there.record(OTHER))
        await asyncio.sleep(4 * ORPHANS.lease_look_seconds)
        assert ending(storage, OTHER) == (b"one", True, "interrupted")
        assert not there.orphans._watched


@in_virtual_time
async def test_a_living_owner_s_stream_is_left_alone_and_forgotten_when_nobody_reads_it_any_more() -> None:
    storage = Expiring()
    async with Instance(storage) as here, Instance(storage) as there:
        await owned(here, storage, b"one")
        there.orphans.watch(ID, await there.record())
        here.orphans.watch(ID, await here.record())
        assert not here.orphans._watched  # its own
        await asyncio.sleep(ORPHANS.watch_seconds - 1)
        assert there.orphans._watched
        await asyncio.sleep(1 + ORPHANS.lease_look_seconds)
        assert not there.orphans._watched
        assert not ending(storage)[1]


@in_virtual_time
async def test_who_lost_its_lease_and_took_it_up_again_is_not_dead() -> None:
    storage = Expiring()
    async with Instance(storage) as here, Instance(storage) as there:
        await owned(here, storage, b"one")
        there.orphans.watch(ID, await there.record())
        for _ in range(20):
            await asyncio.sleep(2 * ORPHANS.lease_look_seconds)  # each time just before the other looks
            del storage.streams[f"/v1/streams/{lease_name(here.name)}"]  # storage had forgotten it
        await asyncio.sleep(DEAD)
        assert not ending(storage)[1]


@pytest.mark.parametrize("status", [503, 400])
@in_virtual_time
async def test_who_cannot_be_asked_about_is_not_dead(status: int) -> None:
    storage = Expiring()
    failing = Failing(storage, when=lambda request: request.method == b"HEAD" and b"/instances/" in request.target)
    async with Instance(storage) as here, Instance(failing) as there:
        await owned(here, storage, b"one")
        there.orphans.watch(ID, await there.record())
        failing.always = answer(status)
        await asyncio.sleep(5 * DEAD)
        assert failing.met > 10
        assert not ending(storage)[1]


@in_virtual_time
async def test_an_orphan_that_storage_does_not_let_close_is_tried_again_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    storage = Expiring()
    failing = Failing(storage, when=lambda request: request.method == b"POST" and ID.encode() in request.target)
    failing.always = answer(400)
    async with Instance(failing) as there:
        async with Instance(storage, dies=True) as dying:
            await owned(dying, storage, b"one")
        there.orphans.watch(ID, await there.record())
        await asyncio.sleep(2 * DEAD)
        assert failing.met > 2
        assert sum("could not be closed" in line.getMessage() for line in caplog.records) == 1
        failing.always = None
        await asyncio.sleep(4 * ORPHANS.lease_look_seconds)
        assert ending(storage) == (b"one", True, "interrupted")


@in_virtual_time
async def test_what_is_watched_is_bounded() -> None:
    async with Instance(Expiring()) as member:
        for number in range(ORPHANS.max_watched + 2):
            member.orphans.watch(f"stream {number}", replace(RECORD, owner="0" * 32))
        assert list(member.orphans._watched) == [f"stream {number}" for number in range(2, ORPHANS.max_watched + 2)]


@in_virtual_time
async def test_a_delete_fences_an_owner_that_does_not_answer() -> None:
    storage = Expiring()
    async with Instance(storage) as there, Instance(storage, dies=True) as frozen:
        tap = await owned(frozen, storage, b"one")
        await frozen.freeze()  # it neither reads its mail nor holds its lease, but writes on
        assert await there.fleet.discard(ID, wait=2.0)
        tap.feed(b"two")
        await asyncio.sleep(10)
        assert tap.is_cut
        assert ending(storage) == (b"one", True, "interrupted")


@pytest.mark.parametrize("cut", [Cut.ABORTED, Cut.RESET, Cut.SHUTDOWN])
@in_virtual_time
async def test_an_owner_that_ends_a_cut_stream_while_it_is_being_fenced_does_not_make_it_look_whole(cut: Cut) -> None:
    storage = Expiring()

    async def slow_to_close(request: Request) -> Response:
        if request.method == b"POST" and request.target.endswith(ID.encode()):
            await asyncio.sleep(5)
        return await storage(request)

    async with Instance(storage) as here:
        tap = await owned(here, storage, b"one")
        fencer = Relay.over(slow_to_close)
        async with asyncio.TaskGroup() as group:
            group.create_task(fencer.endings.take_over(ID))
            await asyncio.sleep(1)
            tap.body.abort(cut)
            await asyncio.sleep(1)
            assert ending(storage) == (b"one", True, "interrupted")
        assert ending(storage) == (b"one", True, "interrupted")


@in_virtual_time
async def test_mail_that_is_not_ours_ends_nothing_and_hides_nothing() -> None:
    storage = Expiring()
    async with Instance(storage) as here:
        tap = await owned(here, storage, b"one")
        target = here.storage.target(mailbox_name(here.name))
        headers = here.storage.headers((b"content-type", JSON))
        for content in (b"7", b'{"abort":[]}', b'["x"]', b'{"abort":"nobody"}', b'{"other":1}'):
            await here.storage.append(target, headers, (content,))
        await asyncio.sleep(10)
        assert not tap.is_cut
        for content in (b"7", b'{"abort":"%b"}' % ID.encode()):  # read together
            await here.storage.append(target, headers, (content,))
        await asyncio.sleep(10)
        assert tap.is_cut


@in_virtual_time
async def test_a_mailbox_whose_connection_has_gone_deaf_is_asked_for_again_on_another() -> None:
    storage = Expiring()
    deaf = True

    async def handler(request: Request) -> Response:
        if deaf and b"live=long-poll" in request.target:
            await asyncio.sleep(min(1000, request.timeout or 1000))
            raise ExchangeError(Fault.TIMEOUT, sent=True)
        return await storage(request)

    async with Instance(handler) as here, Instance(storage) as there:
        tap = await owned(here, storage, b"one")
        await asyncio.sleep(1)
        deaf = False  # new connections work
        assert not await there.fleet.abort(ID, wait=2.0)
        await asyncio.sleep(MAIL.mailbox_listen_seconds - 2.0)
        assert tap.is_cut


@in_virtual_time
async def test_nobody_stops_listening_for_mail_when_a_long_poll_is_over() -> None:
    listening: list[tuple[float, float]] = []
    storage = Expiring()

    async def handler(request: Request) -> Response:
        if b"live=long-poll" not in request.target:
            return await storage(request)
        clock = asyncio.get_running_loop().time
        began = clock()
        try:
            await asyncio.sleep(1000)
        finally:
            listening.append((began, clock()))
        raise AssertionError("a long-poll was not given up")

    async with Instance(handler):
        await asyncio.sleep(10 * MAIL.mailbox_listen_seconds)
    assert len(listening) >= 10
    assert all(end - began <= MAIL.mailbox_listen_seconds for began, end in listening)
    assert all(following[0] == before[1] for before, following in pairwise(listening))


@in_virtual_time
async def test_an_abort_that_its_owner_has_not_seen_so_far_is_on_its_way() -> None:
    storage = Expiring()
    async with Instance(storage) as there, Instance(storage, dies=True) as frozen:
        await owned(frozen, storage, b"one")
        await frozen.members._tasks.aclose()
        assert not await there.fleet.abort(ID, wait=2.0)
        assert not ending(storage)[1]


@in_virtual_time
async def test_an_abort_of_a_dead_instance_s_stream_ends_it_soon() -> None:
    storage = Expiring()
    async with Instance(storage) as there:
        async with Instance(storage, dies=True) as dying:
            await owned(dying, storage, b"one")
        assert not await there.fleet.abort(ID, wait=2.0)  # 204 would say that it has stopped
        await asyncio.sleep(DEAD)
        assert ending(storage) == (b"one", True, "interrupted")
        assert await there.fleet.abort(ID, wait=2.0)


@in_virtual_time
async def test_an_abort_of_a_dead_instance_whose_mailbox_is_gone_ends_its_stream_too() -> None:
    storage = Expiring()
    async with Instance(storage) as there:
        async with Instance(storage, dies=True) as dying:
            await owned(dying, storage, b"one")
            await dying.freeze()
            await asyncio.sleep(DEAD)
            del storage.streams[f"/v1/streams/{mailbox_name(dying.name)}"]
        assert not await there.fleet.abort(ID, wait=2.0)
        await asyncio.sleep(DEAD)
        assert ending(storage) == (b"one", True, "interrupted")


@pytest.mark.parametrize("is_member", [True, False])
@in_virtual_time
async def test_an_open_stream_of_ours_that_does_not_run_here_is_ended_by_an_abort(is_member: bool) -> None:
    storage = Expiring()
    async with Instance(storage) as here:
        fleet, relay = here.fleet, here.relay
        if not is_member:
            relay = Relay.over(storage)
            fleet = Fleet(relay.members, relay.records, relay.transfers, relay.endings, Unwatched(), PAUSES)
        await relay.storage.create(ID, OCTETS, 999)
        await relay.records.create(ID, replace(RECORD, owner=await relay.members.owner()), RETRY)
        assert await fleet.abort(ID, wait=2.0)
        assert ending(storage) == (b"", True, "interrupted")


@in_virtual_time
async def test_an_abort_or_a_delete_of_no_stream_at_all_is_done_at_once() -> None:
    async with Instance(Expiring()) as here:
        assert await here.fleet.abort(ID, wait=2.0)
        assert await here.fleet.discard(ID, wait=2.0)
        assert asyncio.get_running_loop().time() < 0.1


@in_virtual_time
async def test_a_stream_whose_record_is_none_of_ours_can_be_deleted() -> None:
    storage = Expiring()
    async with Instance(storage) as member:
        await member.storage.create(ID, OCTETS, 999)
        await member.storage.create(f"{ID}.record", JSON, 999, b'{"a":1}')
        with pytest.raises(StorageError):
            await member.fleet.abort(ID, wait=2.0)
        assert await member.fleet.discard(ID, wait=2.0)
        stream = storage.named(ID)
        assert stream is not None
        assert stream.is_closed


class CutOff:
    """The way of one instance to storage; what is sent while it is cut is lost."""

    def __init__(self, storage: Expiring) -> None:
        self._storage = storage
        self.is_cut = False

    async def __call__(self, request: Request) -> Response:
        if self.is_cut:
            await asyncio.sleep(min(1000, request.timeout or 1000))
            raise ExchangeError(Fault.TIMEOUT, sent=True)
        return await self._storage(request)


@in_virtual_time
async def test_an_instance_that_was_counted_as_dead_stops_though_its_upstream_says_nothing() -> None:
    storage = Expiring()
    way = CutOff(storage)
    async with Instance(way) as here, Instance(storage) as there:
        ended = await owned(here, storage, b"one")
        kept = await owned(here, storage, b"two", stream_id=OTHER)
        there.orphans.watch(ID, await there.record())
        way.is_cut = True
        await asyncio.sleep(LEASE.lease_seconds + DEAD)
        assert ending(storage) == (b"one", True, "interrupted")
        assert not ended.is_cut
        way.is_cut = False
        await asyncio.sleep(LEASE.lease_attempt_seconds + 2 * LEASE.lease_renew_seconds)
        assert ended.is_cut
        assert here.transfers.get(ID) is None
        assert not kept.is_cut  # nobody had read that one
        kept.feed(b" and more")
        kept.body.end()
        await asyncio.sleep(1)
        assert ending(storage, OTHER) == (b"two and more", True, None)
        assert ending(storage) == (b"one", True, "interrupted")


@in_virtual_time
async def test_an_instance_that_counts_as_dead_just_as_it_comes_back_stops_too() -> None:
    storage = Expiring()
    way = CutOff(storage)

    async def slow_to_close(request: Request) -> Response:
        if request.method == b"POST" and ID.encode() in request.target:
            await asyncio.sleep(2)
        return await storage(request)

    async with Instance(way) as here, Instance(slow_to_close) as there:
        tap = await owned(here, storage, b"one")
        way.is_cut = True
        while not await there.members.is_gone(here.name):  # noqa: ASYNC110  # virtual time costs none
            await asyncio.sleep(0.1)
        way.is_cut = False
        assert await there.endings.take_over(ID)
        await asyncio.sleep(LEASE.lease_misses * LEASE.lease_look_seconds)
        assert tap.is_cut
        assert ending(storage) == (b"one", True, "interrupted")


@in_virtual_time
async def test_a_lease_whose_making_was_not_answered_was_lost_all_the_same() -> None:
    storage = Expiring()
    doubts: list[float] = []
    hides = False

    async def handler(request: Request) -> Response:
        response = await storage(request)
        if hides and request.method == b"PUT" and request.target.endswith(b"s/" + name.encode()):
            raise ExchangeError(Fault.TIMEOUT, sent=True)
        return response

    async with Instance(handler) as here:
        name = here.name
        here.members._lease.on_loss = lambda: doubts.append(asyncio.get_running_loop().time())
        await asyncio.sleep(1.5)
        hides = True
        del storage.streams[f"/v1/streams/{lease_name(name)}"]
        await asyncio.sleep(2 * LEASE.lease_renew_seconds)
        hides = False
        await asyncio.sleep(100)
        assert len(doubts) == 2  # at once, and when every other instance has acted
