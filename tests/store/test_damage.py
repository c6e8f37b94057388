"""A database that a disk has damaged: an error, never an answer; and the command that finds it."""

import random
import sqlite3
from pathlib import Path

import apsw
import pytest

from proxy.cli import main
from proxy.http.body import BodyError, read_all
from proxy.store import StoreUnusable, verify_store
from proxy.store.sqlite.schema import MIGRATIONS
from tests.kit.calls import Client
from tests.kit.store_settings import store_settings
from tests.store.kit import opened

NOWHERE = store_settings(tail_bytes=0)  # nothing of a stream is kept in memory
TEXT = [b"<%d>" % index + bytes([65 + index]) * 400 for index in range(20)]


async def fill(directory: Path) -> None:
    """Two closed streams and an open one, of 20 pieces each."""
    async with opened(directory, NOWHERE) as (_, client):
        for path in ("/whole", "/damaged", "/open"):
            await client.put(path)
            for piece in TEXT:
                await client.post(path, piece)
            if path != "/open":
                await client.post(path, stream_closed="true")


def change(directory: Path, statement: str) -> None:
    connection = apsw.Connection(str(directory / "streams.db"))
    connection.execute(statement.replace("DAMAGED", "(SELECT id FROM streams WHERE path = '/damaged')"))
    connection.close()


async def read(client: Client, path: str) -> bytes | None:
    """What a reader gets; None for an error, or an answer that breaks off."""
    response = await client.send("GET", path)
    if response.status != 200:
        assert response.status == 503
        return None
    try:
        return await read_all(response.body, 1 << 20)
    except BodyError:
        return None


def checked(directory: Path) -> tuple[int, list[str]]:
    said: list[str] = []
    return verify_store(directory, said.append), said


DAMAGES = {
    "a bit of a piece": "UPDATE pieces SET data = CAST(replace(CAST(data AS TEXT), 'EEEE', 'EEEG') AS BLOB)"
    " WHERE stream = DAMAGED AND CAST(data AS TEXT) LIKE '%EEEE%'",
    "the length of a piece": "UPDATE pieces SET data = substr(data, 1, 300) WHERE stream = DAMAGED AND position = 0",
    "the place of a piece": "UPDATE pieces SET position = position + 1 << 20 WHERE stream = DAMAGED AND position = 0",
    "a checksum": "UPDATE pieces SET crc = crc + 1 WHERE stream = DAMAGED AND position = 0",
    "two pieces, exchanged": "UPDATE pieces SET data = (SELECT data FROM pieces p WHERE p.stream = DAMAGED"
    " AND p.position = 403) WHERE stream = DAMAGED AND position = 0",
    "a missing piece": "DELETE FROM pieces WHERE stream = DAMAGED AND position = 806",
    "a missing end": "DELETE FROM pieces WHERE stream = DAMAGED AND position > 6000",
    "the end of a closed stream": "UPDATE streams SET length = length - 1 WHERE path = '/damaged'",
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_stream_is_an_error_and_no_other_stream_is(tmp_path: Path, damage: str) -> None:
    await fill(tmp_path)
    change(tmp_path, DAMAGES[damage])
    async with opened(tmp_path, NOWHERE) as (_, client):
        assert await read(client, "/damaged") is None
        for path in ("/whole", "/open"):
            assert await read(client, path) == b"".join(TEXT)
    faults, said = checked(tmp_path)
    assert faults == 1
    assert said[0].startswith("stream /damaged: ")
    assert said[-1].endswith("faults: 1")


async def test_an_open_stream_that_a_flipped_bit_closes_is_not_whole(tmp_path: Path) -> None:
    await fill(tmp_path)
    change(tmp_path, "UPDATE streams SET closed = 1 WHERE path = '/open'")
    async with opened(tmp_path, NOWHERE) as (_, client):
        assert (await client.get("/open")).status == 503
        assert (await client.head("/open")).status == 503
    assert checked(tmp_path)[0] == 1


async def test_any_flipped_bit_in_the_file_is_an_error_or_changes_no_answer(tmp_path: Path) -> None:
    await fill(tmp_path / "good")
    good = (tmp_path / "good" / "streams.db").read_bytes()
    dice = random.Random(7)
    answered = 0
    for number in range(60):
        directory = tmp_path / str(number)
        directory.mkdir(mode=0o700)
        at, bit = dice.randrange(4096, len(good)), 1 << dice.randrange(8)
        (directory / "streams.db").write_bytes(good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :])
        try:
            async with opened(directory, NOWHERE) as (_, client):
                for path in ("/whole", "/damaged", "/open"):
                    response = await client.send("GET", path)
                    if response.status == 200:
                        answered += 1
                        try:
                            body = await read_all(response.body, 1 << 20)
                        except BodyError:
                            continue
                        assert b"".join(TEXT) == body, (number, at, bit)
        except StoreUnusable:
            pass
    assert answered > 60


async def test_verify_finds_a_flipped_bit_and_says_so_by_its_exit_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await fill(tmp_path)
    command = ["store", "verify", "--data-dir", str(tmp_path)]
    assert main(command) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"3 streams, {3 * len(b''.join(TEXT))} bytes, faults: 0"
    content = (tmp_path / "streams.db").read_bytes()
    (tmp_path / "streams.db").write_bytes(content.replace(b"<7>HHHH", b"<7>HHHI"))  # in each of the streams
    assert main(command) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[0].partition(": ")[2].startswith("the piece at byte ")
    assert out[-1].endswith("faults: 3")


@pytest.mark.parametrize("content", [None, b"no database" * 1000])
def test_verify_says_when_there_is_nothing_that_it_can_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "streams.db").write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        main(["store", "verify", "--data-dir", str(tmp_path)])
    assert ended.value.code == 2
    assert "streams.db" in capsys.readouterr().err


async def test_verify_can_be_asked_while_the_store_runs(tmp_path: Path) -> None:
    async with opened(tmp_path, NOWHERE) as (_, client):
        await client.put("/s", b"one", stream_closed="true")
        await client.put("/t", b"two")
        assert checked(tmp_path) == (0, ["2 streams, 6 bytes, faults: 0"])
        assert (await client.post("/t", b"more")).status == 204


async def test_a_store_of_the_first_version_is_taken_over(tmp_path: Path) -> None:
    old = sqlite3.connect(tmp_path / "streams.db")
    old.executescript(f"PRAGMA auto_vacuum = 2; {MIGRATIONS[0]}; PRAGMA user_version = 1")
    row = "INSERT INTO streams (id, path, content_type, created, closed, start) VALUES (?, ?, 'text/plain', 0, ?, 0)"
    old.executemany(row, [(1, "/closed", 1), (2, "/open", 0)])
    old.executemany("INSERT INTO pieces VALUES (?, ?, 0, 0, ?)", [(1, 1, b"old"), (2, 2, b"old")])
    old.execute("PRAGMA application_id = 0x64737472")
    old.commit()
    old.close()
    with pytest.raises(StoreUnusable, match="start the store once"):
        verify_store(tmp_path, lambda _: None)
    async with opened(tmp_path, NOWHERE) as (_, client):
        closed = await client.get("/closed")
        assert (closed.body, closed["stream-closed"]) == (b"old", "true")
        assert (await client.post("/open", b" and new", content_type="text/plain")).status == 204
        assert (await client.post("/open", stream_closed="true")).status == 204
        assert (await client.get("/open")).body == b"old and new"
    assert checked(tmp_path) == (0, ["2 streams, 14 bytes, faults: 0"])
    change(tmp_path, "UPDATE pieces SET data = CAST('nex' AS BLOB) WHERE stream = 2 AND position = 0")
    assert checked(tmp_path)[0] == 0  # what was stored before has no checksum
    change(tmp_path, "UPDATE pieces SET data = CAST(' and nex' AS BLOB) WHERE stream = 2 AND position = 3")
    assert checked(tmp_path)[0] == 1
