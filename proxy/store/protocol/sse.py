"""Server-sent events of the protocol: `data`, then `control` (protocol section on SSE).

Owns their encoding. A payload cannot end its event, because each of its lines (ended by LF, CR or CRLF) gets a `data:`
of its own.
"""

import base64
import re
from enum import Enum

__all__ = [
    "KEEP_ALIVE",
    "LONGEST_CHARACTER",
    "Encoding",
    "control_event",
    "data_event",
    "encoding_of",
    "whole_characters",
]


KEEP_ALIVE = b":\n\n"

_LINE_END = re.compile(rb"\r\n|\r|\n")
LONGEST_CHARACTER = 4  # bytes of UTF-8


class Encoding(Enum):
    """How a stream's bytes are written in a data event."""

    TEXT = "text"
    JSON = "json"
    BASE64 = "base64"


def encoding_of(media: str) -> Encoding:
    """The encoding for a media type (lower case, no parameters)."""
    if media == "application/json":
        return Encoding.JSON
    return Encoding.TEXT if media.startswith("text/") else Encoding.BASE64


def data_event(payload: bytes, encoding: Encoding) -> bytes:
    """One data event. Text that is not UTF-8 gets replacement characters: the event stream must be UTF-8."""
    if encoding is Encoding.BASE64:
        return b"event: data\ndata:" + base64.b64encode(payload) + b"\n\n"
    if encoding is Encoding.JSON:
        payload = b"[" + payload[:-1] + b"]"
    else:
        payload = payload.decode("utf-8", "replace").encode("utf-8")
    if b"\n" in payload or b"\r" in payload:
        payload = _LINE_END.sub(b"\ndata:", payload)
    return b"event: data\ndata:" + payload + b"\n\n"


def control_event(offset: str, cursor: str, *, up_to_date: bool, closed: bool) -> bytes:
    """The event after each data event: the offset to go on from. A stream's last one has no cursor."""
    fields = [f'"streamNextOffset":"{offset}"']
    if not closed:
        fields.append(f'"streamCursor":"{cursor}"')
    if up_to_date:
        fields.append('"upToDate":true')
    if closed:
        fields.append('"streamClosed":true')
    return f"event: control\ndata:{{{','.join(fields)}}}\n\n".encode()


def whole_characters(payload: bytes) -> int:
    """How many bytes to send now so that no UTF-8 character is cut. All of them when `payload` does not end in a
    character that more bytes could complete.
    """
    for back in range(1, min(LONGEST_CHARACTER, len(payload) + 1)):
        byte = payload[-back]
        if byte >= 0xC0:  # the first byte of a character says how long the character is
            length = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(payload) - back if length > back else len(payload)
        if byte < 0x80:
            break
    return len(payload)
