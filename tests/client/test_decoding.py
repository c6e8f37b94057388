"""Encoded bodies are decoded before they are looked at: an upstream's error, and the end of an event stream."""

import gzip
import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.client.decoding import BodyEnd, Decoder, decoded
from proxy.client.options import DECODED_STEP_BYTES, ERROR_BODY_BYTES
from tests.client.conftest import Connect
from tests.client.drivers import Driver
from tests.client.scripted_proxy import ScriptedProxy

DONE = b'data: {"x": 1}\n\ndata: [DONE]\n\n'


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


CODINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    " GZIP ": gzip.compress,
}


@given(st.binary(max_size=2000), st.sampled_from([*CODINGS, "raw"]), st.data())
def test_any_split_of_an_encoded_body_decodes_to_the_same_bytes(body: bytes, coding: str, data: st.DataObject) -> None:
    packed = raw_deflate(body) if coding == "raw" else CODINGS[coding](body)
    decoder = Decoder("deflate" if coding == "raw" else coding)
    at = sorted(data.draw(st.lists(st.integers(0, len(packed)), max_size=4)))
    pieces = [packed[a:b] for a, b in zip([0, *at], [*at, len(packed)], strict=True)]
    assert b"".join(part for piece in pieces for part in decoder.feed(piece)) == body


@given(st.binary(max_size=300))
def test_what_is_not_encoded_at_all_is_no_error(body: bytes) -> None:
    for coding in ("gzip", "deflate"):
        assert decoded(body, coding) is not None


def test_members_one_after_the_other_are_all_decoded() -> None:
    assert decoded(gzip.compress(b"one ") + gzip.compress(b"two"), "gzip") == b"one two"


def test_a_small_body_cannot_fill_the_memory() -> None:
    bomb = gzip.compress(bytes(64 << 20))
    assert max(map(len, Decoder("gzip").feed(bomb))) <= DECODED_STEP_BYTES
    assert decoded(bomb, "gzip") == bytes(ERROR_BODY_BYTES)


@pytest.mark.parametrize("coding", ["br", "zstd", "", "gzip, gzip"])
def test_a_coding_that_is_not_known_hides_the_end(coding: str) -> None:
    assert decoded(b"x", coding) is None
    tail = BodyEnd(coding)
    tail.add(DONE)
    assert not tail.says_done


# The end of an event stream


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("step", [1, 7, 1000])
def test_done_is_seen_in_an_encoded_stream_so_its_close_aborts_nothing(
    proxy: ScriptedProxy, connect: Connect, coding: str, step: int
) -> None:
    packed = CODINGS[coding](DONE)
    pieces = [packed[at : at + step] for at in range(0, len(packed), step)]
    stream = proxy.stream(*pieces, outcome=None, content_type="text/event-stream")
    stream.told = {"Upstream-Content-Encoding": coding}
    fetch = connect()
    response = fetch()
    assert response.take(len(DONE)) == DONE
    response.close()
    fetch.close()
    assert proxy.aborts == []


def test_an_encoded_stream_that_is_left_before_its_end_is_aborted(proxy: ScriptedProxy, connect: Connect) -> None:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    start = packer.compress(DONE[:10]) + packer.flush(zlib.Z_SYNC_FLUSH)
    stream = proxy.stream(start, outcome=None, content_type="text/event-stream")
    stream.told = {"Upstream-Content-Encoding": "gzip"}
    fetch = connect()
    response = fetch()
    assert response.take(10) == DONE[:10]
    response.close()
    fetch.close()
    assert proxy.aborts == [stream.id]


# An upstream's error

BODY = json.dumps({"error": {"message": "too many tokens", "noise": "x" * 400}}).encode()


def upstream_error(body: bytes, *fields: str) -> bytes:
    lines = ["HTTP/1.1 502 x", "Upstream-Status: 429", "Upstream-Content-Type: application/json", *fields]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
@pytest.mark.parametrize("told_twice", [False, True])
def test_an_encoded_error_of_the_upstreams_is_readable(
    proxy: ScriptedProxy, fetch: Driver, coding: str, told_twice: bool
) -> None:
    fields = [f"Upstream-Content-Encoding: {coding}", *([f"Content-Encoding: {coding}"] if told_twice else [])]
    proxy.answers.append(upstream_error(CODINGS[coding](BODY), *fields))
    response = fetch()
    assert (response.status_code, response.read()) == (429, BODY)
    assert "content-encoding" not in response.headers


def test_an_encoded_error_that_was_cut_is_readable_as_far_as_it_goes(proxy: ScriptedProxy, fetch: Driver) -> None:
    packed = gzip.compress(BODY, compresslevel=0)
    proxy.answers.append(upstream_error(packed[:200], "Upstream-Content-Encoding: gzip"))
    content = fetch().read()
    assert content
    assert BODY.startswith(content)


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
def test_an_encoded_error_is_readable_behind_a_transport(proxy: ScriptedProxy, library: str) -> None:
    import importlib

    http: Any = importlib.import_module(library)
    module: Any = importlib.import_module(f"proxy.client.{library}")
    proxy.answers.append(upstream_error(gzip.compress(BODY), "Upstream-Content-Encoding: gzip"))
    transport = module.DurableTransport(proxy.url, proxy_authorization=proxy.secret)
    with http.Client(transport=transport) as client:
        assert client.get("http://upstream.test/").content == BODY


def test_an_error_of_the_proxys_that_something_between_encoded_is_understood(
    proxy: ScriptedProxy, fetch: Driver
) -> None:
    body = gzip.compress(json.dumps({"error": {"code": "UPSTREAM_NOT_ALLOWED", "message": "m"}}).encode())
    head = f"HTTP/1.1 403 x\r\nContent-Type: application/json\r\nContent-Encoding: gzip\r\nContent-Length: {len(body)}"
    proxy.answers.append(f"{head}\r\n\r\n".encode() + body)
    with pytest.raises(Exception, match="UPSTREAM_NOT_ALLOWED"):
        fetch()
