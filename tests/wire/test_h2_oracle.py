"""The HTTP/2 codec against whole h2: random conversations, in any split, of both roles."""

from collections.abc import Callable
from typing import Any

import h2.connection
from h2.settings import SettingCodes
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.h2 import H2Codec
from proxy.wire.h2_exchange import CodecSettings
from proxy.wire.headers import Headers
from tests.wire.feeding import cut_at, cuts
from tests.wire.h2_kit import (
    LIMITS,
    Story,
    client,
    feed,
    h2_side,
    server,
    tell,
    tell_h2,
)

HOST = Headers([(b"host", b"h")])

Op = Callable[[h2.connection.H2Connection, "Script"], None]


class Script:
    """The sending side's view: which streams it may still use."""

    def __init__(self) -> None:
        self.open: list[int] = []
        self.next = 1

    def pick(self, index: int) -> int | None:
        return self.open[index % len(self.open)] if self.open else None

    def close(self, stream: int) -> None:
        self.open.remove(stream)


values = st.sampled_from([b"", b"a", b"some text", b"x" * 300, b"\xe9\x80"])
fields = st.lists(st.tuples(st.sampled_from([b"x-a", b"x-b", b"accept", b"user-agent"]), values), max_size=6)
sizes = st.sampled_from([0, 1, 3, 100, 2047, 2048, 5000, 16_000])


def data_op(index: int, size: int, pad: int | None, ended: bool) -> Op:
    def run(side: h2.connection.H2Connection, script: Script) -> None:
        stream = script.pick(index)
        if stream is None or size + (pad or 0) + 1 > min(side.local_flow_control_window(stream), 16_384):
            return
        side.send_data(stream, (b"%d," % size * size)[:size], end_stream=ended, pad_length=pad)
        if ended:
            script.close(stream)

    return run


def trailers_op(index: int) -> Op:
    def run(side: h2.connection.H2Connection, script: Script) -> None:
        stream = script.pick(index)
        if stream is not None:
            side.send_headers(stream, [(b"x-trailer", b"v")], end_stream=True)
            script.close(stream)

    return run


def reset_op(index: int, code: int) -> Op:
    def run(side: h2.connection.H2Connection, script: Script) -> None:
        stream = script.pick(index)
        if stream is not None:
            side.reset_stream(stream, code)
            script.close(stream)

    return run


def control_op(kind: str, number: int) -> Op:
    def run(side: h2.connection.H2Connection, script: Script) -> None:
        if kind == "ping":
            side.ping(b"%08d" % number)
        elif kind == "window":
            side.increment_flow_control_window(number + 1)
        elif kind == "table":
            side.update_settings({SettingCodes.HEADER_TABLE_SIZE: number * 1000})
        elif (stream := script.pick(number)) is not None:
            side.increment_flow_control_window(number + 1, stream)

    return run


def request_op(extra: list[tuple[bytes, bytes]], ended: bool, priority: bool) -> Op:
    def run(side: h2.connection.H2Connection, script: Script) -> None:
        head = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"h:80"), (b":path", b"/p?q"), *extra]
        side.send_headers(script.next, head, end_stream=ended, priority_weight=7 if priority else None)
        if not ended:
            script.open.append(script.next)
        script.next += 2

    return run


common = st.one_of(
    st.builds(data_op, st.integers(0, 9), sizes, st.one_of(st.none(), st.integers(0, 255)), st.booleans()),
    st.builds(trailers_op, st.integers(0, 9)),
    st.builds(reset_op, st.integers(0, 9), st.sampled_from([0, 2, 7, 8])),
    st.builds(control_op, st.sampled_from(["ping", "window", "table", "stream window"]), st.integers(0, 9)),
)
requests = st.lists(st.one_of(st.builds(request_op, fields, st.booleans(), st.booleans()), common), max_size=14)


def played(side: h2.connection.H2Connection, script: Script, ops: list[Op]) -> bytes:
    """Everything that whole h2 sends when it does these things."""
    sent = side.data_to_send()
    for op in ops:
        op(side, script)
        sent += side.data_to_send()
    return sent


@given(requests, cuts)
def test_a_server_sees_what_h2_sees_in_any_split(ops: list[Op], places: list[int]) -> None:
    sent = played(h2_side(is_client=True), Script(), ops)
    codec = server()
    story = feed(codec, cut_at(sent, places))
    assert codec.failed is None
    assert story == tell_h2({}, h2_side(is_client=False).receive_data(sent))
    assert story == feed(server(), [sent[at : at + 1] for at in range(len(sent))])


@given(requests)
def test_what_a_server_sends_of_itself_is_good_to_h2(ops: list[Op]) -> None:
    peer = h2_side(is_client=True)
    codec = server()
    codec.receive(played(peer, Script(), ops))
    peer.receive_data(b"".join(codec.take_output()))


@given(
    st.lists(st.tuples(fields, st.sampled_from([(), (100,), (103, 103)]), st.booleans()), min_size=1, max_size=4),
    st.lists(common, max_size=12),
    cuts,
)
def test_a_client_sees_what_h2_sees_in_any_split(
    responses: list[tuple[list[tuple[bytes, bytes]], tuple[int, ...], bool]], ops: list[Op], places: list[int]
) -> None:
    asking: list[Any] = [client(), client(), h2_side(is_client=True)]
    side = h2_side(is_client=False)
    greeting = side.data_to_send()
    for codec in asking[:2]:
        codec.receive(greeting)
    asking[2].receive_data(greeting)
    for number in range(len(responses)):
        for codec in asking[:2]:
            codec.send_head(b"GET", b"http", b"/", HOST, 0)
        head = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"h"), (b":path", b"/")]
        asking[2].send_headers(2 * number + 1, head, end_stream=True)
    side.receive_data(asking[2].data_to_send())

    def answer(number: int) -> Op:
        def run(side: h2.connection.H2Connection, script: Script) -> None:
            extra, informational, ended = responses[number]
            stream = 2 * number + 1
            for status in informational:
                side.send_headers(stream, [(b":status", b"%d" % status)])
            side.send_headers(stream, [(b":status", b"200"), *extra], end_stream=ended)
            if not ended:
                script.open.append(stream)

        return run

    sent = played(side, Script(), [*map(answer, range(len(responses))), *ops])
    story = feed(asking[0], cut_at(sent, places))
    assert asking[0].failed is None
    assert story == tell_h2({}, asking[2].receive_data(sent))
    assert story == feed(asking[1], [sent[at : at + 1] for at in range(len(sent))])


@given(
    st.lists(st.tuples(st.integers(0, 40_000), st.integers(1, 5), st.booleans()), min_size=1, max_size=6),
    st.sampled_from([0, 1, 100, 65_535, 1_000_000]),
    st.integers(2_000, 20_000),
)
def test_bodies_reach_h2_whole_whatever_its_windows_are(
    bodies: list[tuple[int, int, bool]], window: int, step: int
) -> None:
    """A server answers several requests at once; h2 takes what its windows admit and returns credit in steps."""
    peer = h2_side(is_client=True)
    peer.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
    codec = server()
    for number in range(len(bodies)):
        head = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"h"), (b":path", b"/")]
        peer.send_headers(2 * number + 1, head, end_stream=True)
    codec.receive(peer.data_to_send())
    for number, (size, pieces, is_declared) in enumerate(bodies):
        stream = 2 * number + 1
        codec.send_head(stream, 200, HOST, size * pieces if is_declared else None)
        for piece in range(pieces):
            codec.send_body(stream, [bytes([piece]) * size])
        codec.end_body(stream)
    story: Story = {}
    while output := b"".join(codec.take_output()):
        tell_h2(story, peer.receive_data(output))
        for stream in story:
            if not story[stream].end:
                peer.increment_flow_control_window(step, stream)
        peer.increment_flow_control_window(step)
        tell({}, codec.receive(peer.data_to_send()))
    assert codec.failed is None
    for number, (size, pieces, _) in enumerate(bodies):
        seen = story[2 * number + 1]
        assert seen.body == b"".join([bytes([piece]) * size for piece in range(pieces)])
        assert seen.end == "end"
        codec.release(2 * number + 1)
    assert codec.exchanges == 0


def _pumped(left: H2Codec, right: H2Codec) -> Story:
    story: Story = {}
    while True:
        there = b"".join(left.take_output())
        back = b"".join(right.take_output())
        if not there and not back:
            return story
        tell(story, right.receive(there))
        tell(story, left.receive(back))


@given(st.integers(1, 200_000), st.integers(500, 3000), st.booleans())
def test_both_sides_of_the_codec_understand_each_other(size: int, window: int, is_declared: bool) -> None:
    asking = client(CodecSettings(LIMITS, window, 10))
    answering = server(CodecSettings(LIMITS, window, 10))
    body = bytes(range(256)) * (size // 256 + 1)
    stream = asking.send_head(b"PUT", b"https", b"/", HOST, size if is_declared else None)
    asking.send_body(stream, [body[:size]])
    asking.end_body(stream)
    story = _pumped(asking, answering)
    assert (story[stream].body, story[stream].end) == (body[:size], "end")
    answering.send_head(stream, 200, HOST, size if is_declared else None)
    answering.send_body(stream, [body[:size]])
    answering.end_body(stream)
    story = _pumped(asking, answering)
    assert (story[stream].body, story[stream].end) == (body[:size], "end")
    for codec in (asking, answering):
        codec.release(stream)
        assert codec.exchanges == 0
