"""The record beside a stream: its form in storage, its bounded memory, and what a restarted proxy can still tell."""

import asyncio
import json
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxy.relay.record import Record, outcome_of, record_name
from proxy.streams.answers import AppendResult, StorageError
from proxy.streams.names import Outcome
from tests.kit.handlers import Failing, Recording, answer
from tests.kit.memory_storage import MemoryStorage
from tests.kit.virtual_time import in_virtual_time
from tests.relay.kit import ID, RECORD, RECORDS, Relay

VALUES = st.from_regex(rb"(?:[!-~\x80-\xff](?:[ -~\x80-\xff]*[!-~\x80-\xff])?)?", fullmatch=True)
NAMES = st.from_regex(rb"[a-z][a-z0-9-]*", fullmatch=True)
RECORDS_OF_ALL_KINDS = st.builds(
    Record,
    content_type=VALUES,
    status=st.integers(200, 599),
    content_encoding=st.none() | VALUES,
    passed=st.lists(st.tuples(NAMES, VALUES), max_size=4).map(tuple),
    fingerprint=st.text(),
    transfer=st.text(),
)


@given(RECORDS_OF_ALL_KINDS, st.lists(st.sampled_from(Outcome), max_size=3))
def test_what_is_encoded_is_decoded_and_the_last_outcome_counts(record: Record, outcomes: list[Outcome]) -> None:
    stored = [record.encode(), *(json.dumps({"outcome": outcome.value}).encode() for outcome in outcomes)]
    decoded = Record.decode(b"[" + b",".join(stored) + b"]")
    assert decoded.outcome is (outcomes[-1] if outcomes else None)
    assert replace(decoded, outcome=None) == record


FACTS = '{"contentType":"text/plain","status":200'


@given(st.binary() | st.text().map(str.encode))
@example(b"")
@example(b"[]")
@example(b"{}")
@example(b"7")
@example(b'"text"')
@example(b"[" * 100_000)
@example(b"[null]")
@example(b'[{"contentType":"text/plain"}]')
@example(b'[{"contentType":"text/plain","status":1e400}]')
@example(b'[{"contentType":"text/plain","status":true}]')
@example(b'[{"contentType":"text/plain","status":"200"}]')
@example(b'[{"contentType":"text/plain","status":99}]')
@example(b'[{"contentType":"a\\r\\nset-cookie: x","status":200}]')
@example('[{"contentType":"€","status":200}]'.encode())
@example(f'[{FACTS},"contentEncoding":7}}]'.encode())
@example(f'[{FACTS},"headers":[["a b","c"]]}}]'.encode())
@example(f'[{FACTS},"headers":[["a","b\\n"]]}}]'.encode())
@example(f'[{FACTS},"headers":[["a"]]}}]'.encode())
@example(f'[{FACTS},"headers":7}}]'.encode())
@example(f'[{FACTS},"owner":"../another"}}]'.encode())
@example(f'[{FACTS}}},{{"outcome":"fine"}}]'.encode())
@example(f"[{FACTS}}},{{}}]".encode())
@example(f"[{FACTS}}},7]".encode())
def test_anything_else_is_a_value_error(content: bytes) -> None:
    with pytest.raises(ValueError, match="not a stream's record"):
        Record.decode(content)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
def test_any_json_in_place_of_a_fact_is_a_record_or_a_value_error(value: object) -> None:
    for name in ("contentType", "status", "contentEncoding", "headers", "fingerprint", "transfer", "owner"):
        facts = {"contentType": "text/plain", "status": 200} | {name: value}
        try:
            record = Record.decode(json.dumps([facts]).encode())
        except ValueError:
            continue
        assert b"\n" not in record.content_type + (record.content_encoding or b"")


def test_a_closed_stream_without_an_outcome_is_complete_and_without_a_record_nobody_knows() -> None:
    assert outcome_of(RECORD) is Outcome.COMPLETE
    assert outcome_of(None) is Outcome.INTERRUPTED
    assert outcome_of(Record(b"a/b", 200, outcome=Outcome.ABORTED)) is Outcome.ABORTED


@in_virtual_time
async def test_another_instance_and_a_restarted_one_know_the_record() -> None:
    memory = MemoryStorage()
    here, there = Relay.over(memory), Relay.over(memory)
    assert await here.records.create(ID, RECORD) is AppendResult.ACCEPTED
    assert await there.records.get(ID) == RECORD
    await here.records.end(ID, RECORD, Outcome.TIMEOUT, budget=1.0)
    ended = await there.records.get(ID, is_closed=True)  # what it remembers is not final, so it asks
    assert ended is not None
    assert ended.outcome is Outcome.TIMEOUT
    assert await Relay.over(memory).records.get(ID, is_closed=True) == ended
    assert await there.records.get("other") is None


@in_virtual_time
async def test_what_is_remembered_costs_storage_nothing_until_it_must_be_refreshed() -> None:
    recording = Recording(MemoryStorage())
    relay = Relay.over(recording)
    await relay.records.create(ID, RECORD)
    for _ in range(3):
        await relay.records.get(ID)
    assert len(recording.seen) == 1
    await asyncio.sleep(RECORDS.record_refresh_seconds + 1)
    for _ in range(3):
        assert await relay.records.get(ID) == RECORD
    assert [seen.method for seen in recording.seen] == ["PUT", "GET"]
    relay.records.completed(ID, RECORD)
    assert await relay.records.get(ID, is_closed=True) == RECORD
    assert len(recording.seen) == 2


@in_virtual_time
async def test_memory_is_bounded_and_the_longest_unused_goes_first() -> None:
    recording = Recording(MemoryStorage())
    relay = Relay.over(recording)
    for number in range(RECORDS.record_cache):
        await relay.records.create(f"s{number}", RECORD)
    await relay.records.get("s0")
    await relay.records.create("one more", RECORD)
    assert len(relay.records._known) == RECORDS.record_cache
    before = len(recording.seen)
    await relay.records.get("s0")
    assert len(recording.seen) == before
    assert await relay.records.get("s1") == RECORD
    assert len(recording.seen) == before + 1


@in_virtual_time
async def test_a_record_that_is_gone_or_fenced_is_not_remembered_as_ours() -> None:
    memory = MemoryStorage()
    owner, successor = Relay.over(memory), Relay.over(memory)
    await owner.records.create(ID, RECORD)
    await successor.records.end(ID, RECORD, Outcome.INTERRUPTED, budget=1.0, fence=1)
    await owner.records.end(ID, RECORD, Outcome.ABORTED, budget=1.0)  # it was frozen meanwhile
    ended = await owner.records.get(ID, is_closed=True)
    assert ended is not None
    assert ended.outcome is Outcome.INTERRUPTED
    await owner.records.delete(ID)
    await owner.records.end(ID, RECORD, Outcome.ABORTED, budget=1.0)
    assert await owner.records.get(ID, is_closed=True) is None
    assert memory.named(record_name(ID)) is None


@in_virtual_time
async def test_an_outcome_is_withdrawn_once_and_only_of_the_stream_that_was_meant() -> None:
    relay = Relay.over(MemoryStorage())
    record = replace(RECORD, transfer="second")
    await relay.records.create(ID, record)
    for outcome, epoch in ((Outcome.TIMEOUT, 1), (Outcome.INTERRUPTED, 2)):
        await relay.records.end(ID, record, outcome, budget=1.0, fence=epoch)
    for transfer, left in (("first", Outcome.INTERRUPTED), ("second", Outcome.TIMEOUT), ("second", Outcome.TIMEOUT)):
        await relay.records.withdraw(ID, replace(record, transfer=transfer), fence=3)
        assert outcome_of(await relay.records.get(ID, is_closed=True)) is left


@in_virtual_time
async def test_an_outcome_is_stored_once_however_often_its_answer_is_lost() -> None:
    memory = MemoryStorage()
    failing = Failing(memory, when=lambda request: request.method == b"POST").then(answer(500), times=5, after=True)
    relay = Relay.over(failing)
    await relay.records.create(ID, RECORD)
    await relay.records.end(ID, RECORD, Outcome.ABORTED, budget=100.0)
    stored = memory.named(record_name(ID))
    assert stored is not None
    assert stored.data.count(b"aborted") == 1
    failing.always = answer(500)
    with pytest.raises(StorageError):
        await relay.records.end(ID, RECORD, Outcome.ABORTED, budget=3.0)


@in_virtual_time
async def test_a_record_that_is_none_of_ours_is_storage_s_fault() -> None:
    memory = MemoryStorage()
    relay = Relay.over(memory)
    await relay.storage.create(record_name(ID), b"application/json", (b"stream-ttl", b"9"), b'{"a":1}')
    with pytest.raises(StorageError):
        await relay.records.get(ID)
