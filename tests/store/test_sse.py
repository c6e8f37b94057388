"""Server-sent events, read back by a parser written from the specification's grammar."""

import base64
import json

from hypothesis import given
from hypothesis import strategies as st

from proxy.store.protocol.sse import Encoding, control_event, data_event, encoding_of, whole_characters


def parse(stream: bytes) -> list[tuple[str, str]]:
    """(event, data) as a browser's EventSource finds them."""
    text = stream.decode("utf-8").replace("\r\n", "\n").replace("\r", "\n")
    found = []
    kind, data = "message", list[str]()
    for line in text.split("\n"):
        name, _, value = line.partition(":")
        if line == "":
            if data:
                found.append((kind, "\n".join(data)))
            kind, data = "message", []
        elif name == "event":
            kind = value.removeprefix(" ")
        elif name == "data":
            data.append(value)
    return found


@given(st.text(st.characters(codec="utf-8")))
def test_text_of_any_lines_is_one_event(text: str) -> None:
    expected = text.replace("\r\n", "\n").replace("\r", "\n")
    assert parse(data_event(text.encode(), Encoding.TEXT)) == [("data", expected)]


@given(st.binary())
def test_bytes_that_are_not_utf8_never_break_the_event_stream(payload: bytes) -> None:
    assert len(parse(data_event(payload, Encoding.TEXT))) == 1


@given(st.binary())
def test_binary_comes_back_from_base64(payload: bytes) -> None:
    ((kind, data),) = parse(data_event(payload, Encoding.BASE64))
    assert (kind, base64.b64decode(data, validate=True)) == ("data", payload)


def test_json_values_are_an_array() -> None:
    ((_, data),) = parse(data_event(b'{"a":\n1}, "x\\n",', Encoding.JSON))
    assert json.loads(data) == [{"a": 1}, "x\n"]


def test_the_closing_control_event_has_no_cursor() -> None:
    ((kind, data),) = parse(control_event("1_2", "9", up_to_date=True, closed=True))
    assert (kind, json.loads(data)) == ("control", {"streamNextOffset": "1_2", "upToDate": True, "streamClosed": True})


def test_a_control_event_that_is_not_the_last_has_a_cursor() -> None:
    ((_, data),) = parse(control_event("1_2", "9", up_to_date=False, closed=False))
    assert json.loads(data) == {"streamNextOffset": "1_2", "streamCursor": "9"}


@given(st.text(min_size=1), st.data())
def test_text_is_never_cut_inside_a_character(text: str, data: st.DataObject) -> None:
    payload = text.encode("utf-8", "surrogatepass").decode("utf-8", "ignore").encode()
    there = payload[: data.draw(st.integers(0, len(payload)))]
    count = whole_characters(there)
    there[:count].decode("utf-8")
    assert len(there) - count < 4


@given(st.binary(max_size=8))
def test_what_is_not_text_waits_for_three_bytes_at_most(payload: bytes) -> None:
    assert len(payload) - 3 <= whole_characters(payload) <= len(payload)


def test_media_types_choose_the_encoding() -> None:
    assert encoding_of("text/plain") is Encoding.TEXT
    assert encoding_of("application/json") is Encoding.JSON
    assert encoding_of("application/octet-stream") is Encoding.BASE64
    assert encoding_of("application/jsonl") is Encoding.BASE64
