"""Leases, mail and orphans without processes: what instances on one storage do about each other's streams."""

import asyncio
import contextlib
from dataclasses import replace

import pytest

from proxy.http.body import Cut
from proxy.http.message import Request, Response
from proxy.relay.instance import abort_message, lease_name, mailbox_name
from proxy.relay.orphans import end_orphan
from proxy.relay.record import outcome_of
from proxy.streams.answers import AppendResult, StorageError
from proxy.streams.names import Outcome
from proxy.streams.producer import Producer
from tests.kit.bodies import Tap
from tests.kit.handlers import Failing, Recording, answer
from tests.kit.virtual_time import in_virtual_time
from tests.relay.kit import ID, INSTANCE, RECORD, RETRY, Relay, ending
from tests.relay.members import DEAD, ORPHANS, Expiring, Member, owned

OCTETS = b"application/octet-stream"
OTHER = "00000000-0000-4000-8000-000000000001"


@in_virtual_time
async def test_an_instance_is_an_owner_once_others_can_see_it_and_leaves_nothing_behind() -> None:
    storage = Expiring()
    relay = Relay.over(storage)
    assert await relay.instance.owner() == relay.instance.name
    assert not storage.streams
    async with Member(storage) as member:
        name = await member.instance.owner()
        assert name == member.instance.name
        assert storage.named(lease_name(name))
        assert storage.named(mailbox_name(name))
        await asyncio.sleep(10 * INSTANCE.mailbox_ttl_seconds)  # both last as long as it does
        assert storage.named(lease_name(name))
        assert storage.named(mailbox_name(name))
        await member.storage.delete(mailbox_name(name))  # an operator may do so
        await asyncio.sleep(2)
        assert storage.named(mailbox_name(name))
        await owned(member, storage, b"one")
        assert (await member.record()).owner == name
    assert ending(storage) == (b"one", True, "interrupted")
    assert not [path for path in storage.streams if "instances" in path]


@in_virtual_time
async def test_while_storage_hears_nothing_streams_have_no_owner(caplog: pytest.LogCaptureFixture) -> None:
    storage = Expiring()
    failing = Failing(storage, when=lambda request: b"/instances/" in request.target)
    failing.always = answer(503)
    async with Member(failing) as member:
        await owned(member, storage, b"one")
        assert (await member.record()).owner == ""
        await asyncio.sleep(600)
        assert sum("is alive" in line.getMessage() for line in caplog.records) == 1
        failing.always = None
        await asyncio.sleep(2)
        assert await member.instance.owner() == member.instance.name


@in_virtual_time
async def test_a_storage_that_hangs_costs_no_lease_while_every_other_request_comes_through() -> None:
    storage = Expiring()
    turn = 0

    async def every_other(request: Request) -> Response:
        nonlocal turn
        if b"/instances/" in request.target and request.method == b"GET" and b"live" not in request.target:
            turn += 1
            if turn % 2:
                await asyncio.sleep(1000)
        return await storage(request)

    async with Member(every_other) as member:
        await asyncio.sleep(6)
        for _ in range(100):
            await asyncio.sleep(1)
            assert storage.named(lease_name(member.instance.name))


@pytest.mark.parametrize("phase", [0.0, 0.25, 0.5, 0.75])
@in_virtual_time
async def test_an_instance_whose_requests_are_lost_for_most_of_a_lease_is_not_taken_for_dead(
    phase: float, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Expiring()
    is_cut_off = False

    async def lossy(request: Request) -> Response:
        if is_cut_off:
            await asyncio.sleep(1000)
        return await storage(request)

    async with Member(lossy) as here, Member(storage) as there:
        await owned(here, storage, b"one")
        there.orphans.watch(ID, await there.record())
        await asyncio.sleep(phase)
        is_cut_off = True
        await asyncio.sleep(0.8 * INSTANCE.lease_seconds)
        is_cut_off = False
        await asyncio.sleep(DEAD)
        assert ending(storage) == (b"one", False, None)
        assert [line.getMessage() for line in caplog.records] == [
            "other instances cannot be told that this one is alive: time-out"
        ]


@in_virtual_time
async def test_a_storage_that_hangs_holds_up_many_no_longer_than_one() -> None:
    storage = Expiring()
    hangs = False

    async def handler(request: Request) -> Response:
        if hangs:
            await asyncio.sleep(1000)
        return await storage(request)

    async with Member(handler) as member:
        await asyncio.sleep(1)
        hangs = True
        await asyncio.sleep(2 * INSTANCE.lease_seconds)
        began = asyncio.get_running_loop().time()
        assert set(await asyncio.gather(*(member.instance.owner() for _ in range(20)))) == {""}
        assert asyncio.get_running_loop().time() - began <= INSTANCE.lease_seconds / 4
        assert await member.instance.owner() == ""  # it was tried again
        hangs = False


@in_virtual_time
async def test_an_abort_is_told_to_the_owner_and_awaited() -> None:
    storage = Expiring()
    async with Member(storage) as here, Member(storage) as there:
        tap = await owned(here, storage, b"one")
        assert await there.fleet.end(ID, discard=False, wait=5.0)
        assert tap.is_cut
        assert ending(storage) == (b"one", True, "aborted")
        assert await there.fleet.end(ID, discard=False, wait=5.0)  # it has ended: nobody is told
        mail = storage.named(mailbox_name(here.instance.name))
        assert mail is not None
        assert mail.data.count(b"abort") == 1


@in_virtual_time
async def test_an_abort_for_a_former_stream_of_the_same_key_ends_nothing() -> None:
    storage = Expiring()
    async with Member(storage) as here:
        tap = Tap()
        await here.relay.start(tap, ID, replace(RECORD, transfer="second"))
        target = here.storage.target(mailbox_name(await here.instance.owner()))
        headers = here.storage.headers((b"content-type", b"application/json"))
        for content in (
            abort_message(ID, "first"),
            b"7",
            b'{"abort":[]}',
            b'["x"]',
            b'{"abort":"nobody","transfer":""}',
        ):
            await here.storage.append(target, headers, (content,))
        await asyncio.sleep(10)
        assert not tap.is_cut
        for content in (b"7", abort_message(ID, "second")):  # read together
            await here.storage.append(target, headers, (content,))
        await asyncio.sleep(10)
        assert tap.is_cut


async def replaced(storage: Expiring, by: Member) -> Tap:
    """The stream of an idempotency key is deleted, and made again `by` another instance."""
    tap = Tap()
    assert await by.fleet.end(ID, discard=True, wait=5.0)
    await by.storage.delete(ID)
    await by.relay.records.delete(ID)
    await by.relay.start(tap, ID, replace(RECORD, transfer="second"))
    tap.feed(b"second")
    await asyncio.sleep(1)
    assert ending(storage) == (b"second", False, None)
    return tap


@in_virtual_time
async def test_an_abort_finds_the_owner_of_a_key_s_present_stream() -> None:
    storage = Expiring()
    async with Member(storage) as first, Member(storage) as second, Member(storage) as there:
        await first.relay.start(Tap(), ID, replace(RECORD, transfer="first"))
        await there.record()
        tap = await replaced(storage, second)
        assert await there.fleet.end(ID, discard=False, wait=5.0)
        assert tap.is_cut


@pytest.mark.parametrize("is_read_again", [True, False])
@in_virtual_time
async def test_a_key_s_present_stream_does_not_end_with_the_owner_of_its_former(is_read_again: bool) -> None:
    storage = Expiring()
    async with Member(storage, dies=True) as first, Member(storage, dies=True) as second, Member(storage) as there:
        await first.relay.start(Tap(), ID, replace(RECORD, transfer="first"))
        there.orphans.watch(ID, await there.record())
        await replaced(storage, second)
        if is_read_again:
            there.orphans.watch(ID, await there.record())
        await first.die()
        await asyncio.sleep(DEAD)
        assert ending(storage) == (b"second", False, None)
        there.orphans.watch(ID, await there.record())
        await second.die()
        await asyncio.sleep(DEAD)
        assert ending(storage) == (b"second", True, "interrupted")


@in_virtual_time
async def test_the_outcome_of_a_key_s_former_stream_is_not_that_of_the_present_one() -> None:
    storage = Expiring()
    async with Member(storage) as first, Member(storage) as second:
        tap = Tap()
        await first.relay.start(tap, ID, replace(RECORD, transfer="first"))
        tap.body.end()
        await asyncio.sleep(1)
        assert outcome_of(await first.relay.records.get(ID, is_closed=True)) is Outcome.COMPLETE
        (await replaced(storage, second)).body.abort(Cut.RESET)
        await asyncio.sleep(1)
        assert outcome_of(await first.relay.records.get(ID, is_closed=True)) is Outcome.UPSTREAM_ERROR


@in_virtual_time
async def test_mail_is_asked_for_about_once_a_second_however_soon_storage_answers() -> None:
    recording = Recording(Expiring())
    async with Member(recording) as member:
        await asyncio.sleep(100)
        target = member.storage.target(mailbox_name(member.instance.name)).decode()
        assert 90 <= sum(seen.method == "GET" and target in seen.target for seen in recording.seen) <= 110


@in_virtual_time
async def test_an_abort_that_storage_does_not_take_is_an_error() -> None:
    storage = Expiring()
    failing = Failing(storage, when=lambda request: b".mail" in request.target and request.method == b"POST")
    failing.always = answer(503)
    async with Member(storage) as here, Member(failing) as there:
        tap = await owned(here, storage, b"one")
        with pytest.raises(StorageError):
            await there.fleet.end(ID, discard=False, wait=2.0)
        assert not tap.is_cut


@in_virtual_time
async def test_a_dead_owner_s_stream_is_closed_by_who_reads_it() -> None:
    storage = Expiring()
    async with Member(storage) as there:
        async with Member(storage, dies=True) as dying:
            for stream_id in (ID, OTHER):
                await owned(dying, storage, b"one", stream_id=stream_id)
        there.orphans.watch(ID, await there.record())
        await asyncio.sleep(INSTANCE.lease_seconds / 2)
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
    async with Member(storage) as here, Member(storage) as there:
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
    async with Member(storage) as here, Member(storage) as there:
        await owned(here, storage, b"one")
        there.orphans.watch(ID, await there.record())
        for _ in range(20):
            await asyncio.sleep(2 * ORPHANS.lease_look_seconds)  # each time just before the other looks
            del storage.streams[f"/v1/streams/{lease_name(here.instance.name)}"]  # storage had forgotten it
        await asyncio.sleep(DEAD)
        assert not ending(storage)[1]


@pytest.mark.parametrize("status", [503, 400])
@in_virtual_time
async def test_who_cannot_be_asked_about_is_not_dead(status: int) -> None:
    storage = Expiring()
    failing = Failing(storage, when=lambda request: request.method == b"HEAD" and b"/instances/" in request.target)
    async with Member(storage) as here, Member(failing) as there:
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
    async with Member(failing) as there:
        async with Member(storage, dies=True) as dying:
            await owned(dying, storage, b"one")
        there.orphans.watch(ID, await there.record())
        await asyncio.sleep(2 * DEAD)
        assert failing.met > 2
        assert sum("could not be closed" in line.getMessage() for line in caplog.records) == 1
        failing.always = None
        await asyncio.sleep(4 * ORPHANS.lease_look_seconds)
        assert ending(storage) == (b"one", True, "interrupted")


@in_virtual_time
async def test_a_record_that_nobody_can_write_under_does_not_keep_other_orphans_open(
    caplog: pytest.LogCaptureFixture,
) -> None:
    storage = Expiring()
    async with Member(storage) as there:
        async with Member(storage, dies=True) as dying:
            await owned(dying, storage, b"one")
        await there.storage.create(OTHER, OCTETS, (b"stream-ttl", b"999"))
        await there.relay.records.create(OTHER, replace(RECORD, transfer="\N{SNOWMAN}", owner="0" * 32))
        for stream_id in (OTHER, ID):
            there.orphans.watch(stream_id, await there.record(stream_id))
        await asyncio.sleep(2 * DEAD)
        assert ending(storage) == (b"one", True, "interrupted")
        assert sum("could not be closed" in line.getMessage() for line in caplog.records) == 1


@in_virtual_time
async def test_what_is_watched_is_bounded() -> None:
    async with Member(Expiring()) as member:
        for number in range(ORPHANS.max_watched + 2):
            member.orphans.watch(f"stream {number}", replace(RECORD, owner="0" * 32))
        assert list(member.orphans._watched) == [f"stream {number}" for number in range(2, ORPHANS.max_watched + 2)]


@in_virtual_time
async def test_a_delete_fences_an_owner_that_does_not_answer() -> None:
    storage = Expiring()
    async with Member(storage) as there, Member(storage, dies=True) as frozen:
        tap = await owned(frozen, storage, b"one")
        await frozen.instance._tasks.aclose()  # it neither reads its mail nor holds its lease, but writes on
        assert await there.fleet.end(ID, discard=True, wait=2.0)
        tap.feed(b"two")
        await asyncio.sleep(10)
        assert tap.is_cut
        assert ending(storage) == (b"one", True, "interrupted")


@in_virtual_time
async def test_a_stream_whose_record_is_none_of_ours_can_be_deleted() -> None:
    storage = Expiring()
    async with Member(storage) as member:
        await member.storage.create(f"{ID}.record", b"application/json", (b"stream-ttl", b"999"), b'{"a":1}')
        assert await member.fleet.end(ID, discard=True, wait=2.0)
        with pytest.raises(StorageError):
            await member.fleet.end(ID, discard=False, wait=2.0)


@in_virtual_time
async def test_an_abort_of_a_dead_instance_s_stream_ends_it_soon() -> None:
    storage = Expiring()
    async with Member(storage) as there:
        async with Member(storage, dies=True) as dying:
            await owned(dying, storage, b"one")
        async with asyncio.timeout(DEAD):  # however long it may wait
            assert not await there.fleet.end(ID, discard=False, wait=1000.0)
        await asyncio.sleep(DEAD)
        assert ending(storage) == (b"one", True, "interrupted")


@pytest.mark.parametrize("outcome", [None, Outcome.TIMEOUT])
@in_virtual_time
async def test_an_owner_that_finishes_while_it_is_being_fenced_keeps_its_outcome(outcome: Outcome | None) -> None:
    storage = Expiring()
    relay = Relay.over(storage)
    record = replace(RECORD, transfer="life")
    await relay.storage.create(ID, OCTETS, (b"stream-ttl", b"999"))
    await relay.records.create(ID, record)
    producer = Producer(relay.storage, ID, OCTETS, RETRY, life="life")
    await producer.append((b"whole",))

    async def overtaken(request: Request) -> Response:
        """The owner is just ahead of the fence: with its outcome, if it has one, and with its close."""
        is_outcome = request.method == b"POST" and request.target.endswith(b".record")
        if is_outcome and outcome is not None and b"producer-epoch" in request.headers:
            with contextlib.suppress(StorageError):
                await Relay.over(storage).records.end(ID, record, outcome, budget=1.0)
        if request.method == b"POST" and request.target.endswith(ID.encode()) and not producer.is_closed:
            assert await producer.close() is AppendResult.ACCEPTED
        return await storage(request)

    fencer = Relay.over(overtaken)
    assert not await end_orphan(fencer.storage, fencer.records, RETRY, ID)
    assert not await end_orphan(fencer.storage, fencer.records, RETRY, ID)
    for relay in (fencer, Relay.over(storage)):
        seen = await relay.records.get(ID, is_closed=True)
        assert seen is not None
        assert seen.outcome is outcome


@pytest.mark.parametrize("cut", [Cut.ABORTED, Cut.RESET, Cut.SHUTDOWN])
@in_virtual_time
async def test_an_owner_that_ends_a_cut_stream_while_it_is_being_fenced_does_not_make_it_look_whole(cut: Cut) -> None:
    storage = Expiring()

    async def slow_to_close(request: Request) -> Response:
        if request.method == b"POST" and request.target.endswith(ID.encode()):
            await asyncio.sleep(5)
        return await storage(request)

    async with Member(storage) as here:
        tap = await owned(here, storage, b"one")
        fencer = Relay.over(slow_to_close)
        async with asyncio.TaskGroup() as group:
            group.create_task(end_orphan(fencer.storage, fencer.records, RETRY, ID))
            await asyncio.sleep(1)
            tap.body.abort(cut)
            await asyncio.sleep(1)
            assert ending(storage) == (b"one", True, "interrupted")
        assert ending(storage) == (b"one", True, "interrupted")


@in_virtual_time
async def test_two_that_end_the_same_orphan_at_once_agree() -> None:
    storage = Expiring()
    async with Member(storage, dies=True) as dying:
        await owned(dying, storage, b"one")
    fencers = [Relay.over(storage) for _ in range(5)]
    await asyncio.gather(*(end_orphan(one.storage, one.records, RETRY, ID) for one in fencers))
    assert ending(storage) == (b"one", True, "interrupted")
    record = storage.named(f"{ID}.record")
    assert record is not None
    assert record.data.count(b"interrupted") == 1
