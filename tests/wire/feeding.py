"""Ways to feed a codec the same bytes, and what came of it in a form that does not depend on the split."""

from collections.abc import Iterable, Iterator
from itertools import pairwise

from hypothesis import strategies as st

from proxy.wire.body import BodyDecoder
from proxy.wire.events import HeadLimits, HeadT, PeerError, Received, RequestHead, ResponseHead
from proxy.wire.h1 import ClientCodec, ServerCodec

LIMITS = HeadLimits(head_bytes=32 * 1024, fields=100, target_bytes=8 * 1024)
SMALL_LIMITS = HeadLimits(head_bytes=200, fields=5, target_bytes=40)
MAX_BODY = 1000

END = "the end"
FAULT = "a fault"
NOTHING: tuple[None, list[bytes], bool] = (None, [], False)
"""What a read brought that completed nothing."""

Seen = list[RequestHead | ResponseHead | bytes | str | int]
"""Heads and ends (END) as they came, payload joined; at last the status of a request's fault, FAULT of a response's."""


def whole(data: bytes) -> Iterator[bytes]:
    yield data


def byte_by_byte(data: bytes) -> Iterator[bytes]:
    for index in range(len(data)):
        yield data[index : index + 1]


def cut_at(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """`data` in pieces, cut at the given places."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places) if end > start]


cuts = st.lists(st.integers(0, 4000), max_size=8)


def mutations(valid: list[bytes]) -> st.SearchStrategy[bytes]:
    """A valid message with a few bytes removed, changed or put in."""
    splice = st.tuples(
        st.integers(0, 2000),
        st.integers(0, 3),
        st.one_of(
            st.binary(max_size=3),
            st.sampled_from(
                [b"\r\n", b"\n", b"\r", b" ", b"\t", b"\x00", b"\x01", b":", b",", b";", b"_", b"0", b"\xe9"]
            ),
        ),
    )

    def apply(message: bytes, splices: list[tuple[int, int, bytes]]) -> bytes:
        for place, removed, inserted in splices:
            at = place % (len(message) + 1)
            message = message[:at] + inserted + message[at + removed :]
        return message

    return st.builds(apply, st.sampled_from(valid), st.lists(splice, max_size=3))


def decode(decoder: BodyDecoder, pieces: Iterable[bytes]) -> tuple[bytes, bytes]:
    """The payload, and what came after the body's end."""
    payload = bytearray()
    rest = bytearray()
    for piece in pieces:
        if decoder.failed is not None:
            break
        if decoder.done:
            rest += piece
            continue
        for part in decoder.receive(piece):
            assert len(part)
            payload += part
        if decoder.done:
            rest += piece[decoder.end :]
    return bytes(payload), bytes(rest)


def serve(codec: ServerCodec, pieces: Iterable[bytes], *, eof: bool = False) -> Seen:
    """Everything a server sees that answers each request at its end."""
    seen: Seen = []
    try:
        for piece in pieces:
            received = codec.receive(piece)
            _note(seen, received)
            while received[2]:
                received = codec.next_request()
                _note(seen, received)
        if eof:
            codec.receive_eof()
        if codec.failed is not None:
            raise codec.failed
    except PeerError as error:
        seen.append(error.status)
    return seen


def ask(codec: ClientCodec, pieces: Iterable[bytes], *, eof: bool = False) -> Seen:
    """Everything a client sees that has sent its request."""
    seen: Seen = []
    try:
        for piece in pieces:
            _note(seen, codec.receive(piece))
        if eof and codec.receive_eof():
            seen.append(END)
        if codec.failed is not None:
            raise codec.failed
    except PeerError:
        seen.append(FAULT)
    return seen


def _note(seen: Seen, received: Received[HeadT]) -> None:
    if received[0] is not None:
        seen.append(received[0])
    assert all(map(len, received[1]))
    if received[1]:
        payload = b"".join(received[1])
        before = seen[-1] if seen else None
        if isinstance(before, bytes):
            seen[-1] = before + payload
        else:
            seen.append(payload)
    if received[2]:
        seen.append(END)
