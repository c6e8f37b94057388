"""openai and anthropic behave behind a durable transport as they do without one, and survive what they would not."""

import asyncio
import base64
import importlib
import json
from collections.abc import Iterator
from typing import Any

import pytest

from proxy.client import FileStorage, IncompleteStream, Outcome, ProxyError, durable_request
from tests.client.scripted_proxy import ScriptedProxy, error_answer
from tests.client.sdks import KINDS, Kind, Sdk, dumped
from tests.client.wire_formats import anthropic_error
from tests.kit.scripts import GATE, HANG, RESET, chunked
from tests.kit.upstream import Route, Upstream


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """The service that is asked, directly or by way of the proxy."""
    with Upstream() as upstream:
        yield upstream


OPENAI = [kind for kind in KINDS if kind.name == "openai"]
ANTHROPIC = [kind for kind in KINDS if kind.name == "anthropic"]


@pytest.fixture(params=KINDS, ids=str)
def sdk(request: pytest.FixtureRequest, proxy: ScriptedProxy) -> Iterator[Sdk]:
    """An SDK, closed before the proxy is."""
    sdk = Sdk(request.param)
    yield sdk
    sdk.close()


@pytest.fixture
def proxy(proxy: ScriptedProxy) -> ScriptedProxy:
    """A proxy that asks the upstream."""
    proxy.forwards = True
    return proxy


STATUSES = (400, 401, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529)


class Both:
    """A direct client and a durable one, each with a route of its own that answers alike."""

    def __init__(self, sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy, *scripts: Any, **options: Any) -> None:
        self.routes = [upstream.serve(*scripts, path="") for _ in range(2)]
        self.direct = sdk.client(self.routes[0].url, **options)
        self.durable = sdk.client(self.routes[1].url, proxy=proxy.url, secret=proxy.secret, **options)

    @property
    def counts(self) -> list[int]:
        return [route.count for route in self.routes]


def durable(sdk: Sdk, proxy: ScriptedProxy, route: Route, **options: Any) -> Any:
    """A client by way of the proxy."""
    return sdk.client(route.url, proxy=proxy.url, secret=proxy.secret, **options)


# Alike


def test_a_streamed_answer_is_the_same(sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy) -> None:
    both = Both(sdk, upstream, proxy, sdk.stream_script("Hel", "lo ", "wörld"))
    direct, through = (dumped(sdk.items(sdk.streamed(client))) for client in (both.direct, both.durable))
    assert direct == through
    assert len(direct) >= 5
    assert both.counts == [1, 1]


def test_an_answer_in_one_piece_is_the_same(sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy) -> None:
    both = Both(sdk, upstream, proxy, sdk.whole_script("Hello " * 1000))
    direct, through = (sdk.whole(client) for client in (both.direct, both.durable))
    assert direct.model_dump() == through.model_dump()
    assert direct._request_id == through._request_id == "req_7"


def test_a_tool_call_is_the_same(sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy) -> None:
    both = Both(sdk, upstream, proxy, sdk.tool_script())
    direct, through = (dumped(sdk.items(sdk.streamed(client))) for client in (both.direct, both.durable))
    assert direct == through
    assert "Köln" in json.dumps(direct, ensure_ascii=False)


@pytest.mark.parametrize("sdk", OPENAI, ids=str, indirect=True)
def test_a_stream_that_does_not_end_with_done_is_the_same(sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy) -> None:
    both = Both(sdk, upstream, proxy, sdk.responses_script("Hello"))
    direct, through = (
        dumped(sdk.items(sdk.run(client.responses.create(model="gpt-4o", input="hi", stream=True))))
        for client in (both.direct, both.durable)
    )
    assert direct == through
    assert [event["type"] for event in through][-1] == "response.completed"


@pytest.mark.parametrize("sdk", ANTHROPIC, ids=str, indirect=True)
def test_the_sdks_own_stream_helper_gives_the_same(sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy) -> None:
    both = Both(sdk, upstream, proxy, sdk.stream_script("Hel", "lo"))

    async def text_of(client: Any) -> tuple[str, Any]:
        async with client.messages.stream(**sdk.arguments) as stream:
            return "".join([text async for text in stream.text_stream]), await stream.get_final_message()

    def text(client: Any) -> tuple[str, Any]:
        if sdk.kind.asynchronous:
            return sdk.runner.run(text_of(client))
        with client.messages.stream(**sdk.arguments) as stream:
            return "".join(stream.text_stream), stream.get_final_message()

    (direct, first), (through, second) = text(both.direct), text(both.durable)
    assert direct == through == "Hello"
    assert first.model_dump() == second.model_dump()


@pytest.mark.parametrize("retries", [0, 2])
def test_an_error_is_the_same_and_costs_the_same_calls(
    sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy, retries: int
) -> None:
    scripts: list[Any] = []
    for status in STATUSES:
        calls = 1 + retries if status in (408, 409, 429) or status >= 500 else 1
        scripts += [sdk.error_script(status, ("retry-after-ms", "1"), ("retry-after", "0"))] * calls
    both = Both(sdk, upstream, proxy, *scripts, max_retries=retries)
    for status in STATUSES:
        caught = []
        for client in (both.direct, both.durable):
            with pytest.raises(sdk.errors.APIStatusError) as raised:
                sdk.whole(client)
            caught.append(raised.value)
        direct, through = caught
        assert type(direct) is type(through)
        assert (direct.status_code, direct.body, direct.request_id) == (status, through.body, "req_7")
        assert (through.status_code, through.request_id, str(through)) == (status, "req_7", str(direct))
        assert both.counts[0] == both.counts[1]
    assert both.counts[0] == len(scripts)


def test_a_service_that_forbids_retries_is_obeyed(sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy) -> None:
    both = Both(sdk, upstream, proxy, sdk.error_script(503, ("x-should-retry", "false")), max_retries=2)
    for client in (both.direct, both.durable):
        with pytest.raises(sdk.errors.APIStatusError):
            sdk.whole(client)
    assert both.counts == [1, 1]


def test_an_error_is_followed_by_success_as_without_us(sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy) -> None:
    scripts = [sdk.error_script(429, ("retry-after-ms", "1")), sdk.stream_script("Hello")]
    both = Both(sdk, upstream, proxy, *scripts, max_retries=2)
    direct, through = (dumped(sdk.items(sdk.streamed(client))) for client in (both.direct, both.durable))
    assert direct == through
    assert both.counts == [2, 2]


def test_an_error_within_a_stream_is_the_same(sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy) -> None:
    if sdk.kind.name == "openai":
        event = b'data: {"error": {"message": "no", "code": "x"}}\n\n'
    else:
        event = b"event: error\ndata: %b\n\n" % anthropic_error("overloaded_error")
    both = Both(sdk, upstream, proxy, chunked(sdk.events("Hel")[0], event))
    caught = []
    for client in (both.direct, both.durable):
        with pytest.raises(sdk.errors.APIError) as raised:
            sdk.items(sdk.streamed(client))
        caught.append(raised.value)
    assert type(caught[0]) is type(caught[1])
    assert caught[0].body == caught[1].body


def test_the_upstream_sees_the_same_request(sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy) -> None:
    both = Both(sdk, upstream, proxy, sdk.stream_script("Hello"))
    for client in (both.direct, both.durable):
        sdk.items(sdk.streamed(client, extra_headers={"X-Own": "1"}, extra_query={"q": "a b"}))
    direct, through = (route.requests[0] for route in both.routes)
    assert direct.body == through.body
    assert direct.method == through.method
    assert direct.target.partition(b"/")[2].partition(b"/")[2] == through.target.partition(b"/")[2].partition(b"/")[2]
    ours = {"host", "accept-encoding", "connection", "idempotency-key", "content-length"}
    fields = [{name.decode().lower(): value for name, value in seen.headers} for seen in (direct, through)]
    assert {n: v for n, v in fields[0].items() if n not in ours} == {
        n: v for n, v in fields[1].items() if n not in ours
    }


def test_raw_responses_show_the_upstreams_head(sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy) -> None:
    both = Both(sdk, upstream, proxy, sdk.whole_script("Hello"))
    seen = []
    for client in (both.direct, both.durable):
        raw = sdk.run(sdk.resource(client).with_raw_response.create(**sdk.arguments))
        parsed = sdk.run(raw.parse())
        seen.append((raw.status_code, raw.headers["x-request-id"], raw.headers["content-type"], parsed.model_dump()))
    assert seen[0] == seen[1]


def test_streaming_responses_give_the_same_lines(sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy) -> None:
    both = Both(sdk, upstream, proxy, sdk.stream_script("Hel", "lo"))

    async def lines_of(client: Any) -> list[str]:
        opening = sdk.resource(client).with_streaming_response.create(**sdk.arguments, stream=True)
        async with opening as response:
            return [line async for line in response.iter_lines()]

    def lines(client: Any) -> list[str]:
        if sdk.kind.asynchronous:
            return sdk.runner.run(lines_of(client))
        with sdk.resource(client).with_streaming_response.create(**sdk.arguments, stream=True) as response:
            return list(response.iter_lines())

    direct, through = lines(both.direct), lines(both.durable)
    assert direct == through
    assert len(direct) > 4


# Where it differs, on purpose


@pytest.mark.parametrize(
    ("status", "code"),
    [(401, "INVALID_SECRET"), (403, "UPSTREAM_NOT_ALLOWED"), (502, "RESPONSE_TOO_LARGE"), (502, "STORAGE_ERROR")],
)
def test_a_refusal_that_would_be_repeated_says_whose_it_is_and_is_not_retried(
    sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy, status: int, code: str
) -> None:
    route = upstream.serve(sdk.stream_script("Hello"), path="")
    proxy.answers.append(error_answer(status, code, message="told why"))
    with pytest.raises(sdk.errors.APIStatusError) as raised:
        sdk.streamed(durable(sdk, proxy, route, max_retries=2))
    assert raised.value.status_code == status
    assert raised.value.response.headers["durable-proxy-error"] == code
    assert "told why" in str(raised.value)
    assert (len(proxy.creates), route.count) == (1, 0)


@pytest.fixture
def _quick(sdk: Sdk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK waits hardly at all before it retries."""
    monkeypatch.setattr(f"{sdk.kind.name}._base_client.INITIAL_RETRY_DELAY", 0.001)


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("retries", [0, 2])
@pytest.mark.parametrize(("status", "code"), [(502, "UPSTREAM_ERROR"), (504, "UPSTREAM_TIMEOUT")])
def test_an_error_at_the_upstream_is_raised_and_retried_as_without_us(
    sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy, retries: int, status: int, code: str
) -> None:
    route = upstream.serve(sdk.whole_script("Hello"), path="")
    client = durable(sdk, proxy, route, max_retries=retries)
    proxy.answers += [error_answer(status, code, message="told why")] * (1 + retries)
    with pytest.raises(sdk.errors.APIConnectionError) as raised:
        sdk.whole(client)
    assert isinstance(raised.value, sdk.errors.APITimeoutError) is (code == "UPSTREAM_TIMEOUT")
    assert "told why" in str(raised.value.__cause__)
    assert isinstance(raised.value.__cause__.__cause__, ProxyError)
    assert len(proxy.creates) == 1 + retries
    proxy.answers += [error_answer(status, code)] * retries
    assert sdk.whole(client).model_dump()
    assert route.count == 1


@pytest.mark.usefixtures("_quick")
@pytest.mark.parametrize("code", ["OVERLOADED", "DRAINING", "STORAGE_ERROR"])
def test_a_proxy_that_took_nothing_is_retried_by_the_sdk_too(
    sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy, code: str
) -> None:
    route = upstream.serve(sdk.whole_script("Hello"), path="")
    client = durable(sdk, proxy, route, max_retries=2)
    proxy.answers += [error_answer(503, code, headers={"Retry-After": "0"})] * 5
    assert sdk.whole(client).model_dump()
    assert (len(proxy.creates), route.count) == (6, 1)
    proxy.answers += [error_answer(503, code, headers={"Retry-After": "500"})]
    with pytest.raises(sdk.errors.InternalServerError) as raised:
        sdk.whole(durable(sdk, proxy, route, max_retries=0))
    assert raised.value.response.headers["durable-proxy-error"] == code
    assert raised.value.response.headers["retry-after"] == "500"
    assert (len(proxy.creates), route.count) == (7, 1)


@pytest.mark.usefixtures("_quick")
def test_somebody_between_who_answers_is_retried_by_the_sdk_and_costs_no_second_call(
    sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy
) -> None:
    route = upstream.serve(sdk.whole_script("Hello"), path="")
    proxy.answers += [b"HTTP/1.1 502 x\r\nContent-Length: 0\r\n\r\n"] * 4
    assert sdk.whole(durable(sdk, proxy, route, max_retries=1)).model_dump()
    assert (len(proxy.creates), route.count) == (5, 1)
    assert len({asked.headers["idempotency-key"] for asked in proxy.creates}) == 1


def test_a_stream_that_breaks_off_never_looks_whole(sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy) -> None:
    events = sdk.events("Hel", "lo")
    both = Both(sdk, upstream, proxy, chunked(*events[:2], RESET), max_retries=0)
    for client in (both.direct, both.durable):
        stream = sdk.streamed(client)
        with pytest.raises(Exception) as raised:  # noqa: PT011  # which one is the SDK's choice
            sdk.items(stream)
    causes = []
    cause: BaseException | None = raised.value
    while cause is not None:
        causes.append(cause)
        cause = cause.__cause__
    told = [each for each in causes if isinstance(each, IncompleteStream)]
    assert told[0].outcome is Outcome.UPSTREAM_ERROR
    assert told[0].bytes_read == len(b"".join(events[:2]))
    library = importlib.import_module(sdk.kind.library)
    assert any(isinstance(each, library.ReadError) for each in causes)


# Leaving


def test_leaving_early_cuts_the_upstream(sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy) -> None:
    route = upstream.serve(chunked(*sdk.events("Hel")[:3], HANG), path="")
    stream = sdk.streamed(durable(sdk, proxy, route))
    sdk.first(stream, 1)
    sdk.run(stream.close())
    assert proxy.aborted.wait(5)


def test_leaving_early_with_an_id_lets_the_upstream_go_on(sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy) -> None:
    events = sdk.events("Hel", "lo")
    route = upstream.serve(chunked(*events[:3], GATE, *events[3:]), path="")
    client = durable(sdk, proxy, route)
    with durable_request("turn-1"):
        stream = sdk.streamed(client)
    sdk.first(stream, 1)
    sdk.run(stream.close())
    route.release()
    with durable_request("turn-1"):
        again = dumped(sdk.items(sdk.streamed(client)))
    assert len(again) >= 3
    assert route.count == 1
    assert proxy.aborts == []


@pytest.mark.parametrize("sdk", OPENAI, ids=str, indirect=True)
def test_done_is_the_end_though_the_upstream_lingers(sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy) -> None:
    route = upstream.serve(chunked(*sdk.events("Hello"), GATE), path="")
    client = durable(sdk, proxy, route)
    assert sdk.items(sdk.streamed(client))
    route.release()
    route.wait_finished()
    sdk.close()
    sdk.open.clear()
    sdk.runner = asyncio.Runner()
    assert proxy.aborts == []


def test_a_cancelled_task_cuts_the_upstream(upstream: Upstream, proxy: ScriptedProxy) -> None:
    for kind in (kind for kind in KINDS if kind.asynchronous):
        sdk = Sdk(kind)
        proxy.aborted.clear()
        proxy.reading.clear()
        route = upstream.serve(chunked(*sdk.events("Hel")[:3], HANG), path="")
        client = durable(sdk, proxy, route)
        stream = sdk.streamed(client)

        async def work(stream: Any = stream) -> None:
            async for _ in stream:
                pass

        async def cancelled(work: Any = work, began: Any = proxy.reading.wait) -> None:
            task = asyncio.create_task(work())
            assert await asyncio.to_thread(began, 5)
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()

        sdk.runner.run(cancelled())
        assert proxy.aborted.wait(5), kind
        sdk.close()


def test_a_read_timeout_is_the_sdks_and_counts_data(sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy) -> None:
    proxy.keep_alive_seconds = 0.05
    route = upstream.serve(chunked(*sdk.events("Hel")[:2], HANG), path="")
    library = importlib.import_module(sdk.kind.library)
    client = durable(sdk, proxy, route, timeout=library.Timeout(5, read=0.3), max_retries=0)
    stream = sdk.streamed(client)
    with pytest.raises((sdk.errors.APITimeoutError, library.ReadTimeout)):
        sdk.items(stream)


# Surviving


def test_a_network_that_drops_is_not_noticed(sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy) -> None:
    both = Both(sdk, upstream, proxy, sdk.stream_script("Hel", "lo ", "wörld"))
    direct = dumped(sdk.items(sdk.streamed(both.direct)))
    proxy.cuts = [0, 10, 400, 700, 900, 1000]
    assert dumped(sdk.items(sdk.streamed(both.durable))) == direct
    assert both.counts == [1, 1]


def test_a_connection_reset_in_mid_answer_is_not_noticed(sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy) -> None:
    events = sdk.events("Hel", "lo")
    both = Both(sdk, upstream, proxy, chunked(*events[:2], GATE, *events[2:]))
    both.routes[0].release()
    direct = dumped(sdk.items(sdk.streamed(both.direct)))
    stream = sdk.streamed(both.durable)
    first = dumped(sdk.first(stream))
    proxy.drop_connections()
    both.routes[1].release()
    assert first + dumped(sdk.items(stream)) == direct


def test_a_lost_answer_costs_no_second_call(sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy) -> None:
    route = upstream.serve(sdk.stream_script("Hello"), path="")
    proxy.lose_creates = 2
    assert sdk.items(sdk.streamed(durable(sdk, proxy, route, max_retries=0)))
    assert (len(proxy.creates), route.count) == (3, 1)


@pytest.mark.usefixtures("_quick")
def test_an_sdks_retry_of_what_the_network_lost_costs_no_second_call(
    sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy
) -> None:
    route = upstream.serve(sdk.whole_script("Hello"), path="")
    proxy.lose_creates = 4  # one more than we try by ourselves
    assert sdk.whole(durable(sdk, proxy, route, max_retries=2)).model_dump()
    assert len({asked.headers["idempotency-key"] for asked in proxy.creates}) == 1
    assert (len(proxy.creates), route.count) == (5, 1)


@pytest.mark.usefixtures("_quick")
def test_an_sdks_retry_after_a_failed_read_costs_no_second_call(
    sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy
) -> None:
    route = upstream.serve(sdk.whole_script("Hello"), path="")
    proxy.cuts = [0] * 6  # as often as we try by ourselves
    assert sdk.whole(durable(sdk, proxy, route, max_retries=1)).model_dump()
    assert route.count == 1


def test_two_questions_alike_are_two_calls(sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy) -> None:
    route = upstream.serve(sdk.whole_script("Hello"), path="")
    client = durable(sdk, proxy, route)
    assert sdk.whole(client).model_dump() == sdk.whole(client).model_dump()
    assert route.count == 2


def test_another_process_gives_the_same_answer_for_one_upstream_call(
    sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy, tmp_path: Any
) -> None:
    events = sdk.events("Hel", "lo")
    route = upstream.serve(chunked(*events[:3], GATE, *events[3:]), path="")
    options = {"durable": {"storage": FileStorage(tmp_path)}}
    with durable_request("conversation-1:turn-7"):
        stream = sdk.streamed(durable(sdk, proxy, route, **options))
    sdk.first(stream)
    route.release()
    with durable_request("conversation-1:turn-7"):
        again = dumped(sdk.items(sdk.streamed(durable(sdk, proxy, route, **options))))
    whole = upstream.serve(chunked(*events), path="")
    assert again == dumped(sdk.items(sdk.streamed(sdk.client(whole.url))))
    assert route.count == 1
    assert list(tmp_path.iterdir()) == []
    sdk.run(stream.close())


def test_the_id_may_be_a_header_which_goes_no_further(sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy) -> None:
    route = upstream.serve(chunked(*sdk.events("Hello")[:3], HANG), path="")
    client = durable(sdk, proxy, route)
    for _ in range(2):
        stream = sdk.streamed(client, extra_headers={"Durable-Request-Id": "turn-9"})
        sdk.first(stream)
        sdk.run(stream.close())
    assert route.count == 1
    assert route.requests[0].get("durable-request-id") is None
    assert "durable-request-id" not in proxy.creates[0].headers


def test_ids_of_concurrent_tasks_do_not_mix(upstream: Upstream, proxy: ScriptedProxy) -> None:
    sdk = Sdk(Kind("openai", "httpx2", True))
    route = upstream.serve(sdk.whole_script("Hello"), path="")
    client = durable(sdk, proxy, route)
    kept: list[str | None] = []

    async def ask(number: int) -> None:
        with durable_request(f"turn-{number}"):
            await asyncio.sleep(0)
            raw = await client.chat.completions.with_raw_response.create(**sdk.arguments)
            kept.append(raw.http_response.extensions["durable_response"]._delivery._request_id)

    async def all_of_them() -> None:
        await asyncio.gather(*(ask(number) for number in range(5)))

    sdk.runner.run(all_of_them())
    assert sorted(map(str, kept)) == [f"turn-{number}" for number in range(5)]
    sdk.close()


def test_an_empty_id_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"), durable_request(""):
        pass


def test_a_clients_of_the_other_library_is_refused_by_the_sdk(proxy: ScriptedProxy) -> None:
    sdk = Sdk(Kind("anthropic", "httpx", False))
    with pytest.raises(TypeError, match="httpx"):
        sdk.client("http://upstream.test", proxy=proxy.url, secret=proxy.secret)


def test_the_key_and_the_signed_url_stand_in_no_error(sdk: Sdk, upstream: Upstream, proxy: ScriptedProxy) -> None:
    route = upstream.serve(chunked(sdk.events("Hel")[0], RESET), path="")
    client = durable(sdk, proxy, route, max_retries=0)
    stream = sdk.streamed(client)
    with pytest.raises(Exception) as raised:  # noqa: PT011  # which one is the SDK's choice
        sdk.items(stream)
    cause: BaseException | None = raised.value
    texts = [repr(client), repr(stream)]
    while cause is not None:
        texts += [repr(cause), str(cause)]
        cause = cause.__cause__
    everything = " ".join(texts)
    assert "SIGNATURE-" not in everything
    assert proxy.secret not in everything
    assert base64.b64encode(proxy.secret.encode()).decode() not in everything
