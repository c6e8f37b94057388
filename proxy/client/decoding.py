"""Looking into encoded bodies: gzip and deflate undone in bounded steps (RFC 9110 section 8.4.1). No I/O.

The client passes encoded bytes on as they are, and the HTTP library decodes them for the caller. Two things have to be
known before that: an upstream's error, whose body may be cut, and the end of an event stream.
"""

import re
import zlib
from collections.abc import Iterator

from proxy.client.options import DECODED_STEP_BYTES, ERROR_BODY_BYTES, TAIL_BYTES

__all__ = ["BodyEnd", "Decoder", "decoded"]

_GZIP = re.compile(r"\s*(?:x-)?gzip\s*", re.IGNORECASE)
_DEFLATE = re.compile(r"\s*deflate\s*", re.IGNORECASE)
_DONE = (b"data: [DONE]", b"data:[DONE]")


class Decoder:
    """Undoes one content coding. What is broken or cut ends the output without an error: a look needs no more.

    Raises ValueError for a coding other than gzip and deflate, and for several at once.
    """

    def __init__(self, coding: str) -> None:
        if not _GZIP.fullmatch(coding) and not _DEFLATE.fullmatch(coding):
            raise ValueError("not a coding that can be undone here")
        self._window = zlib.MAX_WBITS | 16 if _GZIP.fullmatch(coding) else zlib.MAX_WBITS
        self._inflate = zlib.decompressobj(self._window)
        self._is_first = True  # nothing has been decoded
        self._held = b""  # a first byte, kept because the first two together show whether deflate has its wrapper
        self._is_broken = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` brings, in pieces of at most DECODED_STEP_BYTES, so that a small body cannot fill the memory."""
        data, self._held = self._held + data, b""
        if self._is_first and len(data) == 1:
            self._held = data
            return
        while data and not self._is_broken:
            if self._inflate.eof:  # another gzip member follows
                self._inflate = zlib.decompressobj(self._window)
            try:
                piece = self._inflate.decompress(data, DECODED_STEP_BYTES)
            except zlib.error:
                if self._is_first and self._window == zlib.MAX_WBITS:  # some servers send deflate without its wrapper
                    self._window = -zlib.MAX_WBITS
                    self._inflate = zlib.decompressobj(self._window)
                    self._is_first = False
                    continue
                self._is_broken = True
                return
            self._is_first = False
            data = self._inflate.unused_data if self._inflate.eof else self._inflate.unconsumed_tail
            if piece:
                yield piece


def decoded(body: bytes, coding: str) -> bytes | None:
    """The first ERROR_BODY_BYTES of a decoded body; None when the coding cannot be undone here."""
    try:
        decoder = Decoder(coding)
    except ValueError:
        return None
    collected = bytearray()
    for piece in decoder.feed(body):
        collected += piece
        if len(collected) >= ERROR_BODY_BYTES:
            break
    return bytes(collected[:ERROR_BODY_BYTES])


class BodyEnd:
    """The last bytes of a body as its caller sees them, decoded when the body has a coding.

    A coding that cannot be undone here hides the end: then `says_done` stays False.
    """

    def __init__(self, coding: str | None) -> None:
        self._decoder: Decoder | None = None
        self._is_hidden = False
        self._bytes = b""
        if coding is not None:
            try:
                self._decoder = Decoder(coding)
            except ValueError:
                self._is_hidden = True

    def add(self, piece: bytes) -> None:
        """Note the next bytes of the body, as the upstream sent them."""
        if self._is_hidden:
            return
        for part in (piece,) if self._decoder is None else self._decoder.feed(piece):
            self._bytes = (self._bytes + part[-TAIL_BYTES:])[-TAIL_BYTES:]

    @property
    def says_done(self) -> bool:
        """Whether the last thing said is `data: [DONE]`."""
        return self._bytes.rstrip().endswith(_DONE)
