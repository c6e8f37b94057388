"""Whose stream is whose: a token opens the streams of its subject, and a key is its caller's own."""

import asyncio
import time
from pathlib import Path

import pytest

from proxy.policy.auth import Keyring
from proxy.policy.tokens import make_token
from tests.handlers.kit import SECRET, House, code, path_of, running
from tests.kit.calls import Answer
from tests.kit.upstream import GATE, Upstream, chunked, fixed

GONE = (404, "STREAM_NOT_FOUND")


def bearer(subject: str | None) -> str:
    """A credential: the secret itself for "", else a token with this subject, or with none."""
    if subject == "":
        return f"Bearer {SECRET}"
    return f"Bearer {make_token(SECRET, time.time(), 3600, sub=subject)}"


async def ask(house: House, method: str, path: str, subject: str | None) -> Answer:
    return await house.client.call(method, path, authorization=bearer(subject))


@pytest.mark.parametrize("owner", ["ann", None])
async def test_a_stream_is_opened_by_its_subject_and_by_the_secret_and_by_nobody_else(
    tmp_path: Path, upstream: Upstream, owner: str | None
) -> None:
    others = {"ann", "bob", None} - {owner}
    async with running(tmp_path) as house:
        created = await house.create(upstream.serve(fixed(b"one")).url, authorization=bearer(owner))
        path = path_of(created)
        await house.whole(path)
        for other in others:
            for method, query in (("GET", ""), ("GET", "?live=sse&offset=-1"), ("DELETE", "")):
                assert code(await ask(house, method, path + query, other)) == GONE
            assert (await ask(house, "HEAD", path, other)).status == 404
        for opener in (owner, ""):
            assert (await ask(house, "GET", path, opener)).body == b"one"
            assert (await ask(house, "HEAD", path, opener)).status == 200
        assert (await house.client.call("GET", created["location"] or "")).body == b"one"
        assert (await ask(house, "DELETE", path, owner)).status == 204
        assert code(await ask(house, "GET", path, "")) == GONE


async def test_a_long_poll_of_another_s_stream_is_answered_as_soon_as_one_of_no_stream(
    tmp_path: Path, upstream: Upstream
) -> None:
    async with running(tmp_path) as house:
        route = upstream.serve(chunked(b"one", GATE))
        path = path_of(await house.create(route.url, authorization=bearer("ann")))
        async with asyncio.timeout(5):
            assert code(await ask(house, "GET", f"{path}?live=long-poll&offset=now", "bob")) == GONE
        route.release()


SCOPES: list[dict[str, str]] = [
    {"authorization": bearer("")},
    {"authorization": bearer("ann")},
    {"authorization": bearer("bob")},
    {"authorization": bearer(""), "upstream_authorization": "Bearer one"},
    {"authorization": bearer(""), "upstream_authorization": "Bearer two"},
    {"authorization": bearer(""), "x_api_key": "Bearer one"},
    {"authorization": bearer(""), "api_key": "Bearer one"},
    {"authorization": bearer(""), "x_goog_api_key": "Bearer one"},
    {"authorization": bearer(""), "xi_api_key": "Bearer one"},
    {"authorization": bearer(""), "ocp_apim_subscription_key": "Bearer one"},
    {"authorization": bearer(""), "x_auth_token": "Bearer one"},
    {"authorization": bearer(""), "cf_aig_authorization": "Bearer one"},
]


async def test_the_same_key_of_another_caller_neither_answers_nor_conflicts_nor_blocks(
    tmp_path: Path, upstream: Upstream
) -> None:
    async with running(tmp_path) as house:
        waiting = upstream.serve([GATE, *fixed(b"late")])
        blocked = asyncio.ensure_future(house.create(waiting.url, b"q", idempotency_key="k", **SCOPES[0]))
        await asyncio.to_thread(waiting.wait_requests)
        route = upstream.serve(*[fixed(b"%d" % number) for number in range(len(SCOPES))])
        paths = []
        for scope in SCOPES[1:]:
            created = await house.create(route.url, b"q", idempotency_key="k", **scope)
            assert created.status == 201
            paths.append(path_of(created))
        assert len(set(paths)) == len(SCOPES) - 1
        for path, scope in zip(paths, SCOPES[1:], strict=True):
            replay = await house.create(route.url, b"q", idempotency_key="k", **scope)
            assert (replay.status, path_of(replay)) == (200, path)
        waiting.release()
        assert (await blocked).status == 201
        assert route.count == len(SCOPES) - 1


async def test_a_signed_url_belongs_to_one_stream_for_ever(tmp_path: Path, upstream: Upstream) -> None:
    async with running(tmp_path) as house:
        route = upstream.serve(fixed(b"one"), chunked(b"two", GATE))
        first = await house.create(route.url, idempotency_key="k")
        assert (await ask(house, "DELETE", path_of(first), "")).status == 204
        second = await house.create(route.url, idempotency_key="k")
        assert (second.status, route.count) == (201, 2)
        assert code(await house.client.call("GET", first["location"] or "")) == GONE
        assert (await house.client.call("PATCH", f"{first['location']}&action=abort")).status == 204
        route.release()
        found = await house.whole(path_of(second))
        assert (found.body, found["upstream-outcome"]) == (b"two", "complete")


def test_a_name_in_storage_tells_nothing_and_differs_by_every_part() -> None:
    keyring = Keyring([SECRET])
    parts = [[b"a", b"b"], [b"ab"], [b"a", b"b", b""], [b"b", b"a"], [b"1:a", b"b"], []]
    names = {keyring.hidden_names(part)[0] for part in parts}
    assert len(names) == len(parts)
    assert Keyring(["another"]).hidden_names([b"a", b"b"])[0] not in names
    both = Keyring(["another", SECRET]).hidden_names([b"a", b"b"])
    assert both[1] == keyring.hidden_names([b"a", b"b"])[0]
