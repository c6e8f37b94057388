"""Read and head: what passes from storage and what does not, and what becomes of a read when either side goes."""

import asyncio
import json
import time
from pathlib import Path

import pytest

from proxy.http.body import BodyError, BytesBody, Cut
from proxy.http.message import Handler, Request, Response
from proxy.policy.auth import Keyring
from proxy.policy.tokens import make_token
from proxy.wire.headers import Field, Headers
from tests.handlers.kit import SECRET, code, path_of, running
from tests.kit.bodies import Scripted, Tap
from tests.kit.handlers import Failing, Failure, answer, lost
from tests.kit.upstream import GATE, Upstream, chunked, fixed, head

ID = "00000000-0000-4000-8000-000000000000"
PATH = f"/v1/proxy/{ID}"
BEARER = f"Bearer {SECRET}"


def scripted(response: Response, *, when: str = ID) -> tuple[list[Request], Handler]:
    """Storage that answers reads of the stream so, and knows no record; HEAD is answered, but not seen."""
    seen: list[Request] = []

    async def handler(request: Request) -> Response:
        if not request.target.decode().partition("?")[0].endswith(when):
            return Response(404, Headers())
        if request.method == b"HEAD":
            return response if response.status >= 400 else Response(200, response.headers)
        seen.append(request)
        return response

    return seen, handler


@pytest.mark.parametrize(("query", "seconds"), [("", 3), ("?offset=-1&live=sse", 3), ("?offset=-1&live=long-poll", 7)])
async def test_only_a_long_poll_waits_for_its_answer_longer_than_for_any_other(
    tmp_path: Path, query: str, seconds: int
) -> None:
    seen, storage = scripted(Response(204, Headers()))
    settings = {"storage_timeout_seconds": 3.0, "storage_silence_seconds": 7.0}
    async with running(tmp_path, lambda _: storage, **settings) as house:
        await house.get(PATH + query)
        assert [request.timeout for request in seen] == [seconds]


async def test_a_read_carries_what_storage_and_the_record_know(tmp_path: Path, upstream: Upstream) -> None:
    async with running(tmp_path) as house:
        script = [head(200, ("Content-Type", "text/x-special"), ("Content-Encoding", "gzip"), ("Content-Length", "3"))]
        path = path_of(await house.create(upstream.serve([script[0] + b"one"]).url))
        found = await house.whole(path)
        assert (found.status, found.body) == (200, b"one")
        assert found["content-type"] == "application/octet-stream"
        assert found["upstream-content-type"] == "text/x-special"
        assert found["upstream-content-encoding"] == "gzip"
        assert (found["stream-closed"], found["upstream-outcome"]) == ("true", "complete")
        assert (found["cache-control"] or "").startswith("private")
        again = await house.get(path, if_none_match=found["etag"] or "")
        assert (again.status, again.body, again["etag"]) == (304, b"", found["etag"])
        rest = await house.get(f"{path}?offset={found['stream-next-offset']}")
        assert (rest.status, rest.body, rest["stream-closed"]) == (200, b"", "true")
        about = await house.client.call("HEAD", path, authorization=BEARER)
        assert (about.status, about["upstream-outcome"]) == (200, "complete")
        assert about["upstream-content-type"] == "text/x-special"
        poll = await house.get(f"{path}?live=long-poll&offset={found['stream-next-offset']}")
        assert (poll.status, poll["stream-closed"], poll["upstream-outcome"]) == (204, "true", "complete")


async def test_a_live_read_ends_with_the_outcome(tmp_path: Path, upstream: Upstream) -> None:
    async with running(tmp_path) as house:
        path = path_of(await house.create(upstream.serve(chunked(b"one", GATE)).url))
        response = await house.client.send("GET", f"{path}?live=sse&offset=-1", authorization=BEARER)
        assert response.headers.get(b"stream-sse-data-encoding") == b"base64"
        await house.transfers.end(path.rpartition("/")[2], discard=False, wait=5)
        text = b""
        while parts := await response.body.take():
            text += b"".join(parts)
        control = json.loads(text.rpartition(b"event: control\ndata:")[2])
        assert (control["streamClosed"], control["upstreamOutcome"]) == (True, "aborted")


LEAKY: list[Field] = [
    (b"content-type", b"application/octet-stream"), (b"server", b"nginx"), (b"set-cookie", b"a=b"), (b"x-amz-id", b"1"),
    (b"access-control-allow-origin", b"https://storage"), (b"location", b"http://storage/v1/streams/x"),
    (b"via", b"1.1 inside"), (b"stream-next-offset", b"5"), (b"stream-anything", b"new"), (b"etag", b'"e"'),
    (b"vary", b"Origin"), (b"cache-control", b"public, max-age=60, stale-while-revalidate=300"),
    (b"strict-transport-security", b"max-age=1"), (b"www-authenticate", b"Bearer"), (b"alt-svc", b"h3"),
    (b"upstream-outcome", b"forged"), (b"upstream-content-type", b"forged/type"), (b"content-encoding", b"x"),
]  # fmt: skip


@pytest.mark.parametrize("status", [200, 204, 304])
async def test_no_header_of_storage_leaks_beyond_the_list(tmp_path: Path, status: int) -> None:
    _, storage = scripted(Response(status, Headers(LEAKY)))
    async with running(tmp_path, lambda _: storage) as house:
        found = await house.get(PATH)
        assert found.status == status
        names = {name for name, _ in found.headers} - {
            b"access-control-allow-origin", b"access-control-expose-headers", b"x-content-type-options",
            b"cross-origin-resource-policy",
        }  # fmt: skip
        assert names == {
            b"content-type", b"stream-next-offset", b"stream-anything", b"etag", b"cache-control",
            b"upstream-content-type",
        }  # fmt: skip
        assert found["access-control-allow-origin"] == "*"
        assert found["upstream-content-type"] == "application/octet-stream"
        assert found["cache-control"] == "private, max-age=60, stale-while-revalidate=300"


async def test_shared_caching_is_a_setting(tmp_path: Path) -> None:
    _, storage = scripted(Response(200, Headers([(b"cache-control", b"public, max-age=60")])))
    async with running(tmp_path, lambda _: storage, shared_cache=True) as house:
        expires = 2**40
        signed = f"{PATH}?expires={expires}&signature={Keyring([SECRET]).sign(ID, expires)}"
        assert (await house.client.call("GET", signed))["cache-control"] == "public, max-age=60"


async def test_a_read_by_a_credential_is_its_reader_s_alone_also_where_caches_are_shared(tmp_path: Path) -> None:
    """A shared cache keys by the URL, so it would give the answer to clients without a credential."""
    _, storage = scripted(Response(200, Headers([(b"cache-control", b"public, max-age=60")])))
    token = make_token(SECRET, time.time(), 60)
    async with running(tmp_path, lambda _: storage, shared_cache=True) as house:
        assert (await house.get(PATH))["cache-control"] == "private, max-age=60"
        for query in (f"secret={SECRET.replace(' ', '+')}", f"secret={token}"):
            assert (await house.client.call("GET", f"{PATH}?{query}"))["cache-control"] == "private, max-age=60"


@pytest.mark.parametrize("cache", [None, b"public, max-age=60", b"no-cache"])
@pytest.mark.parametrize("shared", [False, True])
async def test_every_event_stream_passes_buffering_proxies_and_stays_out_of_caches(
    tmp_path: Path, cache: bytes | None, shared: bool
) -> None:
    fields = [(b"content-type", b"text/event-stream")] + ([(b"cache-control", cache)] if cache else [])
    _, storage = scripted(Response(200, Headers(fields), Scripted([b": hello\n\n"])))
    async with running(tmp_path, lambda _: storage, shared_cache=shared) as house:
        expires = 2**40
        signed = f"{PATH}?expires={expires}&signature={Keyring([SECRET]).sign(ID, expires)}"
        for found in (
            await house.get(f"{PATH}?live=sse&offset=-1"),
            await house.client.call("GET", f"{signed}&live=sse&offset=-1"),
        ):
            assert found["x-accel-buffering"] == "no"
            assert found.headers.get_all(b"cache-control") == [b"no-cache, no-store"]


async def test_readers_of_one_stream_are_bounded_and_readers_of_others_are_not(tmp_path: Path) -> None:
    other = ID.replace("8", "9")
    taps: list[Tap] = []

    async def storage(request: Request) -> Response:
        if b".record" in request.target or request.method != b"GET":
            return Response(404 if b".record" in request.target else 200, Headers())
        taps.append(Tap())
        return Response(200, Headers([(b"content-type", b"text/event-stream")]), taps[-1].body)

    async with running(tmp_path, lambda _: storage, max_readers_per_stream=2) as house:
        query = "?live=sse&offset=-1"
        readers = [await house.client.send("GET", PATH + query, authorization=BEARER) for _ in range(2)]
        refused = await house.get(PATH + query)
        assert code(refused) == (503, "OVERLOADED")
        assert refused["retry-after"] is not None
        readers.append(await house.client.send("GET", f"/v1/proxy/{other}{query}", authorization=BEARER))
        assert readers[-1].status == 200
        readers.pop(0).body.close()
        readers.append(await house.client.send("GET", PATH + query, authorization=BEARER))
        assert readers[-1].status == 200
        for reader in readers:
            reader.body.close()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (answer(404), (404, "STREAM_NOT_FOUND")),
        (answer(410), (404, "STREAM_NOT_FOUND")),
        (answer(400, body=b"an internal sentence"), (400, "INVALID_REQUEST")),
        (answer(401), (502, "STORAGE_ERROR")),
        (answer(403), (502, "STORAGE_ERROR")),
        (answer(500), (502, "STORAGE_ERROR")),
        (answer(503), (502, "STORAGE_ERROR")),
        (answer(302), (502, "STORAGE_ERROR")),
        (lost(), (502, "STORAGE_ERROR")),
    ],
)
@pytest.mark.parametrize("query", ["", "?live=long-poll&offset=-1", "?live=sse"])
async def test_what_storage_answers_else_is_an_error_of_ours(
    tmp_path: Path, fault: Failure, expected: tuple[int, str], query: str
) -> None:
    async with running(tmp_path, lambda _: fault, max_readers=1) as house:
        for _ in range(3):  # the reader's place comes back
            found = await house.get(f"{PATH}{query}")
            assert code(found) == expected
            assert b"internal" not in found.body


@pytest.mark.parametrize("live", ["sse", "long-poll"])
async def test_a_live_read_without_an_offset_is_refused_with_what_it_lacks(tmp_path: Path, live: str) -> None:
    _, storage = scripted(Response(400, Headers()))
    async with running(tmp_path, lambda _: storage) as house:
        refused = await house.get(f"{PATH}?live={live}")
        assert code(refused) == (400, "INVALID_REQUEST")
        assert b"offset" in refused.body
        assert b"offset" not in (await house.get(f"{PATH}?live={live}&offset=-1")).body


@pytest.mark.parametrize("name", ["offset", "live", "cursor"])
async def test_a_repeated_or_malformed_parameter_is_refused_before_storage_is_asked(tmp_path: Path, name: str) -> None:
    seen, storage = scripted(Response(200, Headers()))
    async with running(tmp_path, lambda _: storage) as house:
        for query in (f"{name}=1&{name}=1", f"{name}=1&{name}=2", f"{name}=", f"{name}=a%26b", f"{name}=%0d%0a",
                      f"{name}=a%23", f"{name}=" + "x" * 257, f"{name}=%C3%A9", f"{name}=a+b"):  # fmt: skip
            assert code(await house.get(f"{PATH}?{query}")) == (400, "INVALID_REQUEST"), query
        assert seen == []


async def test_storage_sees_three_parameters_two_headers_and_no_credential(tmp_path: Path) -> None:
    seen, storage = scripted(Response(200, Headers()))
    async with running(tmp_path, lambda _: storage) as house:
        await house.get(
            f"{PATH}?cursor=7&live=long-poll&offset=-1&secret=the+service+secret&other=1",
            accept="text/plain",
            if_none_match='"e"',
            cookie="a=b",
            range="bytes=0-1",
            x_own="1",
        )
        (request,) = seen
        assert request.target == f"/v1/streams/{ID}?offset=-1&live=long-poll&cursor=7".encode()
        assert dict(request.headers) == {b"accept": b"text/plain", b"if-none-match": b'"e"'}


async def test_a_body_that_storage_breaks_off_is_broken_off(tmp_path: Path) -> None:
    _, storage = scripted(Response(200, Headers(), Scripted([b"some"], Cut.RESET)))
    async with running(tmp_path, lambda _: storage) as house:
        response = await house.client.send("GET", PATH, authorization=BEARER)
        assert await response.body.take() == (b"some",)
        with pytest.raises(BodyError):
            await response.body.take()


@pytest.mark.parametrize("live", [False, True])
async def test_a_reader_who_goes_cancels_the_storage_request_and_leaves_its_place(tmp_path: Path, live: bool) -> None:
    taps = [Tap(), Tap()]
    bodies = iter(taps)

    async def storage(request: Request) -> Response:
        if not request.target.partition(b"?")[0].endswith(ID.encode()):
            return Response(404, Headers())
        return Response(200, Headers([(b"content-type", b"text/event-stream")]), next(bodies).body)

    async with running(tmp_path, lambda _: storage, max_readers=1) as house:
        query = "?live=sse" if live else ""
        response = await house.client.send("GET", PATH + query, authorization=BEARER)
        if live:
            assert code(await house.get(PATH + query)) == (503, "OVERLOADED")
        taking = asyncio.ensure_future(response.body.take())
        await asyncio.sleep(0)
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        response.body.close()  # as the server does with every body it is done with
        assert taps[0].is_cut
        second = await house.client.send("GET", PATH + query, authorization=BEARER)
        second.body.close()


async def test_a_reader_who_goes_while_the_record_is_looked_up_cancels_too(tmp_path: Path) -> None:
    tap = Tap()
    asked = asyncio.Event()

    async def storage(request: Request) -> Response:
        if request.target.partition(b"?")[0].endswith(ID.encode()):
            return Response(200, Headers(), tap.body)
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with running(tmp_path, lambda _: storage) as house:
        reading = asyncio.ensure_future(house.client.send("GET", f"{PATH}?live=sse", authorization=BEARER))
        await asked.wait()
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert tap.is_cut


@pytest.mark.parametrize("kind", [b"text/event-stream", b"text/event-stream; charset=utf-8"])
async def test_an_outcome_that_cannot_be_read_breaks_a_live_read_off(tmp_path: Path, kind: bytes) -> None:
    closing = b'event: control\ndata: {"streamClosed":true}\n\n'
    records = 0

    async def storage(request: Request) -> Response:
        nonlocal records
        if request.target.partition(b"?")[0].endswith(ID.encode()):
            return Response(200, Headers([(b"content-type", kind)]), Scripted([closing]))
        records += 1
        return Response(404 if records == 1 else 500, Headers())

    async with running(tmp_path, lambda _: storage) as house:
        response = await house.client.send("GET", f"{PATH}?live=sse", authorization=BEARER)
        with pytest.raises(BodyError):
            await response.body.take()


async def test_a_stream_whose_record_is_lost_can_be_read_and_is_not_called_complete(
    tmp_path: Path, upstream: Upstream
) -> None:
    async with running(tmp_path) as house:
        path = path_of(await house.create(upstream.serve(fixed(b"one")).url))
        await house.whole(path)
        await house.transfers._desk.records.delete(path.rpartition("/")[2])
        found = await house.get(path)
        assert (found.body, found["upstream-outcome"]) == (b"one", "interrupted")


# Head, abort, delete


async def test_head_says_what_storage_and_the_record_know_and_has_no_body(tmp_path: Path) -> None:
    _, storage = scripted(Response(200, Headers(LEAKY), BytesBody([b"none of it"])))
    async with running(tmp_path, lambda _: storage) as house:
        found = await house.client.call("HEAD", PATH, authorization=BEARER)
        assert (found.status, found.body) == (200, b"")
        assert found["set-cookie"] is None
    async with running(tmp_path / "2", lambda _: answer(404)) as house:
        assert (await house.client.call("HEAD", PATH, authorization=BEARER)).status == 404
    async with running(tmp_path / "3", lambda _: answer(500)) as house:
        assert (await house.client.call("HEAD", PATH, authorization=BEARER)).status == 502


async def test_a_delete_that_storage_refuses_is_no_hollow_204(tmp_path: Path, upstream: Upstream) -> None:
    failings: list[Failing] = []

    def failing(handler: Handler) -> Handler:
        failings.append(Failing(handler, when=lambda request: request.method == b"DELETE"))
        return failings[0]

    async with running(tmp_path, failing) as house:
        path = path_of(await house.create(upstream.serve(fixed(b"one")).url))
        await house.whole(path)
        for _ in range(2):  # the stream's, then the record's
            failings[0].then(answer(500))
            found = await house.client.call("DELETE", path, authorization=BEARER)
            assert code(found) == (502, "STORAGE_ERROR")
            failings[0].then(answer(204))
        for _ in range(2):
            assert (await house.client.call("DELETE", path, authorization=BEARER)).status == 204
        assert code(await house.get(path)) == (404, "STREAM_NOT_FOUND")


async def test_a_delete_ends_the_transfer_before_storage_is_asked(tmp_path: Path, upstream: Upstream) -> None:
    order: list[str] = []

    def recorded(handler: Handler) -> Handler:
        async def handle(request: Request) -> Response:
            response = await handler(request)
            if not request.target.endswith(b".record"):
                order.append(request.method.decode())
            return response

        return handle

    async with running(tmp_path, recorded) as house:
        route = upstream.serve(chunked(b"one", GATE))
        path = path_of(await house.create(route.url))
        assert (await house.client.call("DELETE", path, authorization=BEARER)).status == 204
        await asyncio.to_thread(route.wait_cut)
        assert order[-1] == "DELETE"
        assert "POST" not in order[order.index("DELETE") :]
        assert code(await house.get(path)) == (404, "STREAM_NOT_FOUND")
        assert len(house.transfers) == 0


async def test_an_abort_needs_the_signature_and_its_action_and_may_be_repeated(
    tmp_path: Path, upstream: Upstream
) -> None:
    async with running(tmp_path) as house:
        route = upstream.serve(chunked(b"one", GATE))
        created = await house.create(route.url)
        location = created["location"] or ""
        for query in ("", "&action=", "&action=stop", "&action=abort&action=abort"):
            assert code(await house.client.call("PATCH", location + query)) == (400, "INVALID_REQUEST")
        assert code(await house.client.call("PATCH", path_of(created) + "?action=abort", authorization=BEARER)) == (
            401,
            "MISSING_SIGNATURE",
        )
        assert len(house.transfers) == 1
        for _ in range(2):
            assert (await house.client.call("PATCH", f"{location}&action=abort")).status == 204
        await asyncio.to_thread(route.wait_cut)
        found = await house.whole(path_of(created))
        assert (found.body, found["upstream-outcome"]) == (b"one", "aborted")
