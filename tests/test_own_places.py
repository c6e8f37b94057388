"""The whole program: what is never an upstream, whatever the allowlist says, and what needs a pattern of its own."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from proxy.config import Config
from proxy.server import ProxyServer, create_proxy_server
from proxy.standalone import StoreServer
from tests.conformance.caller import Caller, code
from tests.handlers.kit import code as answered
from tests.handlers.kit import running
from tests.kit.dialling import Resolved
from tests.kit.upstream import Upstream, fixed

SECRET = "the service secret"
LOOPBACK = ["http://localhost:*/**", "http://127.0.0.1:*/**", "http://[::1]:*/**", "http://0.0.0.0:*/**"]


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


async def started(directory: Path, **settings: object) -> ProxyServer:
    values = {"port": 0, "allowlist": LOOPBACK, "secret": SECRET, "data_dir": str(directory)}
    return await create_proxy_server(**{**values, **settings})


async def answers(server: ProxyServer, *urls: str) -> list[httpx.Response]:
    """What creates for these upstream URLs get."""

    def talk() -> list[httpx.Response]:
        caller = Caller(server.url.replace("0.0.0.0", "127.0.0.1"), SECRET)
        with contextlib.closing(caller.http):
            return [caller.post(url, method="GET") for url in urls]

    return await asyncio.to_thread(talk)


@pytest.mark.parametrize(
    ("host", "places"),
    [
        ("localhost", ["localhost", "127.0.0.1", "[::1]", "0.0.0.0"]),
        ("0.0.0.0", ["localhost", "127.0.0.1", "0.0.0.0"]),
        ("127.0.0.1", ["localhost", "127.0.0.1", "0.0.0.0"]),
    ],
)
async def test_the_proxy_is_no_upstream_of_its_own(tmp_path: Path, host: str, places: list[str]) -> None:
    async with await started(tmp_path, host=host) as server:
        for answer in await answers(server, *(f"http://{place}:{server.port}/health" for place in places)):
            assert code(answer) == (403, "UPSTREAM_NOT_ALLOWED")


async def test_storage_is_no_upstream(tmp_path: Path, upstream: Upstream) -> None:
    """A client that reaches storage without the proxy reads records, and deletes streams without our credentials."""
    store = StoreServer(Config.of(port=0, data_dir=str(tmp_path / "data")))
    port = int(store.url.rpartition(":")[2])
    async with await started(tmp_path, durable_streams_url=f"http://localhost:{port}") as server:
        assert (await answers(server, upstream.serve(fixed(b"x")).url))[0].status_code == 201
        for answer in await answers(
            server, *(f"http://{place}:{port}/v1/streams/x" for place in ("localhost", "127.0.0.1"))
        ):
            assert code(answer) == (403, "UPSTREAM_NOT_ALLOWED")
    await store.stop()


@pytest.mark.parametrize(("private", "status"), [([], 403), (["http://{name}:*/**"], 201), (["http://other:*"], 403)])
async def test_a_name_with_a_private_address_needs_a_pattern_of_private_upstreams(
    tmp_path: Path, upstream: Upstream, private: list[str], status: int
) -> None:
    name = socket.gethostname().lower()
    with contextlib.suppress(OSError):
        if socket.gethostbyname(name) == "127.0.0.1":
            url = upstream.serve(fixed(b"x")).url.replace("localhost", name)
            patterns = [pattern.format(name=name) for pattern in private]
            async with await started(tmp_path, allowlist=[f"http://{name}:*/**"], allow_private=patterns) as server:
                assert (await answers(server, url))[0].status_code == status
            return
    pytest.skip("this machine's name does not resolve to loopback")


@pytest.mark.parametrize(
    "addresses",
    [["169.254.169.254"], ["8.8.8.8", "169.254.169.254"], ["fd00:ec2::254"], ["64:ff9b::a9fe:a9fe"], ["fe80::1%lo"]],
)
@pytest.mark.parametrize("private", [(), ("http://partner.test",)])
async def test_no_name_leads_to_metadata_or_link_local_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, addresses: list[str], private: tuple[str, ...]
) -> None:
    Resolved(monkeypatch, addresses)
    async with running(tmp_path, allowlist=("http://partner.test/**",), allow_private=private) as house:
        assert answered(await house.create("http://partner.test/latest/meta-data/")) == (403, "UPSTREAM_NOT_ALLOWED")
