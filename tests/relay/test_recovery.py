"""What a former process left open is ended at the next start: recorded first, then closed, and nothing else touched."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from proxy.relay.record import Record
from proxy.relay.recovery import OpenStreams, Recovery, RecoverySettings
from proxy.relay.takeover import FINDER, OWNER
from proxy.store import EmbeddedStore, open_store
from proxy.streams.names import Outcome
from proxy.streams.producer import Producer
from tests.kit.bodies import Tap
from tests.kit.handlers import Failing, Failure, answer, bug, lost
from tests.kit.memory_storage import MemoryStorage
from tests.kit.store_settings import store_settings
from tests.kit.virtual_time import in_virtual_time
from tests.relay.kit import ID, RECORD, RETRY, Relay, ending

OCTETS = b"application/octet-stream"
TTL = 1000
RECOVERY = RecoverySettings(recovery_at_once=50, retry_longest_seconds=5.0, close_retry_seconds=60.0)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[EmbeddedStore]:
    async with aclosing(open_store(tmp_path, store_settings())) as store:
        yield store


def id_of(number: int) -> str:
    return f"{number:08x}{ID[8:]}"


async def leave(relay: Relay, number: int, record: Record | None = RECORD) -> None:
    """A stream as a killed process leaves it."""
    await relay.storage.create(id_of(number), OCTETS, TTL)
    if record is not None:
        await relay.records.create(id_of(number), record, RETRY)
    await Producer(relay.storage, id_of(number), OCTETS, RETRY).append((b"kept",))


async def recover(relay: Relay, store: OpenStreams) -> None:
    recovery = Recovery(store, relay.endings, relay.transfers, RECOVERY)
    recovery.start()
    await recovery._tasks.wait()
    await recovery.aclose()


class Listing(MemoryStorage):
    """A storage without time that lists its streams; `broken` listings fail first."""

    def __init__(self) -> None:
        super().__init__()
        self.broken = 0

    async def open_streams(self, after: str, count: int) -> list[str]:
        if self.broken:
            self.broken -= 1
            raise OSError("the disk is gone")
        paths = sorted(path for path, stream in self.streams.items() if not stream.is_closed and "." not in path)
        return [path for path in paths if path > after][:count]


async def end_of(relay: Relay, name: str) -> tuple[bytes | None, bool, Outcome | None]:
    metadata = await relay.storage.head(name)
    assert metadata is not None
    fresh = Relay.over(relay.storage._endpoint.handler)
    record = await fresh.endings.record(name, is_closed=metadata.is_closed)
    return await relay.storage.read_whole(name, 100), metadata.is_closed, record.outcome if record else None


async def test_open_streams_are_interrupted_and_the_others_stay_as_they_are(
    store: EmbeddedStore, caplog: pytest.LogCaptureFixture
) -> None:
    relay = Relay.over(store.handler)
    for number in range(120):  # more than are ended at once
        await leave(relay, number)
    owner = Producer(relay.storage, id_of(0), OCTETS, RETRY)
    await owner.append((b"kept",))  # the same append again
    await owner.close()
    await relay.storage.create("somebody-else-s", OCTETS, TTL)
    fresh = Relay.over(store.handler)
    await recover(fresh, store)
    assert [line.getMessage() for line in caplog.records] == [
        "119 streams left open by a former process were closed as interrupted"
    ]
    assert await end_of(fresh, id_of(0)) == (b"kept", True, Outcome.COMPLETE)
    for number in range(1, 120):
        assert await end_of(fresh, id_of(number)) == (b"kept", True, Outcome.INTERRUPTED)
    assert (await end_of(fresh, "somebody-else-s"))[1] is False


async def test_what_the_last_process_recorded_stays_the_outcome(store: EmbeddedStore) -> None:
    relay = Relay.over(store.handler)
    await leave(relay, 1)
    await relay.records.append(id_of(1), Outcome.ABORTED, epoch=OWNER, is_found=False)  # killed before the close
    fresh = Relay.over(store.handler)
    await recover(fresh, store)
    assert await end_of(fresh, id_of(1)) == (b"kept", True, Outcome.ABORTED)


async def test_a_recovery_that_was_killed_itself_is_repeated(store: EmbeddedStore) -> None:
    relay = Relay.over(store.handler)
    await leave(relay, 1)
    await relay.records.append(id_of(1), Outcome.INTERRUPTED, epoch=FINDER, is_found=True)
    await recover(Relay.over(store.handler), store)
    await recover(Relay.over(store.handler), store)
    assert await end_of(relay, id_of(1)) == (b"kept", True, Outcome.INTERRUPTED)


async def test_a_stream_without_a_record_is_closed_all_the_same(store: EmbeddedStore) -> None:
    relay = Relay.over(store.handler)
    await leave(relay, 1, record=None)
    await recover(relay, store)
    assert (await end_of(relay, id_of(1)))[:2] == (b"kept", True)


async def test_what_runs_here_by_now_is_not_an_orphan(store: EmbeddedStore) -> None:
    relay = Relay.over(store.handler)
    tap = Tap()
    await relay.start(tap, id_of(1))
    await recover(relay, store)
    tap.feed(b"mine")
    tap.body.end()
    transfer = relay.transfers.get(id_of(1))
    assert transfer is not None
    await transfer.ended.wait()
    assert await end_of(relay, id_of(1)) == (b"mine", True, Outcome.COMPLETE)
    await relay.aclose()


@pytest.mark.parametrize("fault", [answer(400), answer(503), lost(), bug()])
@pytest.mark.parametrize("method", ["HEAD", "POST"])
@in_virtual_time
async def test_one_that_cannot_be_ended_does_not_keep_the_rest_open_and_is_tried_until_it_can(
    fault: Failure, method: str, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Listing()
    relay = Relay.over(storage)
    for number in range(3):
        await leave(relay, number)
    failing = Failing(storage, when=lambda r: id_of(1).encode() in r.target and r.method == method.encode())
    failing.always = fault
    recovering = asyncio.ensure_future(recover(Relay.over(failing), storage))
    await asyncio.sleep(1000)
    assert [ending(storage, id_of(number)) for number in (0, 2)] == [(b"kept", True, "interrupted")] * 2
    assert not ending(storage, id_of(1))[1]
    assert sum(id_of(1) in line.getMessage() for line in caplog.records) == 1
    before = failing.met
    await asyncio.sleep(1000)
    assert 8 <= failing.met - before < 1000
    failing.always = None
    mended = asyncio.get_running_loop().time()
    await recovering
    assert asyncio.get_running_loop().time() - mended <= 60
    assert ending(storage, id_of(1)) == (b"kept", True, "interrupted")
    assert len(storage.streams[f"/v1/streams/{id_of(1)}.record"].data.splitlines()) == 2


@in_virtual_time
async def test_a_store_that_cannot_list_its_streams_is_asked_again() -> None:
    storage = Listing()
    await leave(Relay.over(storage), 1)
    storage.broken = 3
    await recover(Relay.over(storage), storage)
    assert ending(storage, id_of(1)) == (b"kept", True, "interrupted")


async def test_a_stop_in_the_middle_leaves_no_task_and_the_next_start_goes_on(store: EmbeddedStore) -> None:
    relay = Relay.over(store.handler)
    for number in range(60):
        await leave(relay, number)
    recovery = Recovery(store, relay.endings, relay.transfers, RECOVERY)
    recovery.start()
    await recovery.aclose()
    assert len(recovery._tasks) == 0
    await recover(Relay.over(store.handler), store)
    for number in range(60):
        assert await end_of(relay, id_of(number)) == (b"kept", True, Outcome.INTERRUPTED)


async def test_without_a_store_of_its_own_a_proxy_recovers_nothing(store: EmbeddedStore) -> None:
    relay = Relay.over(store.handler)
    await leave(relay, 1)
    recovery = Recovery(None, relay.endings, relay.transfers, RECOVERY)
    recovery.start()
    await recovery._tasks.wait()
    assert (await end_of(relay, id_of(1)))[1] is False
