"""The lease: who is an owner, who may begin something, and when an instance is dead."""

import asyncio

import pytest

from proxy.base.errors import Code, Refusal
from proxy.http.message import Request, Response
from proxy.relay.lease import is_leased, lease_name
from proxy.relay.mailbox import mailbox_name
from proxy.relay.membership import Solo
from proxy.streams.answers import StorageError
from tests.kit.handlers import Failing, answer
from tests.kit.virtual_time import in_virtual_time
from tests.relay.kit import ID, LEASE, MAIL, Relay, Roomy, ending
from tests.relay.members import DEAD, Expiring, Instance, owned


class Silent:
    """Storage that stops answering while `hangs`."""

    def __init__(self, storage: Expiring) -> None:
        self._storage = storage
        self.hangs = False

    async def __call__(self, request: Request) -> Response:
        if self.hangs:
            await asyncio.sleep(1000)
        return await self._storage(request)


async def refusal_of(work: object) -> Code | None:
    """Why `work` was refused, None when it was not."""
    try:
        await work  # type: ignore[misc]  # an awaitable
    except Refusal as refusal:
        return refusal.code
    return None


@in_virtual_time
async def test_a_process_with_a_storage_of_its_own_is_its_streams_owner_and_needs_no_lease() -> None:
    storage = Expiring()
    relay = Relay.over(storage)
    members = relay.members
    assert await members.owner() == members.name
    async with members.licensed():
        assert not members.is_other("a former process")
        assert await members.is_alive(members.name)
        assert await members.is_gone("a former process")
        assert not await members.is_gone(members.name)
    assert asyncio.get_running_loop().time() == 0
    assert not storage.streams
    assert await refusal_of(Solo(Roomy(is_full=True)).check()) is Code.STORAGE_UNAVAILABLE


@in_virtual_time
async def test_an_instance_is_an_owner_once_others_can_see_it_and_leaves_nothing_behind() -> None:
    storage = Expiring()
    async with Instance(storage) as member:
        name = await member.members.owner()
        assert name == member.name
        assert storage.named(lease_name(name))
        assert storage.named(mailbox_name(name))
        await asyncio.sleep(2 * MAIL.mailbox_ttl_seconds)  # both last as long as it does
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
async def test_without_a_lease_nothing_is_begun(caplog: pytest.LogCaptureFixture) -> None:
    storage = Expiring()
    failing = Failing(storage, when=lambda request: b"/instances/" in request.target)
    failing.always = answer(503)
    async with Instance(failing) as member:
        assert await refusal_of(member.members.check()) is Code.STORAGE_UNAVAILABLE
        for work in (member.members.owner(), owned(member, storage, b"one")):
            with pytest.raises(StorageError):
                await work
        with pytest.raises(Refusal):
            async with member.members.licensed():
                raise AssertionError
        assert not storage.streams
        await asyncio.sleep(600)
        assert sum("lease renewal failed" in line.getMessage() for line in caplog.records) == 1
        failing.always = None
        await asyncio.sleep(2)
        await member.members.check()
        assert await member.members.owner() == member.name


@in_virtual_time
async def test_storage_that_failed_at_the_last_renewal_gets_no_new_stream_though_the_lease_still_lasts() -> None:
    storage = Expiring()
    failing = Failing(storage, when=lambda _: True)
    async with Instance(failing) as member:
        await member.members.check()
        failing.always = answer(503)
        await asyncio.sleep(LEASE.lease_renew_seconds + 0.1)
        assert await refusal_of(member.members.check()) is Code.STORAGE_UNAVAILABLE
        assert await member.members.owner() == member.name  # what was begun may be finished
        failing.always = None
        await asyncio.sleep(LEASE.lease_renew_seconds + 0.1)
        await member.members.check()


@in_virtual_time
async def test_a_licensed_block_is_left_before_anybody_can_take_the_instance_for_dead() -> None:
    storage = Silent(Expiring())
    async with Instance(storage) as member, Instance(storage._storage) as there:
        await asyncio.sleep(1)
        storage.hangs = True
        began = asyncio.get_running_loop().time()

        async def call() -> None:
            async with member.members.licensed():
                await asyncio.sleep(1000)

        calling = asyncio.ensure_future(call())
        while not await there.members.is_gone(member.name):
            await asyncio.sleep(0.1)
            assert asyncio.get_running_loop().time() - began < DEAD
        assert calling.done()
        assert isinstance(calling.exception(), StorageError)
        storage.hangs = False


@in_virtual_time
async def test_a_block_outlives_a_silence_that_the_lease_outlives() -> None:
    storage = Silent(Expiring())
    async with Instance(storage) as member:
        await asyncio.sleep(1)
        storage.hangs = True
        async with member.members.licensed():
            await asyncio.sleep(0.7 * LEASE.lease_seconds)
            storage.hangs = False
            await asyncio.sleep(3 * LEASE.lease_seconds)


@in_virtual_time
async def test_a_storage_that_hangs_holds_up_many_no_longer_than_one() -> None:
    storage = Silent(Expiring())
    async with Instance(storage) as member:
        await asyncio.sleep(1)
        storage.hangs = True
        await asyncio.sleep(2 * LEASE.lease_seconds)
        began = asyncio.get_running_loop().time()
        refused = await asyncio.gather(*(refusal_of(member.members.check()) for _ in range(20)))
        assert set(refused) == {Code.STORAGE_UNAVAILABLE}
        assert asyncio.get_running_loop().time() - began <= LEASE.lease_attempt_seconds
        assert await refusal_of(member.members.check())  # it was tried again
        storage.hangs = False


@in_virtual_time
async def test_an_owner_s_name_that_could_be_a_path_has_no_lease() -> None:
    storage = Expiring()
    relay = Relay.over(storage)
    await relay.storage.create(ID, b"text/plain", 99)
    for name in (f"../../{ID}", "", "0" * 31, "G" * 32):
        assert not await is_leased(relay.storage, name)


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

    async with Instance(every_other) as member:
        await asyncio.sleep(6)
        for _ in range(100):
            await asyncio.sleep(1)
            assert storage.named(lease_name(member.name))


@pytest.mark.parametrize("phase", [0.0, 0.25, 0.5, 0.75])
@in_virtual_time
async def test_an_instance_whose_requests_are_lost_for_most_of_a_lease_does_not_count_as_dead(
    phase: float, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Expiring()
    is_cut_off = False

    async def lossy(request: Request) -> Response:
        if is_cut_off:
            await asyncio.sleep(1000)
        return await storage(request)

    async with Instance(lossy) as here, Instance(storage) as there:
        await owned(here, storage, b"one")
        there.orphans.watch(ID, await there.record())
        await asyncio.sleep(phase)
        is_cut_off = True
        await asyncio.sleep(0.8 * LEASE.lease_seconds)
        is_cut_off = False
        await asyncio.sleep(DEAD)
        assert ending(storage) == (b"one", False, None)
        assert [line.getMessage() for line in caplog.records] == [
            "lease renewal failed: no answer in time (creates get 503 until storage answers)"
        ]
