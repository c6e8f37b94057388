"""A store killed under load: what it had acknowledged is there, once, and producers go on where they were.

The bytes of an append are a function of its stream and sequence number, so that a loss names itself.
"""

import http.client
import random
import threading
import time
from pathlib import Path

import apsw
import pytest

from tests.store.process import StoreProcess

STREAMS = 8


def payload(stream: int, seq: int) -> bytes:
    """Between 1 byte and some pages, never the same twice."""
    chosen = random.Random(f"{stream}/{seq}")
    return f"<{stream}/{seq}>".encode() + chosen.randbytes(chosen.choice([0, 10, 200, 5000, 70_000]))


class Producer(threading.Thread):
    """Appends to one stream until its connection breaks; `acknowledged` appends were answered."""

    def __init__(self, stream: int) -> None:
        super().__init__()
        self.stream = stream
        self.acknowledged = 0
        self.port = 0
        self.wrong: list[int] = []

    def again(self, port: int) -> "Producer":
        """The same producer after a restart: it repeats what was not answered."""
        following = Producer(self.stream)
        following.acknowledged = self.acknowledged
        following.port = port
        return following

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            while True:
                fields = {
                    "Content-Type": "application/octet-stream",
                    "Producer-Id": "p",
                    "Producer-Epoch": "0",
                    "Producer-Seq": str(self.acknowledged),
                }
                connection.request("POST", f"/s{self.stream}", payload(self.stream, self.acknowledged), fields)
                response = connection.getresponse()
                response.read()
                if response.status not in (200, 204):
                    self.wrong.append(response.status)
                    return
                self.acknowledged += 1
        except (OSError, http.client.HTTPException):
            return
        finally:
            connection.close()


def read_whole(port: int, stream: int) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    content, offset = b"", "-1"
    while True:
        connection.request("GET", f"/s{stream}?offset={offset}")
        response = connection.getresponse()
        content += response.read()
        offset = response.headers["Stream-Next-Offset"]
        if response.headers["Stream-Up-To-Date"]:
            connection.close()
            return content


def run_rounds(directory: Path, rounds: int) -> None:
    chosen = random.Random(rounds)
    producers = [Producer(stream) for stream in range(STREAMS)]
    for _ in range(rounds):
        with StoreProcess(directory) as store:
            for stream in range(STREAMS):
                connection = http.client.HTTPConnection("127.0.0.1", store.port, timeout=20)
                connection.request("PUT", f"/s{stream}", headers={"Stream-TTL": "3600"})
                assert connection.getresponse().status in (200, 201)
                connection.close()
            before = [producer.acknowledged for producer in producers]
            producers = [producer.again(store.port) for producer in producers]
            for producer in producers:
                producer.start()
            time.sleep(chosen.uniform(0.05, 0.6))
            store.kill()
            for producer in producers:
                producer.join(30)
                assert producer.wrong == []
            assert [producer.acknowledged for producer in producers] > before
        check_database(directory / "streams.db")
        with StoreProcess(directory) as store:
            for producer in producers:
                stored = [payload(producer.stream, seq) for seq in range(producer.acknowledged)]
                content = read_whole(store.port, producer.stream)
                extra = content.removeprefix(b"".join(stored))
                assert content.startswith(b"".join(stored)), f"stream {producer.stream} lost what was acknowledged"
                assert extra in (b"", payload(producer.stream, producer.acknowledged))
            store.stop()


def check_database(path: Path) -> None:
    connection = apsw.Connection(str(path))
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_a_killed_store_loses_nothing_acknowledged_and_repeats_nothing(tmp_path: Path) -> None:
    run_rounds(tmp_path, 3)


@pytest.mark.slow
def test_a_store_killed_again_and_again(tmp_path: Path) -> None:
    run_rounds(tmp_path, 40)
