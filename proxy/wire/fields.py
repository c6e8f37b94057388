"""Field sections of HTTP/2 as heads and back (RFC 9113 section 8): what is refused, and what a head says.

A request is held to the very rules of `proxy.wire.head`, so that what passes here can be sent on over HTTP/1.1 and
means the same there. On top come the rules that HTTP/2 has for itself: pseudo-header fields, lower case, no field that
speaks of a connection.
"""

import re

from proxy.wire.events import HeadLimits, PeerError, RequestHead, ResponseHead
from proxy.wire.grammar import is_token
from proxy.wire.head import (
    check_hosts,
    check_target,
    declared_length,
    expects_continue,
    is_like_framing,
    received_length,
)
from proxy.wire.headers import Field, Headers, is_field_name, is_field_value

__all__ = ["check_trailers", "origin_in", "request_fields", "request_head", "response_fields", "response_head"]

_OF_CONNECTION = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"http2-settings")
)
"""Section 8.2.2."""

_REQUEST_PSEUDO = frozenset((b":method", b":scheme", b":authority", b":path"))
_RESPONSE_PSEUDO = frozenset((b":status",))
_STATUS = re.compile(rb"[1-5][0-9]{2}")
_BODILESS = (204, 205, 304)


def request_head(fields: list[Field], limits: HeadLimits, *, ended: bool) -> RequestHead:
    """A request's head (section 8.3.1). Raises PeerError with the status to answer.

    `ended`: no body follows. `:authority` becomes the Host field, and crumbs of a cookie are joined (section 8.2.3).
    """
    pseudo, regular = _divided(fields, _REQUEST_PSEUDO, limits)
    method = pseudo.get(b":method", b"")
    if not is_token(method):
        raise PeerError("a missing or bad method")
    if method == b"CONNECT":
        raise PeerError("CONNECT is not spoken here", 501)
    if pseudo.get(b":scheme") not in (b"http", b"https"):
        raise PeerError("a missing or unknown scheme")
    target = pseudo.get(b":path", b"")
    check_target(method, target, limits)
    headers, values = _regular_of_request(regular)
    hosts = values.get(b"host", [])
    authority = pseudo.get(b":authority")
    if authority is not None:
        if hosts not in ([], [authority]):
            raise PeerError("the authority and the host differ")
        hosts = [authority]
    check_hosts(hosts)
    declared = declared_length(values.get(b"content-length", []))
    if ended and declared:
        raise PeerError("the body is not as long as its content-length")
    length = 0 if ended else declared
    expects = expects_continue(values.get(b"expect", []))
    return RequestHead(
        method,
        target,
        Headers.trusted([(b"host", hosts[0]), *headers]),
        length,
        keep_alive=True,
        expect_continue=expects and length != 0,
    )


def _regular_of_request(regular: list[Field]) -> tuple[list[Field], dict[bytes, list[bytes]]]:
    """The fields without Host and with one cookie, and the values of all by name. Raises PeerError."""
    headers: list[Field] = []
    values: dict[bytes, list[bytes]] = {}
    cookie_at = 0
    for name, value in regular:
        if is_like_framing(name):
            raise PeerError("a header that others may read as framing")
        if not is_field_value(value):
            raise PeerError("a bad header value")
        if name == b"cookie" and name in values:
            headers[cookie_at] = name, b"%b; %b" % (headers[cookie_at][1], value)
            continue
        values.setdefault(name, []).append(value)
        if name != b"host":
            cookie_at = len(headers) if name == b"cookie" else cookie_at
            headers.append((name, value))
    if any(value != b"trailers" for value in values.get(b"te", [])):
        raise PeerError("a header that speaks of the connection")
    return headers, values


def origin_in(fields: list[Field]) -> bytes | None:
    """The Origin in a request's fields that were refused; None unless it is there once and may be sent back."""
    values = [value for name, value in fields if name == b"origin"]
    return values[0] if len(values) == 1 and re.fullmatch(rb"[!-~]+", values[0]) else None


def response_head(fields: list[Field], limits: HeadLimits, method: bytes, *, ended: bool) -> ResponseHead:
    """A response's head (section 8.3.2), final or informational, to a request of `method`. Raises PeerError.

    Read as leniently as over HTTP/1.1: fields whose value may not be passed on are left out. A length of 0 means that
    no byte of a body may follow, None that it is not known.
    """
    pseudo, regular = _divided(fields, _RESPONSE_PSEUDO, limits)
    text = pseudo.get(b":status", b"")
    status = int(text) if _STATUS.fullmatch(text) else 0
    if status in (0, 101) or (status < 200 and ended):
        raise PeerError("a status that was not asked for or does not exist")
    headers = []
    lengths = set()
    for name, received in regular:
        value = received.strip(b" \t")
        if name == b"content-length":
            lengths.add(value)
        if is_field_value(value):
            headers.append((name, value))
    if len(lengths) > 1:
        raise PeerError("differing content-lengths")
    length = received_length(lengths.pop()) if lengths else None
    if method == b"HEAD" or status in _BODILESS:
        length = 0
    elif ended and length:
        raise PeerError("the body is not as long as its content-length")
    return ResponseHead(status, Headers.trusted(headers), 0 if ended else length)


def check_trailers(fields: list[Field], limits: HeadLimits) -> None:
    """Raise PeerError for fields that may not follow a body (section 8.1); those that may are dropped."""
    _divided(fields, frozenset(), limits)


def _divided(
    fields: list[Field], known: frozenset[bytes], limits: HeadLimits
) -> tuple[dict[bytes, bytes], list[Field]]:
    """The pseudo-header fields and the others, which come after them (section 8.3). Raises PeerError."""
    if sum([len(name) + len(value) + 4 for name, value in fields]) > limits.head_bytes:
        raise PeerError("the head is too large", 431)
    pseudo: dict[bytes, bytes] = {}
    begin = 0
    for name, value in fields:
        if not name.startswith(b":"):
            break
        if name not in known or name in pseudo:
            raise PeerError("an unknown or repeated pseudo-header field")
        pseudo[name] = value
        begin += 1
    regular = fields[begin:]
    if len(regular) > limits.fields:
        raise PeerError("too many header fields", 431)
    for name, _ in regular:
        if not is_field_name(name):
            raise PeerError("a bad header name")
        if name in _OF_CONNECTION:
            raise PeerError("a header that speaks of the connection")
    return pseudo, regular


def request_fields(method: bytes, scheme: bytes, target: bytes, headers: Headers, length: int | None) -> list[Field]:
    """The fields of a request to send. `headers` hold Host and no framing field; `length` is the body's, if known.

    Fields that speak of a connection are left out.
    """
    fields = [(b":method", method), (b":scheme", scheme), (b":authority", b""), (b":path", target)]
    for name, value in headers:
        if name == b"host":
            fields[2] = (b":authority", value)
        elif name not in _OF_CONNECTION and (name != b"te" or value == b"trailers"):
            fields.append((name, value))
    if length:
        fields.append((b"content-length", b"%d" % length))
    return fields


def response_fields(status: int, headers: Headers, length: int | None, date: bytes = b"") -> list[Field]:
    """The fields of a response to send. `headers` hold no framing field, but for HEAD what GET would have.

    `length` is the body's bytes, None when unknown or not to be said. `date` is the Date for headers without one.
    """
    fields = [(b":status", b"%d" % status)]
    fields += [field for field in headers if field[0] not in _OF_CONNECTION]
    if length is not None and b"content-length" not in headers:
        fields.append((b"content-length", b"%d" % length))
    if date and b"date" not in headers:
        fields.append((b"date", date))
    return fields
