"""The short way for heads in which nothing unusual occurs: one regular expression instead of a parser's cycle.

Each function here has a slow twin in `proxy.wire.head`, which is its oracle in tests: it gives what the twin would
give, or None, and then the twin decides. Owns no refusal.
"""

import re

from proxy.wire.events import HeadLimits, RequestHead, ResponseHead
from proxy.wire.grammar import TCHAR
from proxy.wire.headers import Headers

__all__ = ["is_plain_informational", "plain_request_head", "plain_response_head"]

_LINE = TCHAR + rb"++: [!-~][ -~]*+\r\n"
_LINES = rb"((?:%b)*+)\r\n" % _LINE
_REQUEST = re.compile(rb"(" + TCHAR + rb"++) (/(?!/)[!\"$-\[\]-~]*+) HTTP/1\.1\r\n" + _LINES)
_OTHERS = rb"(?:(?!(?i:content-length|transfer-encoding|connection):)%b|(?i:connection: keep-alive)\r\n)*+" % _LINE
_FRAMING = rb"(?:(?i:content-length): (0|[1-9][0-9]{0,17})|(?i:transfer-encoding): chunked)\r\n"
_RESPONSE = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9])(?: [ -~]*+)?\r\n(%b%b%b)\r\n" % (_OTHERS, _FRAMING, _OTHERS))
_UNFRAMED = (b"204", b"205", b"304")
_NO_CONTENT = re.compile(rb"HTTP/1\.1 204(?: [ -~]*+)?\r\n(%b)\r\n" % _OTHERS)
_INFORMATIONAL = re.compile(rb"HTTP/1\.[01] 1(?!01)[0-9][0-9](?: [ -~]*+)?\r\n" + _LINES)
_HOST = re.compile(
    rb"[A-Za-z0-9.\-]+(?::(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}))?"
)  # ports to 64999; the rest goes the long way
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,17}")
_UNUSUAL = frozenset((b"transfer-encoding", b"expect", b"upgrade", b"content_length", b"transfer_encoding"))


def plain_request_head(data: bytes, start: int, limits: HeadLimits) -> tuple[RequestHead, int] | None:
    """The request head that begins at `start` and where it ends, if it is whole and plain. Twin: `request_head`."""
    match = _REQUEST.match(data, start, start + limits.head_bytes)
    if match is None:
        return None
    method, target, lines = match.groups()
    if b" \r" in lines or len(target) > limits.target_bytes:
        return None
    headers = Headers.unread(lines)
    values = headers.joined()
    count = lines.count(b"\n")
    if len(values) < count or count > limits.fields or not _UNUSUAL.isdisjoint(values):
        return None
    length = values.get(b"content-length", b"0")
    connection = values.get(b"connection", b"keep-alive")
    if not _HOST.fullmatch(values.get(b"host", b"")) or not _LENGTH.fullmatch(length):
        return None
    if connection.lower() != b"keep-alive":
        return None
    return RequestHead(method, target, headers, int(length), keep_alive=True, expect_continue=False), match.end()


def plain_response_head(data: bytes, start: int, limits: HeadLimits) -> tuple[ResponseHead, int] | None:
    """The final response's head at `start` and where it ends, if it is whole and plain.

    Plain is one that says the length of its body or that it is chunked, once, or a 204 that says neither, and that
    keeps the connection: what `response_lines` and `response_framing`, its twins, say of the answer to any method but
    HEAD.
    """
    match = _RESPONSE.match(data, start, start + limits.head_bytes)
    if match is None:
        return _plain_no_content(data, start, limits)
    status, lines, length = match.groups()
    if b" \r" in lines or status in _UNFRAMED or lines.count(b"\n") > limits.fields:
        return None
    return ResponseHead(int(status), Headers.unread(lines), None if length is None else int(length)), match.end()


def _plain_no_content(data: bytes, start: int, limits: HeadLimits) -> tuple[ResponseHead, int] | None:
    """The same for 204 (RFC 9110 section 15.3.5), which every append to storage is answered with."""
    match = _NO_CONTENT.match(data, start, start + limits.head_bytes)
    if match is None or b" \r" in match[1] or match[1].count(b"\n") > limits.fields:
        return None
    return ResponseHead(204, Headers.unread(match[1]), 0), match.end()


def is_plain_informational(head: bytes, limits: HeadLimits) -> bool:
    """Whether this is a whole informational head that can be passed over. Twin: `response_lines`."""
    match = _INFORMATIONAL.fullmatch(head)
    return match is not None and match[1].count(b"\n") <= limits.fields
