"""Decoding one read of 64 KiB: large and small chunks, a length, and h11 for comparison."""

import h11
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from proxy.wire.body import BodyDecoder, ChunkedDecoder, LengthDecoder
from proxy.wire.events import HeadLimits

_READ = 65_536
_LIMITS = HeadLimits(head_bytes=65_536, fields=100, target_bytes=8192)


def _chunked(size: int) -> bytes:
    """Whole chunks of `size` bytes, as many as fill a read."""
    return (b"%x\r\n%b\r\n" % (size, b"x" * size)) * max(1, _READ // (size + 6))


def _receive(decoder: BodyDecoder, data: bytes) -> int:
    return sum(map(len, decoder.receive(data)))


@pytest.mark.parametrize("size", [20, 100, 1000, 16_384, 65_000])
def test_chunks_in_one_read(benchmark: BenchmarkFixture, size: int) -> None:
    data = _chunked(size)
    assert benchmark(_receive, ChunkedDecoder(_LIMITS), data) == data.count(b"x")
    benchmark.extra_info["chunks"] = data.count(b"\r\n") // 2


def test_one_small_chunk_a_read_as_tokens_arrive(benchmark: BenchmarkFixture) -> None:
    data = b"64\r\n%b\r\n" % (b"x" * 100)
    assert benchmark(_receive, ChunkedDecoder(_LIMITS), data) == 100


def test_chunks_cut_in_the_middle_of_a_size_line(benchmark: BenchmarkFixture) -> None:
    whole = _chunked(100)
    reads = [whole[:1], whole[1:]]

    def receive(decoder: ChunkedDecoder) -> int:
        return sum(_receive(decoder, read) for read in reads)

    assert benchmark(receive, ChunkedDecoder(_LIMITS)) == whole.count(b"x")


def test_a_body_with_a_length(benchmark: BenchmarkFixture) -> None:
    data = b"x" * _READ
    assert benchmark(_receive, LengthDecoder(1 << 60), data) == _READ


@pytest.mark.parametrize("size", [100, 16_384])
def test_h11_with_the_same_chunks(benchmark: BenchmarkFixture, size: int) -> None:
    data = _chunked(size)
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
    client.send(h11.EndOfMessage())
    client.receive_data(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    client.next_event()

    def receive() -> int:
        client.receive_data(data)
        size = 0
        while isinstance(event := client.next_event(), h11.Data):
            size += len(event.data)
        return size

    assert benchmark(receive) == data.count(b"x")
