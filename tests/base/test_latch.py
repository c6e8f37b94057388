"""A latch: a signal that is given once."""

import asyncio

import pytest

from proxy.base.latch import Latch


async def test_every_waiter_goes_on_when_it_is_set_and_later_ones_at_once() -> None:
    latch = Latch()
    waiters = [asyncio.create_task(latch.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    assert not latch.is_set()
    assert not any(waiter.done() for waiter in waiters)
    latch.set()
    latch.set()
    await asyncio.wait_for(asyncio.gather(*waiters), 5)
    assert latch.is_set()
    await asyncio.wait_for(latch.wait(), 5)


async def test_a_cancelled_wait_holds_up_no_other_and_leaves_nothing_behind() -> None:
    latch = Latch()
    cancelled, other = (asyncio.create_task(latch.wait()) for _ in range(2))
    await asyncio.sleep(0)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert latch._waiters is not None  # what a wait leaves behind
    assert len(latch._waiters) == 1
    latch.set()
    await asyncio.wait_for(other, 5)


async def test_a_wait_that_is_cancelled_when_it_is_set_ends() -> None:
    latch = Latch()
    waiter = asyncio.create_task(latch.wait())
    await asyncio.sleep(0)
    waiter.cancel()
    latch.set()
    await asyncio.wait([waiter], timeout=5)
    assert waiter.done()
