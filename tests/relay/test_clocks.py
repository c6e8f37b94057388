"""Clocks that differ: told in the log beyond ten minutes, and without any effect on what instances agree on."""

import ast
import logging
from email.utils import formatdate
from pathlib import Path

import pytest

import proxy
from proxy.relay.clocks import Clocks, ClockSettings
from proxy.streams.client import Storage
from tests.kit.handlers import answer
from tests.relay.kit import Relay

NOW = 1_800_000_000.0
SETTINGS = ClockSettings(clock_skew_seconds=600.0, clock_check_seconds=60.0)


class Time:
    """What has passed, in seconds."""

    def __init__(self) -> None:
        self.passed = 0.0

    def ticks(self) -> float:
        return self.passed


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "proxy.relay.clocks")
    return caplog


def seen(ahead: float) -> bytes:
    return formatdate(NOW + ahead, usegmt=True).encode()


@pytest.mark.parametrize("ahead", [-3600.0, -601.0, -599.0, 0.0, 599.0, 601.0])
def test_a_difference_of_more_than_ten_minutes_is_reported_once(ahead: float, said: pytest.LogCaptureFixture) -> None:
    time = Time()
    clocks = Clocks(lambda: NOW, time.ticks, SETTINGS)
    for _ in range(5):
        clocks.saw(seen(-ahead))
        time.passed += 61
    lines = [record.getMessage() for record in said.records]
    if abs(ahead) < 600:
        assert lines == []
    else:
        word = "ahead of" if ahead > 0 else "behind"
        assert [line.partition(" (")[0] for line in lines] == [
            f"this machine's clock is {abs(ahead):.0f} s {word} storage's"
        ]


def test_a_clock_that_was_put_right_is_reported_and_reported_again_when_it_is_wrong(
    said: pytest.LogCaptureFixture,
) -> None:
    time = Time()
    clocks = Clocks(lambda: NOW, time.ticks, SETTINGS)
    for ahead in (3600.0, 0.0, 0.0, 3600.0):
        clocks.saw(seen(ahead))
        clocks.saw(b"nonsense")  # not looked at so soon
        time.passed += 61
    assert [record.levelname for record in said.records] == ["WARNING", "INFO", "WARNING"]


@pytest.mark.parametrize("date", [b"", b"nonsense", b"\xff", b"Fri, 31 Dec 99999 99:99:99 GMT"])
def test_a_date_that_is_none_is_passed_over(date: bytes, said: pytest.LogCaptureFixture) -> None:
    Clocks(lambda: NOW, Time().ticks, SETTINGS).saw(date)
    assert said.records == []


async def test_the_date_of_storage_s_answers_is_looked_at() -> None:
    relay = Relay.over(answer(200, (b"date", seen(0)), (b"stream-up-to-date", b"true")))
    dates: list[bytes] = []
    await Storage(relay.storage._endpoint, dates.append).read_whole("s", 10)
    assert dates == [seen(0)]


def test_nothing_that_instances_agree_on_asks_a_clock_that_somebody_can_set() -> None:
    house = Path(proxy.__file__).parent
    for path in [*(house / "relay").glob("*.py"), *(house / "streams").glob("*.py")]:
        imported = {
            name
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([node.module] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names])
        }
        allowed = {"email.utils"} if path.name == "clocks.py" else set()
        assert not (imported & {"time", "datetime", "email.utils"}) - allowed, path
