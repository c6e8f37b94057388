"""Heads of HTTP/1.1, received and sent: our fast path, and h11."""

import h11
from pytest_benchmark.fixture import BenchmarkFixture

from proxy.wire.events import HeadLimits, RequestHead, ResponseHead
from proxy.wire.h1 import ClientCodec, ServerCodec
from proxy.wire.headers import Headers

_LIMITS = HeadLimits(head_bytes=32_768, fields=100, target_bytes=8192)
_CREATE = (
    b"POST /v1/proxy HTTP/1.1\r\nHost: localhost:4440\r\nAuthorization: Bearer 0123456789abcdef\r\n"
    b"Upstream-URL: https://api.example.com/v1/chat/completions\r\nUpstream-Method: POST\r\n"
    b"Upstream-Authorization: Bearer fedcba9876543210\r\nContent-Type: application/json\r\n"
    b"User-Agent: bench/1\r\nAccept: */*\r\nContent-Length: 2\r\n\r\n{}"
)
_APPENDED = (
    b"HTTP/1.1 200 OK\r\nStream-Next-Offset: 0000000000000000_0000000000001000\r\nProducer-Epoch: 0\r\n"
    b"Producer-Seq: 7\r\nContent-Length: 0\r\n\r\n"
)
_APPEND = Headers(
    [
        (b"host", b"127.0.0.1:4437"),
        (b"content-type", b"application/octet-stream"),
        (b"producer-id", b"123e4567-e89b-42d3-a456-426614174000"),
        (b"producer-epoch", b"0"),
    ]
)


def test_a_create_request_is_received(benchmark: BenchmarkFixture) -> None:
    def receive() -> object:
        return ServerCodec(_LIMITS, 1 << 20).receive(_CREATE)[0]

    assert isinstance(benchmark(receive), RequestHead)


def test_a_create_request_is_received_by_h11(benchmark: BenchmarkFixture) -> None:
    def receive() -> object:
        server = h11.Connection(h11.SERVER)
        server.receive_data(_CREATE)
        return server.next_event()

    assert isinstance(benchmark(receive), h11.Request)


def test_an_append_is_sent_and_answered(benchmark: BenchmarkFixture) -> None:
    codec = ClientCodec(_LIMITS)

    def exchange() -> object:
        codec.send_head(b"POST", b"/v1/streams/123", _APPEND.plus((b"producer-seq", b"7")), 1000)
        return codec.receive(_APPENDED)[0]

    assert isinstance(benchmark(exchange), ResponseHead)


def test_an_append_is_sent_and_answered_by_h11(benchmark: BenchmarkFixture) -> None:
    fields = [*_APPEND, (b"producer-seq", b"7"), (b"content-length", b"0")]
    client = h11.Connection(h11.CLIENT)

    def exchange() -> object:
        client.send(h11.Request(method=b"POST", target=b"/v1/streams/123", headers=fields))
        client.send(h11.EndOfMessage())
        client.receive_data(_APPENDED)
        response = client.next_event()
        client.next_event()
        client.start_next_cycle()
        return response

    assert isinstance(benchmark(exchange), h11.Response)
