"""Upstream URLs: what is read, what is refused, and that nothing but `UrlError` ever escapes."""

from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.wire.url import (
    Url,
    UrlError,
    canonical_host,
    has_encoded_separator,
    parse_query,
    parse_url,
    query_values,
)

READ = [
    (b"https://api.openai.com/v1/chat", "https", "api.openai.com", 443, b"/v1/chat"),
    (b"http://localhost:8080/x", "http", "localhost", 8080, b"/x"),
    (b"HTTPS://API.OpenAI.COM/V1", "https", "api.openai.com", 443, b"/V1"),
    (b"https://a.example", "https", "a.example", 443, b"/"),
    (b"https://a.example:443/", "https", "a.example", 443, b"/"),
    (b"http://a.example:443/", "http", "a.example", 443, b"/"),
    (b"https://a.example:65535/", "https", "a.example", 65535, b"/"),
    (b"https://a.example?", "https", "a.example", 443, b"/?"),
    (b"https://a.example:1?a=b/c", "https", "a.example", 1, b"/?a=b/c"),
    (b"https://a.example/?", "https", "a.example", 443, b"/?"),
    (b"https://a.example/p?a=1&a=2?b=/@:#end", "https", "a.example", 443, b"/p?a=1&a=2?b=/@:"),
    (b"https://a.example/p#", "https", "a.example", 443, b"/p"),
    (b"https://a.example/p#part/../%00", "https", "a.example", 443, b"/p"),
    (b"https://a.example/user@host/x:y", "https", "a.example", 443, b"/user@host/x:y"),
    (b"https://a.example//v1//", "https", "a.example", 443, b"//v1//"),
    (b"https://a.example/arn%3aaws%2Fx%5Cy%20z", "https", "a.example", 443, b"/arn%3aaws%2Fx%5Cy%20z"),
    (b"https://a.example/.well-known/...", "https", "a.example", 443, b"/.well-known/..."),
    (b"https://a.example/p?q=..%2f../..&half=50%", "https", "a.example", 443, b"/p?q=..%2f../..&half=50%"),
    (b"https://a.example/?text=a%0Ab%0d%0A%09c", "https", "a.example", 443, b"/?text=a%0Ab%0d%0A%09c"),
    (b"https://a.example?%0a", "https", "a.example", 443, b"/?%0a"),
    (b"https://a.example/?x=%250a%2500", "https", "a.example", 443, b"/?x=%250a%2500"),
    (b"https://a.example/%E2%82%AC/%e9/100%25", "https", "a.example", 443, b"/%E2%82%AC/%e9/100%25"),
    (b"https://a.example/%25252541", "https", "a.example", 443, b"/%25252541"),
    (b"https://xn--mnchen-3ya.example/", "https", "xn--mnchen-3ya.example", 443, b"/"),
    (b"https://my_service/", "https", "my_service", 443, b"/"),
    (b"https://3com.example/", "https", "3com.example", 443, b"/"),
    (b"https://1.2.3.4.example/", "https", "1.2.3.4.example", 443, b"/"),
    (b"http://127.0.0.1:9/", "http", "127.0.0.1", 9, b"/"),
    (b"http://[::1]/", "http", "::1", 80, b"/"),
    (b"http://[2001:DB8::A]:81/", "http", "2001:db8::a", 81, b"/"),
]


@pytest.mark.parametrize(("text", "scheme", "host", "port", "target"), READ)
def test_a_plain_url_is_read_into_its_parts(text: bytes, scheme: str, host: str, port: int, target: bytes) -> None:
    url = parse_url(text)
    assert (url.scheme, url.host, url.port, url.target) == (scheme, host, port, target)
    assert url.path == target.partition(b"?")[0].decode()


REFUSED = {
    "empty": [b"", b" ", b"\n"],
    "outside ! to ~": [
        b"https://a.example/a b", b" https://a.example/", b"https://a.example/ ", b"https://a.example/\t",
        b"https://a.example/\r\nX: y", b"https://a.example/\x00", b"https://a.example/\x7f", b"https://a.example/\xe9",
        "https://ａ.example/".encode(), "https://a。example/".encode(), "https://a．example/".encode(),
        "http\u017f://a.example/".encode(), "https://\u212aelvin.example/".encode(), "https://а.example/".encode(),
    ],
    "not absolute": [
        b"a.example", b"//a.example/", b"/v1", b"a.example/v1", b"localhost:80/", b"https:/a.example/",
        b"https:a.example", b"https:///v1", b"https://", b"https:///", b"://a.example/",
    ],
    "scheme": [
        b"ftp://a.example/", b"file:///etc/passwd", b"gopher://a.example/", b"ws://a.example/", b"httpss://a.example/",
        b"http+unix://a/", b"javascript://a/", b"data:text/plain,x", b"h2://a.example/",
    ],
    "userinfo": [
        b"https://user@a.example/", b"https://user:pass@a.example/", b"https://@a.example/", b"https://:@a.example/",
        b"https://api.openai.com@evil.example/", b"https://api.openai.com:443@evil.example/", b"https://a@b@c.example/",
        b"https://%61@a.example/",
    ],
    "backslash": [
        b"https://evil.example\\@api.openai.com/", b"https:\\\\a.example/", b"https://a.example\\.evil.example/",
        b"https://a.example/x\\y", b"https://a.example/?x=\\", b"https://a.example/#\\",
    ],
    "? and # at the authority": [
        b"https://evil.example#@api.openai.com/", b"https://evil.example?@api.openai.com/",
        b"https://api.openai.com#@evil.example/", b"https://api.openai.com?@evil.example/",
        b"https://api.openai.com#", b"https://api.openai.com#x", b"https://api.openai.com?x#y",
        b"https://api.openai.com?x=y@evil.example/", b"https://evil.example?.@api.openai.com:443/",
        b"https://api.openai.com:443#.evil.example", b"https://#a.example/", b"https://?a.example/",
    ],
    "fragment": [b"https://a.example/#@evil.example/", b"https://a.example/#a#b", b"https://a.example/?x#y@z"],
    "port": [
        b"https://a.example:/", b"https://a.example:0/", b"https://a.example:00443/", b"https://a.example:65536/",
        b"https://a.example:99999999999999999999/", b"https://a.example:+80/", b"https://a.example:-1/",
        b"https://a.example:8_0/", b"https://a.example:80:80/", b"https://a.example:http/", b"https://a.example:0x50/",
        b"https://a.example:*/", b"https://:443/", b"https://[::1]:/", b"https://[::1]80/",
    ],
    "name": [
        b"https://a.example./", b"https://./", b"https://../", b"https://.a.example/", b"https://a..example/",
        b"https://-a.example/", b"https://a-.example/", b"https://a.-b/", b"https://a.example%2eevil/",
        b"https://a%00.example/", b"https://%6c%6fcalhost/", b"https://a,b/", b"https://a;b/", b"https://a*b/",
        b"https://*/", b"https://a$b/", b"https://{a}/", b"https://" + b"a" * 64 + b".example/",
        b"https://" + b"a." * 127 + b"ab/",
    ],
    "numeric host": [
        b"http://2130706433/", b"http://0x7f000001/", b"http://0x7f.1/", b"http://0177.0.0.1/", b"http://127.1/",
        b"http://127.0.1/", b"http://127.0.0.01/", b"http://127.0.0.256/", b"http://1.2.3.4.5/", b"http://0/",
        b"http://017700000001/", b"http://127.0.0.1./", b"http://a.1/", b"http://a.0x1/", b"http://0x/",
        b"http://127.0.0.0x1/", b"http://00000000000000000000177.0.0.1/", b"http://127.0.0.1%00/",
    ],
    "IPv6": [
        b"http://[::ffff:127.0.0.1]/", b"http://[::ffff:7f00:1]/", b"http://[::ffff:808:808]/",
        b"http://[::127.0.0.1]/",
        b"http://[fe80::1%25eth0]/", b"http://[fe80::1%eth0]/", b"http://[0:0:0:0:0:0:0:1]/", b"http://[::0001]/",
        b"http://[::1/", b"http://::1/", b"http://::1]/", b"http://[]/", b"http://[127.0.0.1]/", b"http://[a.example]/",
        b"http://[::1].evil.example/", b"http://a[::1]/", b"http://[v1.x]/", b"http://[[::1]]/", b"http://[::1]x:80/",
    ],
    "dot segments": [
        b"https://a.example/.", b"https://a.example/..", b"https://a.example/v1/../x", b"https://a.example/v1/./x",
        b"https://a.example/%2e", b"https://a.example/%2E%2e/x", b"https://a.example/.%2e/x",
        b"https://a.example/%2e./",
        b"https://a.example/%252e%252e/x", b"https://a.example/.%252E/x", b"https://a.example/%25%32%65/",
        b"https://a.example/v1%2f..%2fx", b"https://a.example/v1%5c..%5cx", b"https://a.example/v1%252f..%252fx",
        b"https://a.example/v1%2f%2e%2e", b"https://a.example/..;/x", b"https://a.example/v1/..;a=b/x",
        b"https://a.example/v1/..%3bx/y", b"https://a.example/..%3f", b"https://a.example/..%23x",
        b"https://a.example/..?q",
        b"https://a.example/..#f",
    ],
    "encoded controls": [
        b"https://a.example/%00", b"https://a.example/x%0d%0aY:%20z", b"https://a.example/%0A",
        b"https://a.example/%7f",
        b"https://a.example/%1F", b"https://a.example/%2500", b"https://a.example/%250a",
        b"https://a.example/?%00", b"https://a.example/?x=%0b", b"https://a.example/?x=%1B", b"https://a.example/?x=%7F",
        b"https://a.example/?x=%08", b"https://a.example/?x=%0c", b"https://a.example/?x=%0E", b"https://a.example/?x=%1f",
        b"https://a.example/?x=%0a%00",
    ],
    "broken or overlong encoding": [
        b"https://a.example/%", b"https://a.example/%2", b"https://a.example/%zz", b"https://a.example/%u002e",
        b"https://a.example/%c0%ae%c0%ae/x", b"https://a.example/%c1%9c", b"https://a.example/%e0%80%ae%e0%80%ae",
        b"https://a.example/%e0%80%af", b"https://a.example/%E0%81%9C", b"https://a.example/%f0%80%80%af",
        b"https://a.example/%f8%80%80%80%af", b"https://a.example/%fc%80%80%80%80%af", b"https://a.example/%25c0%25af",
        b"https://a.example/%25e0%2580%25ae", b"https://a.example/%25%65%30%80%ae", b"https://a.example/%25u002e",
        b"https://a.example/%25U2215", b"https://a.example/%25%75002f",
    ],
    "encoded once more than anybody needs": [
        b"https://a.example/%2525252541",        b"https://a.example/%" + b"25" * 4000 + b"2f",
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    "text", [pytest.param(text, id=f"{why}-{text!r}") for why, texts in REFUSED.items() for text in texts]
)
def test_what_two_parsers_could_read_differently_is_refused(text: bytes) -> None:
    with pytest.raises(UrlError) as refusal:
        parse_url(text)
    assert "evil" not in refusal.value.reason


@pytest.mark.parametrize("text", REFUSED["userinfo"])
def test_userinfo_is_called_by_its_name(text: bytes) -> None:
    with pytest.raises(UrlError, match="userinfo"):
        parse_url(text)


@pytest.mark.parametrize("host", [b"::ffff:102:304", b"::ffff:1.2.3.4", b"0:0:0:0:0:ffff:102:304", b"::FFFF:1.2.3.4"])
def test_an_ipv4_address_within_ipv6_is_refused_as_such_however_it_is_spelled(host: bytes) -> None:
    with pytest.raises(UrlError, match="in disguise"):
        canonical_host(b"[%b]" % host)


@pytest.mark.parametrize("spell", ["%{:02x}", "%{:02X}"])
def test_of_the_encoded_controls_a_query_may_have_tab_and_line_ends_and_a_path_none(spell: str) -> None:
    for control in (*range(0x20), 0x7F):
        escape = spell.format(control).encode()
        if control in b"\t\n\r":
            assert parse_url(b"https://a.example/x?text=a" + escape).target.endswith(escape)
        else:
            with pytest.raises(UrlError, match="query"):
                parse_url(b"https://a.example/x?text=a" + escape)
        with pytest.raises(UrlError, match="path"):
            parse_url(b"https://a.example/x" + escape)


def test_a_name_may_have_labels_of_63_and_253_bytes_in_all() -> None:
    longest = b".".join([b"a" * 63, b"b" * 63, b"c" * 63, b"d" * 61])
    assert parse_url(b"https://" + longest).host == longest.decode()
    with pytest.raises(UrlError):
        parse_url(b"https://" + longest + b"d")


AUTHORITIES = [
    (b"https://a.example:443/", b"a.example", True),
    (b"http://a.example:80/", b"a.example", True),
    (b"https://a.example:80/", b"a.example:80", False),
    (b"https://[::1]/", b"[::1]", True),
    (b"http://[::1]:8080/", b"[::1]:8080", False),
    (b"http://127.0.0.1:8080/", b"127.0.0.1:8080", False),
]


@pytest.mark.parametrize(("text", "authority", "default"), AUTHORITIES)
def test_host_value_names_the_port_only_when_it_is_not_the_default(
    text: bytes, authority: bytes, default: bool
) -> None:
    url = parse_url(text)
    assert url.authority == authority
    assert url.default_port is default


@pytest.mark.parametrize(
    ("host", "address"),
    [(b"127.0.0.1", True), (b"[::1]", True), (b"localhost", False), (b"a1.b2", False), (b"1.2.3.4.example", False)],
)
def test_an_address_differs_from_a_name(host: bytes, address: bool) -> None:
    assert parse_url(b"https://" + host).is_address is address


def test_repr_leaves_the_query_out() -> None:
    url = parse_url(b"https://a.example/p?key=sk-hidden")
    assert "/p" in repr(url)
    assert "sk-hidden" not in repr(url)


QUERIES: list[tuple[bytes, list[tuple[bytes, bytes]]]] = [
    (b"", []),
    (b"&&", []),
    (b"a=1&b=2&a=3", [(b"a", b"1"), (b"b", b"2"), (b"a", b"3")]),
    (b"a", [(b"a", b"")]),
    (b"=v", [(b"", b"v")]),
    (b"a=b=c", [(b"a", b"b=c")]),
    (b"a=x+y%2Bz%20", [(b"a", b"x y+z ")]),
    (b"%61=%ff%00", [(b"a", b"\xff\x00")]),
    (b"a=%&b=%2&c=%zz", [(b"a", b"%"), (b"b", b"%2"), (b"c", b"%zz")]),
    (b"a=1;b=2", [(b"a", b"1;b=2")]),
    (b"\xff=\xfe", [(b"\xff", b"\xfe")]),
]


@pytest.mark.parametrize(("query", "pairs"), QUERIES)
def test_a_query_is_decoded_to_bytes_with_its_repeats(query: bytes, pairs: list[tuple[bytes, bytes]]) -> None:
    assert parse_query(query) == pairs


def test_all_values_of_a_name_are_found_in_order() -> None:
    query = parse_query(b"a=1&b=2&a=&A=3")
    assert query_values(query, b"a") == [b"1", b""]
    assert query_values(query, b"c") == []


@pytest.mark.parametrize(
    ("path", "is_encoded"),
    [
        (b"/", False), (b"/v1//x/", False), (b"/a%20b", False), (b"/a%252", False), (b"/%25/2f", False),
        (b"/a%2fb", True), (b"/a%2Fb", True), (b"/a%5cb", True), (b"/a%252fb", True), (b"/a%25%32%66b", True),
        (b"/a%2525%32fb", True), (b"/a%255Cb", True), (b"/%2f", True),
    ],
)  # fmt: skip
def test_an_encoded_separator_is_seen_in_every_decoding(path: bytes, is_encoded: bool) -> None:
    assert has_encoded_separator(path) is is_encoded


def encoded(text: bytes, choices: list[bool]) -> bytes:
    """`text` with those bytes percent-encoded whose turn it is."""
    turns = iter(choices)
    return b"".join(b"%%%02x" % byte if next(turns, False) else bytes([byte]) for byte in text)


@given(st.sampled_from([b"/", b"\\"]), st.lists(st.lists(st.booleans(), min_size=12), min_size=1, max_size=4))
def test_no_partial_encoding_hides_a_separator(separator: bytes, rounds: list[list[bool]]) -> None:
    hidden = b"%%%02x" % separator[0]
    for choices in rounds[1:]:
        hidden = encoded(hidden, choices)
        hidden = hidden if b"%" in hidden else b"%%%02x" % separator[0]
    path = b"/v1/a" + hidden + b"b"
    try:
        parse_url(b"https://a.example" + path)
    except UrlError:
        return  # encoded more than four times
    assert has_encoded_separator(path)


@given(st.lists(st.lists(st.booleans(), min_size=12), max_size=4))
def test_no_partial_encoding_hides_a_dot_segment(rounds: list[list[bool]]) -> None:
    hidden = b".."
    for choices in rounds:
        hidden = encoded(hidden, choices)
    with pytest.raises(UrlError):
        parse_url(b"https://a.example/v1/" + hidden + b"/x")


@given(st.binary())
def test_any_bytes_are_a_query(query: bytes) -> None:
    pairs = parse_query(query)
    assert sum(len(name) + len(value) for name, value in pairs) <= len(query)


url_bytes = st.one_of(
    st.binary(),
    st.text(alphabet="htps:/.@#?%[]\\0123456789abcdefx-_~;", max_size=60).map(lambda text: f"https://{text}".encode()),
)


@given(url_bytes)
def test_any_bytes_are_a_sound_url_or_refused(text: bytes) -> None:
    try:
        url = parse_url(text)
    except UrlError:
        return
    assert url.host == url.host.lower()
    assert 1 <= url.port <= 65535
    assert url.target.startswith(b"/")
    assert url.target in text or url.target.removeprefix(b"/") in text  # the slash of an absent path
    assert not any(byte <= 0x20 or byte >= 0x7F or byte in b"\\#" for byte in url.target)


@given(url_bytes)
def test_what_was_read_reads_the_same_when_written_again(text: bytes) -> None:
    try:
        url = parse_url(text)
    except UrlError:
        return
    assert parse_url(url.scheme.encode() + b"://" + url.authority + url.target) == url


@given(st.ip_addresses(v=4).map(str))
def test_every_canonical_ipv4_address_is_a_host(address: str) -> None:
    assert canonical_host(address.encode()) == address


@given(st.integers(2**48, 2**128 - 1).map(IPv6Address))
def test_every_canonical_ipv6_address_but_a_mapped_one_is_a_host(address: IPv6Address) -> None:
    assert canonical_host(f"[{address}]".encode()) == address.compressed


def test_urls_compare_and_hash_by_value() -> None:
    assert {parse_url(b"https://A.example/"), parse_url(b"https://a.example:443")} == {
        Url("https", "a.example", 443, b"/", "/")
    }
