"""Web pages before a store without tokens: what a page of another site sends is refused, what programs send is not."""

from pathlib import Path

import httpx
import pytest

from proxy.config import Config, Value
from proxy.standalone import StoreServer
from proxy.store import without_foreign_pages
from tests.kit.calls import Client

METHODS = ("PUT", "POST", "GET", "HEAD", "DELETE", "OPTIONS")

FOREIGN_HOSTS = [
    "evil.example", "evil.example:4437", "localhost.evil.example", "evil-localhost", "127.0.0.1.evil.example",
    "10.0.0.5:4437", "0.0.0.0:4437", "[::]:4437", "169.254.169.254", "localhost:4437.evil.example", "a@localhost",
    "localhost:x", "", "[::1", "xlocalhost",
]  # fmt: skip
OWN_HOSTS = [
    "localhost", "LOCALHOST:4437", "127.0.0.1:4437", "127.8.9.1", "[::1]:4437", "app.localhost:4437",
    "store.example.com",
]  # fmt: skip
FOREIGN_ORIGINS = [
    "https://evil.example", "http://evil.example:4437", "null", "http://localhost.evil.example", "file://",
    "http://localhost@evil.example", "http://evil.example/localhost", "chrome-extension://localhost", "localhost",
    "http://localhost http://evil.example", "",
]  # fmt: skip
OWN_ORIGINS = ["http://localhost:3000", "http://127.0.0.1:5173", "http://[::1]:4437", "https://store.example.com"]


@pytest.fixture
def local(client: Client) -> Client:
    return Client(without_foreign_pages(client.handler, names=["store.example.com"]))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("host", FOREIGN_HOSTS)
async def test_a_name_of_another_site_is_refused_whatever_it_points_at(local: Client, method: str, host: str) -> None:
    answer = await local.call(method, "/s", host=host)
    assert (answer.status, b"--public-url" in answer.body) == (403, True)
    assert (await local.get("/s", host="localhost")).status == 404


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("origin", FOREIGN_ORIGINS)
async def test_a_page_of_another_site_is_refused(local: Client, method: str, origin: str) -> None:
    assert (await local.call(method, "/s", host="localhost:4437", origin=origin)).status == 403
    assert (await local.get("/s", host="localhost:4437")).status == 404


@pytest.mark.parametrize("host", OWN_HOSTS)
async def test_programs_of_this_machine_are_served(local: Client, host: str) -> None:
    assert (await local.put("/s", host=host)).status == 201
    assert (await local.post("/s", b"x", host=host)).status == 204
    assert (await local.get("/s?offset=-1", host=host)).body == b"x"


@pytest.mark.parametrize("origin", OWN_ORIGINS)
async def test_pages_of_this_machine_are_served(local: Client, origin: str) -> None:
    assert (await local.put("/s", host="localhost", origin=origin, sec_fetch_site="cross-site")).status == 201


async def test_what_a_browser_loads_for_another_site_is_refused_without_an_origin(local: Client) -> None:
    await local.put("/s", host="localhost")
    assert (await local.get("/s", host="localhost", sec_fetch_site="cross-site")).status == 403
    for site in ("same-origin", "same-site", "none"):
        assert (await local.get("/s", host="localhost", sec_fetch_site=site)).status == 200


async def test_no_response_can_be_read_by_a_script_of_another_origin(local: Client) -> None:
    answers = [await local.call(method, "/s", host="localhost") for method in METHODS]
    answers += [await local.get("/s", host="evil.example"), await local.get("/s?live=sse&offset=x", host="localhost")]
    for answer in answers:
        assert not [name for name, _ in answer.headers if name.startswith(b"access-control-")]
        assert answer["cross-origin-resource-policy"] in ("same-origin", None)


async def test_a_unix_socket_takes_any_host_but_no_foreign_page(client: Client) -> None:
    local = Client(without_foreign_pages(client.handler, names=["store.example.com"], any_host=True))
    assert (await local.put("/s", host="whatever")).status == 201
    assert (await local.get("/s", host="whatever", origin="https://evil.example")).status == 403
    assert (await local.get("/s", host="whatever", origin="https://store.example.com")).status == 200


async def test_a_store_keeps_pages_out_until_it_has_tokens(tmp_path: Path) -> None:
    options: dict[str, Value] = {"port": 0, "host": ("127.0.0.1",), "public_url": "https://Store.example.com/streams"}
    foreign = {"Origin": "https://evil.example"}
    store = StoreServer(Config.of(**options, data_dir=str(tmp_path / "open")))
    async with httpx.AsyncClient(base_url=store.url) as http:
        assert (await http.put("/s", headers=foreign)).status_code == 403
        assert (
            await http.put("/s", headers={"Host": f"evil.example:{store.url.rpartition(':')[2]}"})
        ).status_code == 403
        assert (await http.put("/s", headers={"Host": "store.example.com"})).status_code == 201
        malformed = await http.get("/s", headers={"Expect": "nothing"})
        assert (malformed.status_code, "access-control-allow-origin" in malformed.headers) == (417, False)
    await store.stop()
    store = StoreServer(Config.of(**options, data_dir=str(tmp_path / "guarded"), store_write_token="write"))
    async with httpx.AsyncClient(base_url=store.url) as http:
        answer = await http.put("/s", headers=foreign | {"Authorization": "Bearer write", "Host": "store.internal"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (201, "*")
    await store.stop()
