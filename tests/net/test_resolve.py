"""Resolving: a name whose servers are silent delays only the callers that ask for it."""

import asyncio
import socket

import pytest

from proxy.net.resolve import ResolveError, Resolver
from tests.kit.dialling import Resolved, resolver_limits
from tests.kit.waiting import SOON, until


async def test_a_hundred_silent_names_hold_up_no_other_name(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = Resolved(monkeypatch, ["127.0.0.1"])
    resolved.silent = {f"slow{number}" for number in range(100)}
    resolver = Resolver(resolver_limits(lookups=101))
    waiting = [asyncio.ensure_future(resolver.resolve(name)) for name in resolved.silent]
    await until(lambda: len(resolved.asked) == 100)
    assert await resolver.resolve("fast") == ("127.0.0.1",)
    resolved.speak.set()
    assert await asyncio.gather(*waiting) == [("127.0.0.1",)] * 100


async def test_everyone_who_asks_for_a_name_waits_for_one_look_up(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = Resolved(monkeypatch, ["127.0.0.1", "127.0.0.1", "::1"])
    resolved.silent = {"name"}
    resolver = Resolver(resolver_limits())
    first, *others = [asyncio.ensure_future(resolver.resolve("name")) for _ in range(5)]
    await until(lambda: bool(resolved.asked))
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    resolved.speak.set()
    assert await asyncio.gather(*others) == [("127.0.0.1", "::1")] * 4
    assert resolved.asked == ["name"]


async def test_a_look_up_that_hangs_fails_its_callers_in_time_and_later_ones_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolved = Resolved(monkeypatch, ["127.0.0.1"])
    resolved.silent = {"name"}
    resolver = Resolver(resolver_limits(timeout=0.05, answers=60.0))
    for _ in range(3):
        with pytest.raises(ResolveError):
            await resolver.resolve("name")
    assert resolved.asked == ["name"]
    resolved.speak.set()  # the answer that nobody waited for is remembered
    await until(lambda: not resolver._lookups)
    assert await resolver.resolve("name") == ("127.0.0.1",)
    assert resolved.asked == ["name"]


async def test_so_many_names_are_looked_up_at_once_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = Resolved(monkeypatch, ["127.0.0.1"])
    resolved.silent = {"one", "two"}
    resolver = Resolver(resolver_limits(lookups=2))
    waiting = [asyncio.ensure_future(resolver.resolve(name)) for name in ("one", "two")]
    await until(lambda: len(resolved.asked) == 2)
    with pytest.raises(ResolveError):
        await resolver.resolve("three")
    assert await resolver.resolve("127.0.0.9") == ("127.0.0.9",)  # a literal needs no look-up
    resolved.speak.set()
    await asyncio.gather(*waiting)
    assert await resolver.resolve("three") == ("127.0.0.1",)


@pytest.mark.parametrize(("failures", "asked"), [(60.0, 1), (0.0, 3)])
async def test_a_failure_is_remembered_for_its_time_only(
    monkeypatch: pytest.MonkeyPatch, failures: float, asked: int
) -> None:
    resolved = Resolved(monkeypatch, socket.gaierror(socket.EAI_NONAME, "no"))
    resolver = Resolver(resolver_limits(failures=failures))
    for _ in range(3):
        with pytest.raises(ResolveError):
            await resolver.resolve("nowhere.invalid")
    assert len(resolved.asked) == asked


async def test_only_so_many_names_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    Resolved(monkeypatch, ["127.0.0.1"])
    resolver = Resolver(resolver_limits(answers=60.0))
    for number in range(150):
        await resolver.resolve(f"name{number}")
    assert len(resolver._known) == 100


def test_a_look_up_outlives_its_loop_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    resolved = Resolved(monkeypatch, ["127.0.0.1"])
    resolved.silent = {"name"}

    async def main() -> None:
        with pytest.raises(ResolveError):
            await Resolver(resolver_limits(timeout=0.01)).resolve("name")

    asyncio.run(main())
    resolved.speak.set()


async def test_the_real_resolver_knows_localhost() -> None:
    async with asyncio.timeout(SOON):
        assert set(await Resolver(resolver_limits()).resolve("localhost")) <= {"127.0.0.1", "::1"}
