"""How Redis and Valkey are spoken to: RESP in any pieces, slots of a cluster, URLs."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.store.valkey.keys import Namer, news_of
from proxy.store.valkey.place import Kind, Node, PlaceError, parse_place
from proxy.store.valkey.resp import Malformed, Parser, Push, Reply, ServerError, encoded
from proxy.store.valkey.slots import slot_of

SCALARS = st.none() | st.integers(-(2**62), 2**62) | st.binary(max_size=40)
REPLIES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=5), max_leaves=12)


def spelled(reply: Reply) -> bytes:
    if reply is None:
        return b"_\r\n"
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    assert isinstance(reply, list)
    return b"*%d\r\n%b" % (len(reply), b"".join(map(spelled, reply)))


@given(st.lists(REPLIES, max_size=6), st.lists(st.integers(0, 400), max_size=8))
def test_replies_are_the_same_however_their_bytes_are_cut(replies: list[Reply], cuts: list[int]) -> None:
    data = b"".join(map(spelled, replies))
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    parser = Parser()
    found: list[Reply] = []
    for begin, end in pairwise(places):
        found += parser.feed(data[begin:end])
    assert found == replies


def test_every_type_of_resp3_is_read() -> None:
    data = (
        b"+OK\r\n#t\r\n,1.5\r\n(12345678901234567890\r\n=7\r\ntxt:abc\r\n%1\r\n+a\r\n:1\r\n~1\r\n:2\r\n"
        b"|1\r\n+ttl\r\n:3\r\n:4\r\n>2\r\n+message\r\n$-1\r\n*-1\r\n-OOM no room\r\n!5\r\nERR x\r\n"
    )
    replies = Parser().feed(data)
    assert replies[:-2] == [
        b"OK", True, 1.5, 12345678901234567890, b"abc", [b"a", 1], [2], 4, [b"message", None], None,
    ]  # fmt: skip
    assert isinstance(replies[8], Push)
    assert [each.code for each in replies[-2:] if isinstance(each, ServerError)] == ["OOM", "ERR"]


@pytest.mark.parametrize(
    "data", [b"HTTP/1.1 400\r\n", b":x\r\n", b"$1\r\nabc\r\n", b"*1\r\n" * 40, b"+" + b"x" * 70_000]
)
def test_what_is_not_resp_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        Parser().feed(data)


@given(st.lists(st.binary(max_size=50) | st.integers(0, 2**60), min_size=1, max_size=8))
def test_a_command_is_an_array_of_strings(arguments: list[bytes | int]) -> None:
    (reply,) = Parser().feed(encoded(arguments))
    assert reply == [b"%d" % each if isinstance(each, int) else each for each in arguments]


@pytest.mark.parametrize(("key", "slot"), [(b"123456789", 12739), (b"a{123456789}b", 12739), (b"foo", 12182)])
def test_slots_are_those_of_the_specification(key: bytes, slot: int) -> None:
    assert slot_of(key) == slot


@given(st.text(st.characters(codec="latin-1"), max_size=30))
def test_all_keys_of_a_stream_are_in_one_slot_and_name_it(path: str) -> None:
    namer = Namer("ds")
    keys = namer.of("/" + path)
    assert len({slot_of(key) for key in keys[:4]}) == 1
    assert namer.path_of(keys.channel) == "/" + path


def test_a_push_carries_its_pieces() -> None:
    news = news_of(b"17 3 12 c 2,3\nab\ncd")
    assert (news.id, news.revision, news.tail, news.closed, news.data) == (17, 3, 12, True, [b"ab", b"\ncd"])
    assert news_of(b"17 0 0 x -\n").is_removed


@pytest.mark.parametrize(
    ("url", "kind", "nodes", "rest"),
    [
        ("redis://h", Kind.SERVER, (Node("h", 6379),), (False, "", "", "", 0)),
        ("rediss://u:p%40@[::1]:1/3", Kind.SERVER, (Node("::1", 1),), (True, "u", "p@", "", 3)),
        ("valkey+unix:///run/s", Kind.SERVER, (Node("", 0, "/run/s"),), (False, "", "", "", 0)),
        ("redis+sentinel://a,b:2/name/1", Kind.SENTINEL, (Node("a", 26379), Node("b", 2)), (False, "", "", "name", 1)),
        ("valkeys+cluster://a,b", Kind.CLUSTER, (Node("a", 6379), Node("b", 6379)), (True, "", "", "", 0)),
    ],
)
def test_a_url_names_a_place(
    url: str, kind: Kind, nodes: tuple[Node, ...], rest: tuple[bool, str, str, str, int]
) -> None:
    place = parse_place(url)
    assert (place.kind, place.nodes) == (kind, nodes)
    assert (place.has_tls, place.user, place.password, place.name, place.database) == rest
    assert not place.password or place.password not in repr(place)


@pytest.mark.parametrize(
    "url",
    ["http://h", "redis://", "redis://a,b", "redis://h:0", "redis://h/x", "redis+sentinel://a", "redis+cluster://a/1",
     "rediss+unix:///s", "redis://h?x=1"],
)  # fmt: skip
def test_a_url_that_names_none_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(PlaceError) as caught:
        parse_place(url)
    assert url not in str(caught.value)
