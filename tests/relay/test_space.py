"""Storage that has no space: nothing is begun until it takes a stream again."""

import asyncio

import pytest

from proxy.base.errors import Code, Refusal
from proxy.http.message import Request, Response
from proxy.streams.answers import StorageError
from proxy.streams.client import OCTETS
from proxy.wire.headers import Headers
from tests.kit.virtual_time import in_virtual_time
from tests.relay.kit import ID, LEASE
from tests.relay.members import Expiring, Instance


class Bounded(Expiring):
    """Storage that makes no stream while it `is_full`; everything else works."""

    def __init__(self) -> None:
        super().__init__()
        self.is_full = False

    async def __call__(self, request: Request) -> Response:
        path = request.target.decode().partition("?")[0]
        if self.is_full and request.method == b"PUT" and path not in self.streams:
            self.log.append("PUT refused")
            return Response(507, Headers())
        return await super().__call__(request)


async def _refused(member: Instance) -> bool:
    try:
        await member.members.check()
    except Refusal as refusal:
        return refusal.code is Code.STORAGE_UNAVAILABLE
    return False


@in_virtual_time
async def test_once_storage_is_full_nothing_is_begun_until_it_has_room() -> None:
    storage = Bounded()
    async with Instance(storage) as member:
        await asyncio.sleep(1)
        assert not await _refused(member)
        storage.is_full = True
        assert not await _refused(member)  # nothing has told us
        with pytest.raises(StorageError, match="507"):
            await member.storage.create(ID, OCTETS, 60)
        for _ in range(3 * LEASE.lease_seconds):
            assert await _refused(member)
            await asyncio.sleep(1)
        storage.is_full = False
        await asyncio.sleep(LEASE.lease_look_seconds)
        before = set(storage.streams)
        assert not await _refused(member)
        assert set(storage.streams) == before  # what it tried with is gone


@in_virtual_time
async def test_while_storage_is_full_it_is_tried_seldom_however_many_callers_there_are() -> None:
    storage = Bounded()
    async with Instance(storage) as member:
        await asyncio.sleep(1)
        storage.is_full = True
        with pytest.raises(StorageError):
            await member.storage.create(ID, OCTETS, 60)
        storage.log.clear()
        for _ in range(10):
            assert all(await asyncio.gather(*(_refused(member) for _ in range(50))))
            await asyncio.sleep(LEASE.lease_look_seconds / 10)
        assert storage.log.count("PUT refused") == 1
