"""JSON mode: what is kept of a body, and how it reads back."""

import asyncio
import json
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.store import json_values
from proxy.store.json_values import Separators, prefix_length
from proxy.store.protocol.json_mode import InvalidJson, JsonCutter, TooManyValues, as_array
from tests.kit.store_settings import store_settings
from tests.store.kit import opened

ON_EVERY_ENGINE = True

T = TypeVar("T")
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
JSON = {"content_type": "application/json"}


def done(work: Coroutine[None, None, T]) -> T:
    """The result of work that gives way to others, but waits for nothing."""
    while True:
        try:
            work.send(None)
        except StopIteration as stop:
            result: T = stop.value
            return result


def cut(body: bytes, size: int = 16_384, values: int = 100_000) -> list[bytes]:
    made = JsonCutter(size, values, 1)
    return done(made.cut(body))


def read_back(kept: list[bytes]) -> object:
    return json.loads(b"".join(as_array(kept)))


@given(st.lists(VALUES, min_size=1), st.sampled_from([None, 1]), st.integers(1, 50), st.integers(1, 30))
def test_an_array_is_kept_as_its_values(values: list[object], indent: int | None, size: int, step: int) -> None:
    body = json.dumps(values, indent=indent).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_values, "_STEP", step + 1)
        pieces = cut(body, size)
    assert read_back(pieces) == values
    each = [read_back([piece]) for piece in pieces]
    assert [value for run in each if isinstance(run, list) for value in run] == values
    for piece, run in zip(pieces, each, strict=True):
        assert isinstance(run, list)
        assert len(piece) <= size or len(run) == 1


@given(VALUES.filter(lambda value: not isinstance(value, list)))
def test_a_single_value_is_kept_as_one(value: object) -> None:
    assert read_back(cut(b" " + json.dumps(value, ensure_ascii=False).encode() + b"\n")) == [value]


@given(st.lists(VALUES, min_size=1), st.integers(1, 30), st.data())
def test_the_first_values_are_a_prefix_of_what_is_kept(values: list[object], step: int, data: st.DataObject) -> None:
    kept = b"".join(cut(json.dumps(values).encode()))
    count = data.draw(st.integers(1, len(values)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_values, "_STEP", step + 1)
        length = done(prefix_length(kept, count))
        assert length is not None
        assert read_back([kept[:length]]) == values[:count]
        assert done(prefix_length(kept, len(values) + 1)) is None


def test_an_empty_array_has_no_values() -> None:
    assert cut(b" [ ] ") == []


def test_only_the_outer_array_is_taken_apart() -> None:
    assert cut(b"[[1,2],[]]", 1) == [b"[1,2],", b"[],"]


def test_what_looks_like_the_end_of_a_string_is_not_its_end() -> None:
    values = [b'"\\\\"', b'"\\",\\""', b'"[,{"', b'{"\\\\\\"],":[","]}', b'""']
    assert cut(b"[" + b",".join(values) + b"]", 1) == [value + b"," for value in values]


def test_numbers_keep_their_text() -> None:
    text = b"[1e400,0.10," + b"9" * 5000 + b"]"
    assert b"".join(as_array(cut(text))) == text


def test_half_of_a_surrogate_pair_is_kept_as_it_came() -> None:
    assert cut(rb'"\ud83d"') == [rb'"\ud83d",']


def test_a_step_looks_at_a_bounded_number_of_bytes() -> None:
    text = b'"' + b"x" * 100_000 + b'\\""' + b",[],1"
    separators = Separators(text, 0, len(text))
    steps = 0
    found = []
    while not separators.ended:
        found += separators.step()
        steps += 1
    assert found == [100_004, 100_007]
    assert steps == -(-len(text) // json_values._STEP)


@pytest.mark.parametrize("size", [16_384, 64, 10])
def test_more_values_than_an_append_may_bring_are_refused(size: int) -> None:
    body = b"[" + b",".join(b"%d" % number for number in range(1000)) + b"]"
    assert len(b"".join(cut(body, size, 1000))) == len(body) - 1
    with pytest.raises(TooManyValues):
        cut(body, size, 999)
    nested = b"[" + body + b"]"
    assert cut(nested, size, 999) == [body + b","]


@pytest.mark.parametrize(
    "body",
    [
        b"", b" ", b"{", b"[", b"[1", b"[1,", b"[1,]", b"[,1]", b"[1 2]", b"1 2", b"[1]]", b"[1],", b"NaN",
        b"[Infinity]", b"-Infinity", b"nul", b"'a'", b'"\n"', b'"a', b"01", b"1.", b"\xff", b'"\xed\xa0\x80"',
        b"\xef\xbb\xbf1", b"[" * 10_000,
        b'{"a":1,}', b"\x0c1",
    ],
)  # fmt: skip
def test_what_is_not_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidJson):
        cut(body)


def no_constant(name: str) -> None:
    raise ValueError(name)


def is_stored_as_json_or_refused(body: bytes) -> None:
    """Python's own parser, kept from its extensions, is the oracle."""
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=no_constant)
    except ValueError:
        with pytest.raises(InvalidJson):
            cut(body)
    else:
        assert read_back(cut(body)) == (value if isinstance(value, list) else [value])


@given(st.binary())
def test_any_body_is_stored_as_json_or_refused(body: bytes) -> None:
    is_stored_as_json_or_refused(body)


@given(st.text(alphabet='[]{},:"0a1 .eE-\\\n'))
def test_any_text_near_json_is_stored_as_json_or_refused(text: str) -> None:
    is_stored_as_json_or_refused(text.encode())


LONG = 4 << 20


@pytest.mark.parametrize(
    "body",
    [
        b'"' + b"x" * LONG + b'"',
        b'"' + b'\\"' * (LONG // 2) + b'"',
        b'{"a":[' + b"[]," * (LONG // 3) + b"[]]}",
        b"[[" + b'{"a":1},' * (LONG // 8) + b"0],1,2]",
        b"[" + b"0," * 100_000 + b'"' + b"y" * LONG + b'"]',
    ],
    ids=["string", "escapes", "brackets", "objects", "zeros"],
)
async def test_a_long_body_stops_nobody_else(tmp_path: Path, body: bytes) -> None:
    async with opened(tmp_path) as (_, client):
        await client.put("/j", **JSON)
        posting = asyncio.create_task(client.post("/j", body, **JSON))
        longest, turns = 0.0, 0
        while not posting.done():
            before = time.thread_time()
            await asyncio.sleep(0)
            longest, turns = max(longest, time.thread_time() - before), turns + 1
        assert (await posting).status == 204
        assert turns > 10
        assert longest < 0.15  # of the loop's own CPU: nobody waits for much longer, whatever else the machine does
        assert (await client.post("/j", b"1", **JSON)).status == 204


async def test_an_array_of_too_many_values_is_refused_without_stopping_anybody(tmp_path: Path) -> None:
    async with opened(tmp_path, store_settings(append_values=1000)) as (_, client):
        await client.put("/j", **JSON)
        answer = await client.post("/j", b"[" + b"0," * 7_000_000 + b"0]", **JSON)
        assert answer.status == 413
        assert b"1000 JSON values" in answer.body


async def test_a_fork_far_into_an_append_stops_nobody_else(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, client):
        await client.put("/j", b"[" + b"0," * 200_000 + b"0]", **JSON)
        fields = {"stream_forked_from": "/j", "stream_fork_offset": "0000000000000000_0000000000000000"}
        forking = asyncio.create_task(client.put("/f", stream_fork_sub_offset="7000000", **fields))
        turns = 0
        while not forking.done():
            await asyncio.sleep(0)
            turns += 1
        assert (await forking).status == 400
        assert turns > 40
        assert (await client.put("/f", stream_fork_sub_offset="150000", **fields)).status == 201
        assert json.loads((await client.get("/f")).body) == [0] * 150_000
