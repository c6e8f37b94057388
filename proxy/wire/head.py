"""Message heads of HTTP/1.1, received (RFC 9112 sections 2 to 6): where a head ends, what is refused, what it says.

Owns the checks on raw bytes that must come before a parser that joins or normalises, and the meaning of the framing
fields. h11 parses what passed; `proxy.wire.plain` does the same for heads in which nothing unusual occurs. The rules
that hold in every version of HTTP are functions of their own; `proxy.wire.fields` applies them to HTTP/2.
"""

import re
from typing import NamedTuple

import h11

from proxy.wire.events import HeadLimits, PeerError, RequestHead
from proxy.wire.grammar import is_token
from proxy.wire.headers import Field, Headers

__all__ = [
    "HeadReader",
    "ResponseFraming",
    "ResponseLines",
    "check_hosts",
    "check_target",
    "declared_length",
    "expects_continue",
    "is_like_framing",
    "origin_of",
    "received_length",
    "request_head",
    "response_framing",
    "response_lines",
]

_BROKEN_LINE = rb"(?<!\r)\n|\r[^\n]"
_REQUEST_FORBIDS = re.compile(_BROKEN_LINE + rb"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_RESPONSE_FORBIDS = re.compile(_BROKEN_LINE + rb"|\x00")

_VERSION = re.compile(rb"HTTP/[0-9]+(?:\.[0-9]+)?")
_TARGET = re.compile(rb"/(?!/)[!-~]*")
_NOT_IN_TARGET = re.compile(rb"[#\\]")
_TARGET_END = re.compile(rb"[ \r]")
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9\-._~!$&'()*+,;=%]+)(?::([0-9]{1,5}))?")
_LENGTH = re.compile(rb"0|[1-9][0-9]*")
_LENGTH_DIGITS = 19
"""More digits than this are more bytes than any limit allows, and are never converted to a number."""

_ORIGIN_LINE = re.compile(rb"\r\norigin:[ \t]*([!-~]+)[ \t]*\r\n(?![ \t])", re.IGNORECASE)
_LIKE_ORIGIN = re.compile(rb"[\r\n][ \t]*origin[ \t]*[:\r\n]", re.IGNORECASE)

_BLANK_LINES = 2
"""Empty lines that are passed over before a request line (RFC 9112 section 2.2 asks for at least one)."""

_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([0-9]{3})(?: [^\r\n]*)?\r\n")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")


class HeadReader:
    """Finds the end of a head in what is received, however it is split, and refuses one as soon as it must be.

    Whatever is wrong is reported at the first byte that shows it, so that no split of the same bytes changes the
    verdict. `target_bytes` of the limits is held for requests only (status lines have no target).
    """

    __slots__ = ("_blank_lines", "_checked", "_forbidden", "_is_request", "_limits", "received")

    def __init__(self, limits: HeadLimits, *, is_request: bool) -> None:
        self._limits = limits
        self._blank_lines = 0
        self._is_request = is_request
        self._forbidden = _REQUEST_FORBIDS if is_request else _RESPONSE_FORBIDS
        self.received = b""
        """What has been received of a head that is not whole."""
        self._checked = 0

    def receive(self, data: bytes, start: int = 0) -> tuple[bytes, int] | None:
        """The head with its empty line and where in `data` it ends; None while it is not whole. Raises PeerError."""
        begun = len(self.received)
        room = self._limits.head_bytes + 1 + 2 * _BLANK_LINES - begun
        head = self.received + data[start : start + room]
        while self._is_request and self._blank_lines < _BLANK_LINES and head.startswith(b"\r\n"):
            self._blank_lines += 1
            self._checked = 0
            head = head[2:]
            begun -= 2
        end = head.find(b"\r\n\r\n", max(begun - 3, 0))
        if end < 0:
            self._check(head)
            self.received = head
            return None
        head = head[: end + 4]
        self._check(head)
        self.received = b""
        self._blank_lines = self._checked = 0
        return head, start + len(head) - begun

    def _check(self, head: bytes) -> None:
        """Raise for the first byte that shows a fault, by its place."""
        faults = []
        if match := self._forbidden.search(head, max(self._checked - 1, 0)):
            faults.append((match.end(), 0, 400, "a control character or a line not ended by CRLF"))
        if self._is_request:
            if head.startswith(b"\r\n"):
                faults.append((2, 0, 400, "no request line"))
            target = head.find(b" ") + 1
            last = target + self._limits.target_bytes + 1
            if target and len(head) >= last and not _TARGET_END.search(head, target, last):
                faults.append((last, 1, 414, "the request target is too long"))
        if len(head) > self._limits.head_bytes:
            faults.append((self._limits.head_bytes + 1, 2, 431, "the head is too large"))
        if faults:
            _, _, status, fault = min(faults, key=lambda fault: fault[:2])
            raise PeerError(fault, status)
        self._checked = len(head)


def origin_of(received: bytes) -> bytes | None:
    """The Origin in a request head that was refused or is not whole; None unless one plain line says it."""
    head, end, _ = received.lstrip(b"\r\n").partition(b"\r\n\r\n")
    lines = head + end[:2]
    found = _ORIGIN_LINE.search(lines)
    return found[1] if found is not None and len(_LIKE_ORIGIN.findall(lines)) == 1 else None


def request_head(head: bytes, limits: HeadLimits) -> tuple[RequestHead, bool]:
    """A whole request head, read; and whether it is of HTTP/1.0. Raises PeerError with the status to answer.

    `head` has passed a HeadReader. The raw checks come first, then h11, which decides about names and values.
    """
    lines = head[:-4].split(b"\r\n")
    is_old = _check_request_line(lines[0], limits)
    fields = _raw_fields(lines[1:], limits)
    _check_host(fields, is_old)
    length = _request_length(fields, is_old)
    expects = expects_continue(_values(fields, b"expect"))

    parser = h11.Connection(h11.SERVER, max_incomplete_event_size=len(head))
    parser.receive_data(head)
    try:
        event = parser.next_event()
    except h11.RemoteProtocolError as error:
        raise PeerError("the head is not valid HTTP/1.1") from error
    if not isinstance(event, h11.Request):
        raise PeerError("the head is not valid HTTP/1.1")
    request = RequestHead(
        method=bytes(event.method),
        target=bytes(event.target),
        headers=Headers.spelled([(bytes(name), bytes(value)) for name, value in event.headers.raw_items()]),
        length=length,
        keep_alive=_keeps_alive(fields, is_old) and not _values(fields, b"upgrade"),
        expect_continue=expects and length != 0 and not is_old,
    )
    return request, is_old


class ResponseLines(NamedTuple):
    """A response's head as it was written; names in lower case, each framing field at most once."""

    is_old: bool
    """Of HTTP/1.0."""
    status: int
    fields: list[Field]


class ResponseFraming(NamedTuple):
    """What a response's head says of its body and of the connection after it."""

    length: int | None
    """Bytes, None: chunked or until the connection closes."""
    chunked: bool
    keep_alive: bool


def response_lines(head: bytes, limits: HeadLimits) -> ResponseLines:
    """A whole response head (final or informational), read by h11. Raises PeerError.

    Fields whose value may not be passed on (control characters) are left out, framing fields among them refused.
    """
    match = _STATUS_LINE.match(head)
    if match is None:
        raise PeerError("a bad status line")
    if head.count(b"\r\n") - 2 > limits.fields:
        raise PeerError("too many header fields")
    status = int(match[2])
    if status == 101 or not 100 <= status < 600:
        raise PeerError("a status that was not asked for or does not exist")

    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=len(head))
    parser.send(h11.Request(method="GET", target="/", headers=[("host", "h")]))
    parser.receive_data(head)
    try:
        event = parser.next_event()
    except h11.RemoteProtocolError as error:
        raise PeerError(_why_invalid(head)) from error
    if not isinstance(event, h11.Response | h11.InformationalResponse):
        raise PeerError("the head is not valid HTTP/1.1")
    fields = []
    for name, value in event.headers:
        if _VALUE.fullmatch(value):
            fields.append((bytes(name), bytes(value)))
        elif name in (b"connection", b"transfer-encoding", b"content-length"):
            raise PeerError("a control character in a framing field")
    return ResponseLines(match[1] == b"0", status, fields)


def _why_invalid(head: bytes) -> str:
    """What is wrong with a response head that h11 refused, whose own words would quote the head."""
    fields = []
    for line in head[:-4].split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if not line.startswith((b" ", b"\t")) and (not colon or not is_token(name)):
            return "a bad header line"
        fields.append((name.lower(), value.strip(b" \t")))
    lengths = {length.strip(b" \t") for value in _values(fields, b"content-length") for length in value.split(b",")}
    if not all(length.isdigit() for length in lengths):
        return "a bad content-length"
    if len(lengths) > 1:
        return "differing content-lengths"
    if _values(fields, b"transfer-encoding"):
        return "a transfer-encoding that cannot be trusted"
    return "the head is not valid HTTP/1.1"


def response_framing(response: ResponseLines, method: bytes) -> ResponseFraming:
    """The framing of a final response to `method` (RFC 9112 section 6.3). Raises PeerError where it is ambiguous.

    Chunks of HTTP/1.0 are read, as other clients do, but never followed by another exchange (section 6.1).
    """
    values = dict(response.fields)
    coding = values.get(b"transfer-encoding")
    declared = values.get(b"content-length")
    if coding is not None and (declared is not None or coding.lower() != b"chunked"):
        raise PeerError("a transfer-encoding that cannot be trusted")
    length = None if declared is None else received_length(declared)
    keep_alive = _keeps_alive(response.fields, response.is_old) if b"connection" in values else not response.is_old
    if method == b"HEAD" or response.status == 304:
        return ResponseFraming(0, chunked=False, keep_alive=keep_alive)
    if response.status in (204, 205):
        # RFC 9110 section 15.3: no content. Whatever is framed after it would be the next response's bytes.
        is_bare = length == 0 or (response.status == 204 and length is None and coding is None)
        return ResponseFraming(0, chunked=False, keep_alive=keep_alive and is_bare)
    if length is None and coding is None:
        return ResponseFraming(None, chunked=False, keep_alive=False)
    is_trusted = coding is None or not response.is_old
    return ResponseFraming(length, chunked=coding is not None, keep_alive=keep_alive and is_trusted)


def received_length(declared: bytes) -> int:
    """The bytes that a response's Content-Length declares (RFC 9110 section 8.6). Raises PeerError."""
    if not declared.isdigit() or len(declared) > _LENGTH_DIGITS:
        raise PeerError("a bad content-length")
    return int(declared)


def declared_length(values: list[bytes]) -> int | None:
    """The bytes that a request's Content-Length fields declare (RFC 9110 section 8.6); None without one.

    Raises PeerError: one value without a leading zero is all that is accepted.
    """
    if not values:
        return None
    if len(values) > 1 or not _LENGTH.fullmatch(values[0]):
        raise PeerError("a bad content-length")
    if len(values[0]) > _LENGTH_DIGITS:
        raise PeerError("the body is too large", 413)
    return int(values[0])


def expects_continue(values: list[bytes]) -> bool:
    """Whether the Expect fields ask for 100 (Continue) (RFC 9110 section 10.1.1). Raises PeerError for another one."""
    if any(value.lower() != b"100-continue" for value in values):
        raise PeerError("the expectation is not known", 417)
    return bool(values)


def is_like_framing(name: bytes) -> bool:
    """Whether servers that read `_` as `-` would take this field's name (lower case) for one that frames a body."""
    return name in (b"transfer_encoding", b"content_length")


def check_target(method: bytes, target: bytes, limits: HeadLimits) -> None:
    """Raise PeerError for a target that is not a path with a query, or `*` of OPTIONS (RFC 9112 section 3.2)."""
    if len(target) > limits.target_bytes:
        raise PeerError("the request target is too long", 414)
    is_asterisk = target == b"*" and method == b"OPTIONS"
    if not is_asterisk and (not _TARGET.fullmatch(target) or _NOT_IN_TARGET.search(target)):
        raise PeerError("the request target is not a path")


def check_hosts(hosts: list[bytes]) -> None:
    """Raise PeerError unless there is one, of a host and perhaps a port (RFC 9110 section 7.2)."""
    match = _HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if match is None or (match[1] is not None and not 0 < int(match[1]) < 65536):
        raise PeerError("a missing, repeated or bad host")


def _check_request_line(line: bytes, limits: HeadLimits) -> bool:
    """Whether it is of HTTP/1.0. Raises PeerError (RFC 9112 section 3)."""
    words = line.split(b" ")
    if len(words) != 3 or not is_token(words[0]):
        raise PeerError("a bad request line")
    method, target, version = words
    if len(target) > limits.target_bytes:
        raise PeerError("the request target is too long", 414)
    if not _VERSION.fullmatch(version):
        raise PeerError("a bad request line")
    if version not in (b"HTTP/1.0", b"HTTP/1.1"):
        raise PeerError("only HTTP/1.0 and HTTP/1.1 are spoken here", 505)
    check_target(method, target, limits)
    return version == b"HTTP/1.0"


def _raw_fields(lines: list[bytes], limits: HeadLimits) -> list[Field]:
    """The field lines as they were written, names in lower case. Raises PeerError (RFC 9112 section 5)."""
    if len(lines) > limits.fields:
        raise PeerError("too many header fields", 431)
    fields = []
    for line in lines:
        raw_name, colon, value = line.partition(b":")
        name = raw_name.lower()
        if not colon or not is_token(name):
            raise PeerError("a bad header line")
        if is_like_framing(name):
            raise PeerError("a header that others may read as framing")
        fields.append((name, value.strip(b" \t")))
    return fields


def _check_host(fields: list[Field], is_old: bool) -> None:
    """RFC 9112 section 3.2: one Host, which HTTP/1.0 may leave out."""
    hosts = _values(fields, b"host")
    if hosts or not is_old:
        check_hosts(hosts)


def _request_length(fields: list[Field], is_old: bool) -> int | None:
    """Bytes of the body, None when it is chunked (RFC 9112 section 6.3). Raises PeerError."""
    codings = _values(fields, b"transfer-encoding")
    lengths = _values(fields, b"content-length")
    if codings:
        if lengths or is_old:
            raise PeerError("a transfer-encoding that cannot be trusted")
        if len(codings) > 1 or codings[0].lower() != b"chunked":
            raise PeerError("the only transfer-encoding spoken here is chunked", 501)
        return None
    return declared_length(lengths) or 0


def _keeps_alive(fields: list[Field], is_old: bool) -> bool:
    """RFC 9112 section 9.3."""
    options = {option.strip(b" \t").lower() for value in _values(fields, b"connection") for option in value.split(b",")}
    return b"close" not in options and (not is_old or b"keep-alive" in options)


def _values(fields: list[Field], name: bytes) -> list[bytes]:
    return [value for field, value in fields if field == name]
