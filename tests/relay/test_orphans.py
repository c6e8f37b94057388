"""Ending a stream whose owner died: what the owner had said of it stands."""

from proxy.relay.orphans import end_orphan
from proxy.streams.names import Outcome
from tests.kit.memory_storage import MemoryStorage
from tests.kit.virtual_time import in_virtual_time
from tests.relay.kit import ID, RECORD, RETRY, Relay, ending


@in_virtual_time
async def test_an_owner_that_died_between_its_outcome_and_its_close_keeps_the_outcome() -> None:
    storage = MemoryStorage()
    owner, there = Relay.over(storage), Relay.over(storage)
    await owner.storage.create(ID, b"application/octet-stream", (b"stream-ttl", b"999"))
    await owner.records.create(ID, RECORD)
    assert await there.records.get(ID) == RECORD  # what it remembers from here on is out of date
    await owner.records.end(ID, RECORD, Outcome.TIMEOUT, budget=1.0)
    assert await end_orphan(there.storage, there.records, RETRY, ID)
    assert ending(storage) == (b"", True, "timeout")
