"""Plain httpx and httpx2 clients on a durable transport."""

import asyncio
import gzip
import importlib
import logging
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from proxy.client import IncompleteStream, Outcome, Retry, durable_request
from tests.client.conftest import QUICK
from tests.client.scripted_proxy import ScriptedProxy, error_answer

URL = "http://upstream.test/v1"


@pytest.fixture(params=["httpx", "httpx2"])
def library(request: pytest.FixtureRequest) -> ModuleType:
    """Either library."""
    return importlib.import_module(request.param)


class Clients:
    """Makes clients of one library, closed in the end."""

    def __init__(self, library: ModuleType, proxy: ScriptedProxy) -> None:
        self.library = library
        self.proxy = proxy
        self.open: list[Any] = []

    def __call__(self, *, durable: dict[str, Any] | None = None, **options: Any) -> Any:
        module = importlib.import_module(f"proxy.client.{self.library.__name__}")
        chosen = {"proxy_authorization": self.proxy.secret, "retry": QUICK} | (durable or {})
        transport = module.DurableTransport(self.proxy.url, **chosen)
        self.open.append(self.library.Client(transport=transport, **options))
        return self.open[-1]


@pytest.fixture
def clients(library: ModuleType, proxy: ScriptedProxy) -> Iterator[Clients]:
    """Clients of the scripted proxy."""
    clients = Clients(library, proxy)
    yield clients
    for client in clients.open:
        client.close()


def test_a_response_is_the_librarys_own_and_knows_its_stream(clients: Clients, library: ModuleType) -> None:
    stream = clients.proxy.stream(b"hello", content_type="text/plain; charset=utf-8")
    response = clients().post(URL, json={"q": 1})
    assert type(response) is library.Response
    assert (response.status_code, response.text, response.url) == (200, "hello", URL)
    assert response.raise_for_status() is response
    durable = response.extensions["durable_response"]
    assert (durable.stream_id, durable.outcome, durable.was_resumed) == (stream.id, Outcome.COMPLETE, False)


def test_bodies_of_every_kind_are_sent_whole(clients: Clients) -> None:
    client = clients()
    client.put(URL, content=(part for part in (b"a", b"b")))
    client.post(URL, data={"a": "1"})
    client.post(URL, files={"f": ("name", b"content")})
    bodies = [asked.body for asked in clients.proxy.creates]
    assert bodies[:2] == [b"ab", b"a=1"]
    assert b"content" in bodies[2]
    assert clients.proxy.creates[2].headers["content-type"].startswith("multipart/form-data; boundary=")
    assert "transfer-encoding" not in clients.proxy.creates[0].headers


def test_credentials_in_a_url_become_a_header_and_a_fragment_is_dropped(clients: Clients) -> None:
    clients().get("http://user:pass@upstream.test:8080/v1?q=1#part")
    (asked,) = clients.proxy.creates
    assert asked.headers["upstream-url"] == "http://upstream.test:8080/v1?q=1"
    assert asked.headers["upstream-authorization"].startswith("Basic ")


def test_an_ipv6_host_and_an_international_one_are_spelled_for_the_wire(clients: Clients) -> None:
    client = clients()
    client.get("http://[::1]:99/x")
    client.get("http://bücher.test/ü")
    assert [asked.headers["upstream-url"] for asked in clients.proxy.creates] == [
        "http://[::1]:99/x",
        "http://xn--bcher-kva.test/%C3%BC",
    ]


def test_a_scheme_that_cannot_be_proxied_is_the_librarys_error(clients: Clients, library: ModuleType) -> None:
    with pytest.raises(library.UnsupportedProtocol):
        clients().get("ftp://upstream.test/")


def test_an_encoded_answer_is_decoded_by_the_library(clients: Clients) -> None:
    packed = gzip.compress(b"hello" * 50)
    stream = clients.proxy.stream(packed[:7], packed[7:])
    clients.proxy.streams[stream.id] = stream
    fields = f"Location: {clients.proxy.stream_url(stream)}\r\nUpstream-Content-Encoding: gzip\r\n"
    clients.proxy.answers.append(f"HTTP/1.1 201 x\r\n{fields}Content-Length: 0\r\n\r\n".encode())
    assert clients().get(URL).text == "hello" * 50


def test_an_error_of_the_proxys_is_a_response_that_says_so(clients: Clients) -> None:
    clients.proxy.answers.append(error_answer(403, "UPSTREAM_NOT_ALLOWED", headers={"Retry-After": "3"}))
    response = clients().get(URL)
    assert response.status_code == 403
    assert response.headers["durable-proxy-error"] == "UPSTREAM_NOT_ALLOWED"
    assert (response.headers["x-should-retry"], response.headers["retry-after"]) == ("false", "3")
    assert response.json()["error"]["code"] == "UPSTREAM_NOT_ALLOWED"
    clients.proxy.answers.append(b"HTTP/1.1 302 x\r\nContent-Length: 0\r\n\r\n")
    assert clients().get(URL).status_code == 502


def test_an_upstreams_error_is_a_response_that_does_not(clients: Clients) -> None:
    clients.proxy.answers.append(error_answer(502, "x", headers={"Upstream-Status": "503", "Retry-After": "3"}))
    response = clients().get(URL)
    assert (response.status_code, response.headers["retry-after"]) == (503, "3")
    assert not {"durable-proxy-error", "x-should-retry", "upstream-status"} & set(response.headers)


def test_an_incomplete_answer_is_an_error_also_when_it_is_read_at_once(clients: Clients, library: ModuleType) -> None:
    clients.proxy.stream(b"hello", outcome="truncated")
    with pytest.raises(library.RemoteProtocolError) as raised:
        clients().get(URL)
    assert isinstance(raised.value.__cause__, IncompleteStream)
    assert raised.value.request.url == URL


def test_faults_of_the_network_are_the_librarys_errors(clients: Clients, library: ModuleType) -> None:
    module = importlib.import_module(f"proxy.client.{library.__name__}")
    down = module.DurableTransport("http://127.0.0.1:1", proxy_authorization="x", retry=QUICK)
    with library.Client(transport=down) as client, pytest.raises(library.ConnectError):
        client.get(URL)
    clients.proxy.answers.append(b"")
    with pytest.raises(library.ReadTimeout):
        clients(timeout=0.05).get(URL)


def test_the_clients_time_outs_hold(clients: Clients, library: ModuleType) -> None:
    clients.proxy.keep_alive_seconds = 0.02
    clients.proxy.stream(b"hello", outcome=None)
    with clients(timeout=0.2).stream("POST", URL) as response, pytest.raises(library.ReadTimeout):
        response.read()


def test_an_id_resumes_what_a_client_left(clients: Clients) -> None:
    stream = clients.proxy.stream(b"hello ", outcome=None)
    client = clients()
    with durable_request("turn"), client.stream("POST", URL) as response:
        assert next(response.iter_bytes()) == b"hello "
    clients.proxy.close(stream, "complete", b"world")
    again = client.post(URL, headers={"Durable-Request-Id": "turn"})
    assert again.text == "hello world"
    assert again.extensions["durable_response"].was_resumed
    assert len(clients.proxy.creates) == 1


def test_header_bytes_beyond_ascii_pass_both_ways(clients: Clients) -> None:
    clients.proxy.answers.append(
        b"HTTP/1.1 502 x\r\nUpstream-Status: 400\r\nX-Own: \xe9\xff\r\nContent-Length: 0\r\n\r\n"
    )
    response = clients().get(URL, headers=[(b"X-Own", b"\xe9\xff")])
    assert clients.proxy.creates[0].headers["x-own"] == "\xe9\xff"
    assert (b"X-Own", b"\xe9\xff") in response.headers.raw


def test_a_transport_of_the_callers_reaches_the_proxy_and_stays_open(clients: Clients, library: ModuleType) -> None:
    clients.proxy.stream(b"hello")
    clients.proxy.stream(b"again")
    own = library.HTTPTransport()
    client = clients(durable={"transport": own})
    assert client.get(URL).text == "hello"
    client.close()
    clients.open.clear()
    with library.Client(transport=own) as direct:
        assert direct.get(clients.proxy.base).status_code == 404


def test_no_log_line_and_no_repr_holds_a_credential(
    clients: Clients, library: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    stream = clients.proxy.stream(b"hello", outcome=None)
    client = clients()
    with client.stream("POST", URL, headers={"Authorization": "Bearer sk-CANARY"}) as response:
        assert next(response.iter_bytes()) == b"hello"
        durable = response.extensions["durable_response"]
        shown = [repr(each) for each in (client, response, durable, durable.headers, client._transport)]
    client.close()
    clients.open.clear()
    assert "receive_response_headers.complete" in caplog.text, "the library's debug lines are what this looks at"
    everything = caplog.text + " ".join(shown)
    for secret in (clients.proxy.secret, "sk-CANARY", f"SIGNATURE-{stream.salt}"):
        assert secret not in everything


async def test_an_asynchronous_client_does_the_same(library: ModuleType, proxy: ScriptedProxy) -> None:
    module = importlib.import_module(f"proxy.client.{library.__name__}")
    proxy.stream(b"hello")
    proxy.stream(b"hello", outcome="aborted")
    transport = module.AsyncDurableTransport(proxy.url, proxy_authorization=proxy.secret, retry=QUICK)
    async with library.AsyncClient(transport=transport) as client:
        assert (await client.post(URL, content=b"x")).text == "hello"
        with pytest.raises(library.RemoteProtocolError):
            await client.post(URL)
        proxy.answers.append(error_answer(401, "INVALID_SECRET"))
        assert (await client.get(URL)).headers["durable-proxy-error"] == "INVALID_SECRET"
        with pytest.raises(library.UnsupportedProtocol):
            await client.get("ftp://upstream.test/")


def test_a_loop_that_is_left_is_over_when_its_client_is_closed(clients: Clients) -> None:
    stream = clients.proxy.stream(b"hello", outcome=None)
    client = clients()
    response = client.send(client.build_request("POST", URL), stream=True)
    pieces = response.iter_bytes()
    for piece in pieces:
        assert piece == b"hello"
        break
    client.close()
    assert clients.proxy.aborts == [stream.id]


def test_an_asynchronous_loop_that_is_left_is_over_when_its_client_is_closed(
    library: ModuleType, proxy: ScriptedProxy
) -> None:
    module = importlib.import_module(f"proxy.client.{library.__name__}")
    stream = proxy.stream(b"hello", outcome=None)
    complaints: list[Any] = []

    async def leave() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        transport = module.AsyncDurableTransport(proxy.url, proxy_authorization=proxy.secret, retry=QUICK)
        async with library.AsyncClient(transport=transport) as client:
            response = await client.send(client.build_request("POST", URL), stream=True)
            kept.append(response.aiter_bytes())
            async for piece in kept[0]:
                assert piece == b"hello"
                break

    kept: list[Any] = []
    asyncio.run(leave())
    assert proxy.aborts == [stream.id]
    assert complaints == []


async def test_retries_of_questions_alike_that_were_lost_together_get_a_stream_each(
    library: ModuleType, proxy: ScriptedProxy
) -> None:
    module = importlib.import_module(f"proxy.client.{library.__name__}")
    proxy.lose_creates = 5
    transport = module.AsyncDurableTransport(proxy.url, proxy_authorization=proxy.secret, retry=Retry(creates=1))
    async with library.AsyncClient(transport=transport) as client:

        async def ask(attempt: str) -> Any:
            return await client.post(URL, content=b"q", headers={"X-Stainless-Retry-Count": attempt})

        lost = await asyncio.gather(*(ask("0") for _ in range(5)), return_exceptions=True)
        assert all(isinstance(error, library.TransportError) for error in lost)
        found = await asyncio.gather(*(ask("1") for _ in range(5)))
    assert len({response.extensions["durable_response"].stream_id for response in found}) == 5
    assert len(proxy.streams) == 5


@pytest.mark.parametrize("on_close", ["auto", "abort"])
@pytest.mark.parametrize("request_id", [None, "turn"])
def test_a_retry_after_a_read_that_failed_finds_the_stream_again(
    clients: Clients, library: ModuleType, on_close: str, request_id: str | None
) -> None:
    stream = clients.proxy.stream(b"hello ", outcome=None, content_type="application/json")
    client = clients(durable={"on_close": on_close}, timeout=library.Timeout(5, read=0.1))
    named = {"Durable-Request-Id": request_id} if request_id is not None else {}
    with pytest.raises(library.ReadTimeout):
        client.post(URL, headers=named | {"X-Stainless-Retry-Count": "0"})
    clients.proxy.close(stream, "complete", b"world")
    assert client.post(URL, headers=named | {"X-Stainless-Retry-Count": "1"}).text == "hello world"
    assert len(clients.proxy.streams) == 1
    client.close()
    assert clients.proxy.aborts == []


def test_events_that_stay_away_are_aborted_by_a_close_because_nobody_asks_for_them_again(
    clients: Clients, library: ModuleType
) -> None:
    stream = clients.proxy.stream(b"data: 1\n\n", outcome=None, content_type="text/event-stream; charset=utf-8")
    client = clients(timeout=library.Timeout(5, read=0.1))
    with (
        client.stream("POST", URL, headers={"X-Stainless-Retry-Count": "0"}) as response,
        pytest.raises(library.ReadTimeout),
    ):
        list(response.iter_bytes())
    client.close()
    assert clients.proxy.aborts == [stream.id]
