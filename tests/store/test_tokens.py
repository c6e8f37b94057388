"""Bearer tokens before the store."""

import pytest

from proxy.store import with_tokens
from tests.kit.calls import Client

READ = ("GET", "HEAD")
WRITE = ("PUT", "POST", "DELETE")


@pytest.fixture
def guarded(client: Client) -> Client:
    return Client(with_tokens(client.handler, read=[b"reader"], write=[b"writer", b"next"]))


@pytest.mark.parametrize("method", [*READ, *WRITE])
@pytest.mark.parametrize("given", ["", "Bearer", "Bearer wrong", "Basic writer", "writer", "Bearer \xff"])
async def test_without_a_good_token_nothing_is_answered(guarded: Client, method: str, given: str) -> None:
    answer = await guarded.call(method, "/s", **({"authorization": given} if given else {}))
    assert (answer.status, answer["www-authenticate"]) == (401, "Bearer")
    assert answer["access-control-allow-origin"] == "*"


@pytest.mark.parametrize("method", READ)
@pytest.mark.parametrize("token", ["reader", "writer", "next"])
async def test_any_token_reads(guarded: Client, method: str, token: str) -> None:
    assert (await guarded.call(method, "/s", authorization=f"bearer {token}")).status == 404


@pytest.mark.parametrize("method", WRITE)
async def test_a_token_for_reading_does_not_write(guarded: Client, method: str) -> None:
    assert (await guarded.call(method, "/s", authorization="Bearer reader")).status == 401
    assert (await guarded.call(method, "/s", authorization="Bearer next")).status != 401


async def test_a_preflight_needs_no_token(guarded: Client) -> None:
    assert (await guarded.call("OPTIONS", "/s")).status == 204


async def test_without_tokens_for_reading_anybody_reads(client: Client) -> None:
    guarded = Client(with_tokens(client.handler, read=[], write=[b"writer"]))
    assert (await guarded.get("/s")).status == 404
    assert (await guarded.put("/s")).status == 401


async def test_without_any_tokens_everything_is_open(client: Client) -> None:
    assert (await Client(with_tokens(client.handler, read=[], write=[])).put("/s")).status == 201


def test_tokens_for_reading_alone_are_a_mistake(client: Client) -> None:
    with pytest.raises(ValueError, match="writing"):
        with_tokens(client.handler, read=[b"reader"], write=[])
