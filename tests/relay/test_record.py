"""The record beside a stream: its form in storage, its bounded memory, and what a restarted proxy can still tell."""

import asyncio
import json
from dataclasses import replace

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from proxy.relay.record import Record, record_name
from proxy.relay.takeover import FINDER, OWNER
from proxy.streams.answers import AppendResult, StorageError
from proxy.streams.names import Outcome
from tests.kit.handlers import Failing, Recording, answer
from tests.kit.memory_storage import MemoryStorage
from tests.kit.virtual_time import in_virtual_time
from tests.relay.kit import ID, RECORD, RECORDS, RETRY, Relay
from tests.relay.members import Expiring

VALUES = st.from_regex(rb"(?:[!-~\x80-\xff](?:[ -~\x80-\xff]*[!-~\x80-\xff])?)?", fullmatch=True)
NAMES = st.from_regex(rb"[a-z][a-z0-9-]*", fullmatch=True)
RECORDS_OF_ALL_KINDS = st.builds(
    Record,
    content_type=VALUES,
    status=st.integers(200, 599),
    content_encoding=st.none() | VALUES,
    passed=st.lists(st.tuples(NAMES, VALUES), max_size=4).map(tuple),
    owner=st.sampled_from(["", "0123456789abcdef" * 2]),
    key=st.sampled_from(["", "_proxy/keys/Ab_-9"]),
    subject=st.none() | st.text(),
)


@given(RECORDS_OF_ALL_KINDS, st.none() | st.sampled_from(Outcome), st.booleans())
def test_what_is_encoded_is_decoded(record: Record, outcome: Outcome | None, is_found: bool) -> None:
    stored = [record.encode()]
    if outcome is not None:
        stored.append(json.dumps({"outcome": outcome.value} | ({"found": True} if is_found else {})).encode())
    decoded = Record.decode(b"[" + b",".join(stored) + b"]")
    assert decoded == replace(record, outcome=outcome, is_found=is_found and outcome is not None)


def test_a_record_is_at_most_twice_as_long_as_the_header_values_in_it() -> None:
    for value in (bytes(range(128, 256)) * 64, b'"\\' * 4096):
        assert len(Record(b"text/plain", 200, passed=((b"x-own", value),)).encode()) < 2 * len(value) + 200


def test_an_empty_record_is_one_that_is_being_made() -> None:
    assert Record.decode(b"[]") is None


FACTS = '{"contentType":"text/plain","status":200'


@given(st.binary() | st.text().map(str.encode))
@example(b"")
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
@example(f'[{FACTS},"key":"../another"}}]'.encode())
@example(f'[{FACTS}}},{{"outcome":"fine"}}]'.encode())
@example(f"[{FACTS}}},{{}}]".encode())
@example(f"[{FACTS}}},7]".encode())
def test_anything_else_is_a_value_error(content: bytes) -> None:
    assume(content.split() != [b"[]"])
    with pytest.raises(ValueError, match="not a stream's record"):
        Record.decode(content)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists))
def test_any_json_in_place_of_a_fact_is_a_record_or_a_value_error(value: object) -> None:
    for name in ("contentType", "status", "contentEncoding", "headers", "owner", "key", "subject"):
        facts = {"contentType": "text/plain", "status": 200} | {name: value}
        try:
            record = Record.decode(json.dumps([facts]).encode())
        except ValueError:
            continue
        assert record is not None
        assert b"\n" not in record.content_type + (record.content_encoding or b"")


@in_virtual_time
async def test_another_instance_and_a_restarted_one_know_the_record() -> None:
    memory = MemoryStorage()
    here, there = Relay.over(memory), Relay.over(memory)
    await here.records.create(ID, RECORD, RETRY)
    assert await there.records.get(ID) == RECORD
    assert await Relay.over(memory).records.get(ID) == RECORD
    assert await there.records.get("other") is None


@in_virtual_time
async def test_what_is_remembered_costs_storage_nothing_until_it_must_be_refreshed() -> None:
    recording = Recording(MemoryStorage())
    relay = Relay.over(recording)
    await relay.records.create(ID, RECORD, RETRY)
    for _ in range(3):
        await relay.records.get(ID)
    assert len(recording.seen) == 1
    await asyncio.sleep(RECORDS.record_refresh_seconds + 1)
    for _ in range(3):
        assert await relay.records.get(ID) == RECORD
    assert [seen.method for seen in recording.seen] == ["PUT", "GET"]
    assert relay.records.final(ID) is None
    relay.records.settle(ID, RECORD)
    assert relay.records.final(ID) == await relay.records.get(ID) == RECORD
    assert len(recording.seen) == 2


@in_virtual_time
async def test_reading_a_record_keeps_the_key_that_names_its_stream() -> None:
    recording = Recording(Expiring())
    relay = Relay.over(recording)
    await relay.storage.create("_proxy/keys/k", b"application/json", 100)
    await relay.records.create(ID, replace(RECORD, key="_proxy/keys/k"), RETRY)
    for _ in range(5):
        await asyncio.sleep(90)
        await relay.records.read(ID)
    assert await relay.storage.head("_proxy/keys/k") is not None
    await asyncio.sleep(101)
    assert await relay.records.read(ID)  # though its key is gone


@in_virtual_time
async def test_memory_is_bounded_and_the_longest_unused_goes_first() -> None:
    recording = Recording(MemoryStorage())
    relay = Relay.over(recording)
    for number in range(RECORDS.record_cache):
        await relay.records.create(f"s{number}", RECORD, RETRY)
    await relay.records.get("s0")
    await relay.records.create("one more", RECORD, RETRY)
    assert len(relay.records._known) == RECORDS.record_cache
    before = len(recording.seen)
    await relay.records.get("s0")
    assert len(recording.seen) == before
    assert await relay.records.get("s1") == RECORD
    assert len(recording.seen) == before + 1


@in_virtual_time
async def test_a_record_takes_one_outcome_and_then_no_other() -> None:
    memory = MemoryStorage()
    owner, successor = Relay.over(memory), Relay.over(memory)
    await owner.records.create(ID, RECORD, RETRY)
    append = successor.records.append
    for _ in range(2):
        assert await append(ID, Outcome.INTERRUPTED, epoch=FINDER, is_found=True) is AppendResult.ACCEPTED
    late = await owner.records.append(ID, Outcome.ABORTED, epoch=OWNER, is_found=False)  # it was frozen meanwhile
    assert late is AppendResult.FENCED
    seen = await owner.records.get(ID)
    assert seen is not None
    assert (seen.outcome, seen.is_found) == (Outcome.INTERRUPTED, True)
    await owner.records.delete(ID)
    assert await owner.records.append(ID, Outcome.ABORTED, epoch=OWNER, is_found=False) is AppendResult.GONE
    assert await owner.records.get(ID) is None
    assert memory.named(record_name(ID)) is None


@in_virtual_time
async def test_an_outcome_is_stored_once_however_often_its_answer_is_lost() -> None:
    memory = MemoryStorage()
    failing = Failing(memory, when=lambda request: request.method == b"POST").then(answer(500), times=5, after=True)
    relay = Relay.over(failing)
    await relay.records.create(ID, RECORD, RETRY)
    await relay.records.append(ID, Outcome.ABORTED, epoch=OWNER, is_found=False, budget=100.0)
    stored = memory.named(record_name(ID))
    assert stored is not None
    assert stored.data.count(b"aborted") == 1
    failing.always = answer(500)
    with pytest.raises(StorageError):
        await relay.records.append(ID, Outcome.ABORTED, epoch=OWNER, is_found=False, budget=3.0)


@in_virtual_time
async def test_a_record_that_is_none_of_ours_is_storage_s_fault() -> None:
    memory = MemoryStorage()
    relay = Relay.over(memory)
    await relay.storage.create(record_name(ID), b"application/json", 9, b'{"a":1}')
    with pytest.raises(StorageError):
        await relay.records.get(ID)
