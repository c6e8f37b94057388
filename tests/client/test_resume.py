"""Answers that survive: resumed by their id, in this process or another, with one upstream call in all."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proxy.client import FileStorage, IncompleteStream, MemoryStorage, NetworkError, ProxyError, Retry
from tests.client.conftest import Connect
from tests.client.drivers import Driver
from tests.client.processes import Child
from tests.client.scripted_proxy import ScriptedProxy

ID = "conversation-1:turn-7"


class Broken:
    """A storage that can do nothing."""

    def get(self, key: str) -> str | None:
        raise OSError("no")

    def set(self, key: str, value: str) -> None:
        raise OSError("full")

    def delete(self, key: str) -> None:
        raise OSError("no")


class Seen(MemoryStorage):
    """A storage that shows what it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.all: dict[str, str] = {}

    def set(self, key: str, value: str) -> None:
        self.all[key] = value
        super().set(key, value)

    def delete(self, key: str) -> None:
        self.all.pop(key, None)
        super().delete(key)


def test_the_same_request_under_the_same_id_is_sent_once_and_read_again_from_its_start(
    proxy: ScriptedProxy, fetch: Driver
) -> None:
    stream = proxy.stream(b"hello ", outcome=None)
    first = fetch(json={"q": 1}, request_id=ID)
    assert (first.take(6), first.was_resumed) == (b"hello ", False)
    first.close()
    proxy.close(stream, "complete", b"world")
    second = fetch(json={"q": 1}, request_id=ID)
    assert (second.read(), second.was_resumed, second.status_code) == (b"hello world", True, 200)
    assert second.headers["content-type"] == "text/plain"
    assert len(proxy.creates) == 1
    assert proxy.aborts == []


def test_from_the_offset_only_what_was_not_consumed_comes(proxy: ScriptedProxy, connect: Connect) -> None:
    fetch = connect(resume_from="offset")
    stream = proxy.stream(b"aa", outcome=None)
    first = fetch(request_id=ID)
    pieces = first.pieces()
    assert next(pieces) == b"aa"
    proxy.append(stream, b"bb")
    assert next(pieces) == b"bb"
    first.close()
    proxy.close(stream, "complete", b"cc")
    second = fetch(request_id=ID)
    assert second.read() == b"bbcc"  # nobody asked for more after bb: it was not consumed
    assert len(proxy.creates) == 1


def test_an_offset_stands_before_every_byte_that_was_not_consumed(proxy: ScriptedProxy, fetch: Driver) -> None:
    stream = proxy.stream(b"aa", outcome=None)
    response = fetch()
    assert response.offset == "-1"
    pieces = response.pieces()
    next(pieces)
    assert response.offset == "-1"
    proxy.append(stream, b"bb")
    next(pieces)
    assert response.offset == stream.token(1)
    proxy.close(stream)
    assert list(pieces) == []
    assert response.offset == stream.token(2)


def test_another_request_under_the_same_id_takes_its_place(proxy: ScriptedProxy, fetch: Driver) -> None:
    proxy.stream(b"old", outcome=None)
    fetch(json={"q": 1}, request_id=ID).close()
    proxy.stream(b"new")
    response = fetch(json={"q": 2}, request_id=ID)
    assert (response.read(), response.was_resumed) == (b"new", False)
    first, second = (asked.headers["idempotency-key"] for asked in proxy.creates)
    assert first != second


@pytest.mark.parametrize("change", [{"method": "PUT"}, {"content": b"other"}, {"url": "http://upstream.test/v2"}])
def test_what_makes_it_another_request_is_method_url_and_body(
    proxy: ScriptedProxy, fetch: Driver, change: dict[str, object]
) -> None:
    proxy.stream(b"old", outcome=None)
    fetch(content=b"same", request_id=ID).close()
    request: dict[str, Any] = {"content": b"same", "request_id": ID}
    assert not fetch(**(request | change)).was_resumed


def test_a_renewed_api_key_does_not_make_it_another_request(proxy: ScriptedProxy, fetch: Driver) -> None:
    proxy.stream(b"hello")
    fetch(headers={"Authorization": "Bearer a"}, request_id=ID).close()
    assert fetch(headers={"Authorization": "Bearer b"}, request_id=ID).was_resumed


def test_a_multipart_boundary_does_not_make_it_another_request(proxy: ScriptedProxy, fetch: Driver) -> None:
    proxy.stream(b"hello")
    for boundary in ("b1x", "c22y"):
        kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        response = fetch(headers=kind, content=f"--{boundary}\r\n\r\nx\r\n--{boundary}--", request_id=ID)
        response.close()
    assert response.was_resumed


@pytest.mark.parametrize("outcome", ["complete", "upstream_error"])
def test_after_the_end_the_same_request_is_a_new_one(proxy: ScriptedProxy, fetch: Driver, outcome: str) -> None:
    proxy.stream(b"one", outcome=outcome)
    response = fetch(request_id=ID)
    try:
        response.read()
    except IncompleteStream:
        assert outcome != "complete"
    proxy.stream(b"two")
    again = fetch(request_id=ID)
    assert (again.read(), again.was_resumed) == (b"two", False)
    assert fetch.resume(ID) is None
    first, second = (asked.headers["idempotency-key"] for asked in proxy.creates)
    assert first != second


def test_a_stream_that_is_gone_is_created_again_but_never_by_resume(proxy: ScriptedProxy, fetch: Driver) -> None:
    old = proxy.stream(b"old", outcome=None)
    fetch(request_id=ID).close()
    del proxy.streams[old.id]
    assert fetch.resume(ID) is None
    assert len(proxy.creates) == 1
    old = proxy.stream(b"old", outcome=None)
    fetch(request_id=ID).close()
    del proxy.streams[old.id]
    proxy.stream(b"new")
    response = fetch(request_id=ID)
    assert (response.read(), response.was_resumed) == (b"new", False)


def test_a_stream_whose_signature_has_expired_is_still_resumed(proxy: ScriptedProxy, fetch: Driver) -> None:
    stream = proxy.stream(b"hello")
    fetch(request_id=ID).close()
    stream.expired = True
    response = fetch.resume(ID)
    assert response is not None
    assert response.read() == b"hello"


def test_a_stream_that_the_callers_secret_does_not_open_stays_remembered(
    proxy: ScriptedProxy, connect: Connect
) -> None:
    storage = Seen()
    stream = proxy.stream(b"hello")
    connect(storage=storage)(request_id=ID).close()
    stream.expired = True
    wrong = connect(storage=storage, proxy_authorization="wrong")
    with pytest.raises(ProxyError, match="INVALID_SECRET"):
        wrong.resume(ID)
    with pytest.raises(ProxyError, match="INVALID_SECRET"):
        wrong(request_id=ID)
    response = connect(storage=storage).resume(ID)
    assert response is not None
    assert response.read() == b"hello"
    assert storage.all == {}


def test_a_caller_that_may_only_create_gets_a_fresh_url_of_the_same_stream(
    proxy: ScriptedProxy, connect: Connect
) -> None:
    stream = proxy.stream(b"hello ", outcome=None)
    fetch = connect(resume_from="offset")
    first = fetch(request_id=ID)
    assert first.take(6) == b"hello "
    first.close()
    proxy.close(stream, "complete", b"world")
    stream.expired = True
    tokens = iter(["may only create", proxy.secret])
    storage = fetch.fetch._session.settings.storage
    other = connect(proxy_authorization=lambda: next(tokens), storage=storage)
    response = other(request_id=ID)
    assert (response.was_resumed, response.read()) == (True, b"hello world")
    assert len(proxy.streams) == 1
    first_key, second_key = (asked.headers["idempotency-key"] for asked in proxy.creates)
    assert first_key == second_key


def test_resume_gives_nothing_for_an_id_that_nobody_used(proxy: ScriptedProxy, fetch: Driver) -> None:
    assert fetch.resume(ID) is None
    assert fetch.abort(ID) is False
    fetch.forget(ID)
    assert (proxy.creates, proxy.reads) == ([], [])


def test_resume_does_not_hang_when_the_proxy_is_down(proxy: ScriptedProxy, connect: Connect) -> None:
    storage = Seen()
    proxy.stream(b"hello")
    connect(storage=storage)(request_id=ID).close()
    kept = {key: value.replace(str(proxy.port), "1") for key, value in storage.all.items()}
    storage = Seen()
    for key, value in kept.items():
        storage.set(key.replace(str(proxy.port), "1"), value)
    down = connect(proxy_url="http://127.0.0.1:1/v1/proxy", storage=storage, retry=Retry(reads=3, first_delay=0.001))
    with pytest.raises(NetworkError):
        down.resume(ID)
    assert storage.all, "the proxy may come back"


def test_without_auto_resume_the_request_is_sent_again_but_resume_still_works(
    proxy: ScriptedProxy, connect: Connect
) -> None:
    fetch = connect(auto_resume=False)
    proxy.stream(b"one")
    proxy.stream(b"two")
    fetch(request_id=ID).close()
    fetch(request_id=ID).close()
    assert len(proxy.creates) == 2
    response = fetch.resume(ID)
    assert response is not None
    assert response.read() == b"two"


def test_ids_of_different_proxies_prefixes_and_names_do_not_meet(proxy: ScriptedProxy, connect: Connect) -> None:
    storage = Seen()
    fetch = connect(storage=storage)
    for request_id in ("a", "a:b", "a%3Ab", "é", ":a"):
        proxy.stream(b"hello", outcome=None)
        assert not fetch(request_id=request_id).was_resumed
    proxy.stream(b"hello", outcome=None)
    assert not connect(storage=storage, storage_prefix="other:")(request_id="a").was_resumed
    assert not connect(storage=storage, proxy_url=f"{proxy.base}/v1/proxy", storage_prefix="x")(
        request_id="a"
    ).was_resumed
    assert len(storage.all) == 7
    assert all(proxy.url in key for key in storage.all)


def test_a_request_whose_answer_was_lost_for_good_is_found_again_by_its_key(
    proxy: ScriptedProxy, connect: Connect
) -> None:
    storage = MemoryStorage()
    proxy.stream(b"hello")
    proxy.lose_creates = 3
    with pytest.raises(NetworkError):
        connect(storage=storage)(request_id=ID)
    response = connect(storage=storage)(request_id=ID)
    assert (response.read(), len(proxy.streams)) == (b"hello", 1)
    assert len({asked.headers["idempotency-key"] for asked in proxy.creates}) == 1


def test_a_refused_request_leaves_nothing_behind(proxy: ScriptedProxy, connect: Connect) -> None:
    storage = Seen()
    with pytest.raises(ProxyError):
        connect(storage=storage, proxy_authorization="wrong")(request_id=ID)
    assert storage.all == {}


def test_two_readers_of_one_id_both_get_everything(proxy: ScriptedProxy, connect: Connect) -> None:
    storage = Seen()
    stream = proxy.stream(b"hello ", outcome=None)
    first, second = connect(storage=storage), connect(storage=storage)
    one = first(request_id=ID)
    two = second(request_id=ID)
    assert (one.was_resumed, two.was_resumed) == (False, True)
    assert one.take(6) == two.take(6) == b"hello "
    proxy.close(stream, "complete", b"world")
    assert b"".join(one.pieces()) == b"world"
    assert storage.all == {}
    assert b"".join(two.pieces()) == b"world"
    assert storage.all == {}
    assert len(proxy.creates) == 1


def test_a_slow_reader_of_an_old_stream_leaves_the_credentials_of_the_new_one_alone(
    proxy: ScriptedProxy, connect: Connect
) -> None:
    storage = Seen()
    old = proxy.stream(b"old ", outcome=None)
    fetch = connect(storage=storage)
    slow = fetch(json=1, request_id=ID)
    assert slow.take(4) == b"old "
    new = proxy.stream(b"new", outcome=None)
    fetch(json=2, request_id=ID).close()
    proxy.close(old, "complete", b"end")
    assert b"".join(slow.pieces()) == b"end"
    (kept,) = storage.all.values()
    assert json.loads(kept)["offset"] == "-1"
    response = fetch.resume(ID)
    assert response is not None
    assert response.stream_url == proxy.stream_url(new)


def test_abort_by_id_stops_the_upstream_and_forgets(proxy: ScriptedProxy, fetch: Driver) -> None:
    stream = proxy.stream(b"hello", outcome=None)
    fetch(request_id=ID).close()
    assert fetch.abort(ID) is True
    assert proxy.aborts == [stream.id]
    assert fetch.resume(ID) is None


def test_forget_leaves_the_upstream_alone(proxy: ScriptedProxy, fetch: Driver) -> None:
    proxy.stream(b"hello", outcome=None)
    fetch(request_id=ID).close()
    fetch.forget(ID)
    assert fetch.resume(ID) is None
    assert proxy.aborts == []


# Storages


def test_a_storage_that_fails_costs_the_memory_and_never_the_answer(
    proxy: ScriptedProxy, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    proxy.stream(b"hello ", b"world")
    assert connect(storage=Broken())(request_id=ID).read() == b"hello world"
    assert "the answer cannot be resumed" in caplog.text


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"headers": 1}', '{"headers": [], "fingerprint": 1, "key": "", "x": 2}']
)
def test_credentials_that_make_no_sense_are_as_good_as_none(proxy: ScriptedProxy, connect: Connect, text: str) -> None:
    storage = Seen()
    fetch = connect(storage=storage)
    proxy.stream(b"one", outcome=None)
    fetch(request_id=ID).close()
    (key,) = storage.all
    storage.set(key, text)
    assert fetch.resume(ID) is None
    proxy.stream(b"two")
    assert fetch(request_id=ID).read() == b"two"


def test_credentials_with_a_value_of_the_wrong_kind_are_as_good_as_none(proxy: ScriptedProxy, connect: Connect) -> None:
    storage = Seen()
    fetch = connect(storage=storage)
    proxy.stream(b"one", outcome=None)
    fetch(request_id=ID).close()
    ((key, good),) = storage.all.items()
    for name, value in (("stream_url", 7), ("offset", None), ("ahead", -1), ("ahead", "1"), ("status", True)):
        storage.set(key, json.dumps(json.loads(good) | {name: value}))
        assert fetch.resume(ID) is None
    storage.set(key, good)
    assert fetch.resume(ID) is not None


def test_files_are_private_whole_and_named_by_hashes(proxy: ScriptedProxy, connect: Connect, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    fetch = connect(storage=FileStorage(folder))
    stream = proxy.stream(b"hello", outcome=None)
    response = fetch(request_id="../../../etc/passwd")
    pieces = response.pieces()
    next(pieces)
    proxy.append(stream, b"more")
    next(pieces)
    (file,) = folder.iterdir()
    assert len(file.name) == 64 + len(".json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert json.loads(file.read_text())["offset"] == stream.token(1)
    proxy.close(stream)
    assert list(pieces) == []
    assert list(folder.iterdir()) == []


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = FileStorage(tmp_path)
    storage.set("key", "old")

    def full(*_: object) -> None:
        raise OSError("full")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="full"):
            storage.set("key", "new")
    assert storage.get("key") == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_files_that_were_abandoned_long_ago_are_removed_and_no_others(tmp_path: Path) -> None:
    FileStorage(tmp_path).set("old", "x")
    (old,) = tmp_path.iterdir()
    left = tmp_path / f".{old.name}.0123456789abcdef"
    others = tmp_path / "mine.json"
    for file in (left, others):
        file.write_text("x")
    for file in (old, left, others):
        os.utime(file, (0, 0))
    storage = FileStorage(tmp_path)
    assert storage.get("old") == "x"
    storage.set("new", "y")
    assert others in (kept := list(tmp_path.iterdir()))
    assert (len(kept), storage.get("old"), storage.get("new")) == (2, None, "y")


def test_memory_forgets_what_was_set_longest_ago_when_there_is_too_much() -> None:
    storage = MemoryStorage(max_entries=2)
    for key in ("a", "b", "a", "c"):
        storage.set(key, key)
    assert [storage.get(key) for key in ("a", "b", "c")] == ["a", None, "c"]
    storage.delete("a")
    storage.delete("a")
    assert storage.get("a") is None


# The death of the process

READER = """
import sys
from proxy.client import FileStorage, create_durable_fetch
url, secret, folder = sys.argv[1:]
fetch = create_durable_fetch(url, proxy_authorization=secret, storage=FileStorage(folder), resume_from="offset")
for piece in fetch("http://upstream.test/v1", content=b"question", request_id="turn").iter_bytes():
    print(piece.decode(), flush=True)
"""


def test_after_a_kill_another_process_goes_on_with_one_upstream_call_in_all(
    proxy: ScriptedProxy, connect: Connect, tmp_path: Path
) -> None:
    stream = proxy.stream(b"one", outcome=None)
    root = Path(__file__).resolve().parent.parent.parent
    reader = Child(
        [sys.executable, "-c", READER, proxy.url, proxy.secret, str(tmp_path)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert reader.stdout is not None
    with reader:
        assert reader.stdout.readline() == b"one\n"
        proxy.append(stream, b"two")
        assert reader.stdout.readline() == b"two\n"
        reader.send_signal(signal.SIGKILL)
    proxy.close(stream, "complete", b"three")
    fetch = connect(storage=FileStorage(tmp_path), resume_from="offset")
    response = fetch("http://upstream.test/v1", content=b"question", request_id="turn")
    assert response.was_resumed
    assert response.read() in (b"twothree", b"three")  # whether "two" was noted before the kill is a race
    assert len(proxy.creates) == 1
    assert list(tmp_path.glob("*.json")) == []  # a kill in mid-writing leaves a file of another name, pruned one day


def test_an_id_whose_answer_never_came_remembers_no_stream(proxy: ScriptedProxy, fetch: Driver) -> None:
    proxy.refuse()
    with pytest.raises(NetworkError):
        fetch(request_id=ID)
    assert not fetch.fetch.remembers(ID)


def test_a_request_that_can_never_be_sent_leaves_nothing_behind(proxy: ScriptedProxy, connect: Connect) -> None:
    storage = MemoryStorage()
    proxy.stream(b"hello", outcome=None)
    fetch = connect(storage=storage)
    with pytest.raises(NetworkError):
        fetch(request_id=ID, headers={"not a name": "x"})
    assert storage._values == {}
    fetch(request_id=ID)
    assert fetch.fetch.remembers(ID)
