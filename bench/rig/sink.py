"""Storage that stores nearly nothing: only what a proxy needs of the durable-streams protocol, as fast as possible.

A proxy's data streams (named by a UUID) are checked against what the upstream sent and thrown away: only length,
closure and producer state stay. Every other stream (records, leases) is kept whole, so that it can be read back.
"""

import asyncio
import json
import re
import time
from collections.abc import Callable
from typing import cast

from bench.rig.content import Check, FlatCheck
from bench.rig.http import BrokenRun, field, number

__all__ = ["Sink", "Stored"]

_BUFFER = memoryview(bytearray(1_048_576))
_DATA_STREAM = re.compile(rb"/([0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})")
_LONG_POLL_SECONDS = 30.0


class Stored:
    """What is kept of a stream."""

    __slots__ = ("appends", "check", "closed", "content_type", "epoch", "kept", "length", "parked", "seq")

    def __init__(self, content_type: bytes, check: Check | None) -> None:
        self.content_type = content_type
        self.check = check
        self.kept: list[bytes] | None = None if check else []
        self.length = 0
        self.appends = 0
        self.closed = False
        self.epoch = -1
        self.seq = -1
        self.parked: list[Callable[[], None]] = []

    @property
    def offset(self) -> bytes:
        """The token of its end."""
        return b"%016d_%016d" % (0, self.length)

    def wake(self) -> None:
        """Wake every waiting reader."""
        parked, self.parked = self.parked, []
        for reader in parked:
            reader()


class Sink:
    """`start`, then `url`. `delay` seconds pass between taking an append and answering it."""

    def __init__(self, check: Callable[[], Check] = FlatCheck, delay: float = 0.0) -> None:
        self.streams: dict[bytes, Stored] = {}
        self.appends = 0
        self.delay = delay
        self.new_check = check
        self._ends: dict[bytes, asyncio.Future[None]] = {}
        self._server: asyncio.Server | None = None
        self._links: set[_Link] = set()

    @property
    def url(self) -> str:
        """Its origin, without a path."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def start(self) -> None:
        """Listens on a free port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Link(self), "127.0.0.1", 0, backlog=4096)

    async def stop(self) -> None:
        """Closes every connection."""
        if self._server is not None:
            self._server.close()
        for link in tuple(self._links):
            link.transport.abort()

    async def closed(self, stream_id: bytes) -> Stored:
        """Waits until the closing of this data stream has been acknowledged. It need not exist yet."""
        await self._end(stream_id)
        return self.streams[stream_id]

    def forget(self, stream_id: bytes) -> None:
        """Drops a finished data stream and its record, so that a long run does not grow."""
        self.streams.pop(stream_id, None)
        self.streams.pop(stream_id + b".record", None)
        self._ends.pop(stream_id, None)

    def name(self, path: bytes) -> bytes:
        """A stream's key: a data stream's own id, a record's too with its ending, else the path."""
        match = _DATA_STREAM.search(path)
        return path[match.start(1) :] if match else path

    def ended(self, name: bytes) -> None:
        """The stream has been closed, and its closing has been acknowledged."""
        _resolve(self._end(name))

    def _end(self, name: bytes) -> "asyncio.Future[None]":
        end = self._ends.get(name)
        if end is None:
            end = self._ends[name] = asyncio.get_running_loop().create_future()
        return end


class _Link(asyncio.BufferedProtocol):
    """One connection from the proxy."""

    transport: asyncio.Transport

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self._partial = b""  # part of a head, or of a small body
        self._left = 0  # bytes of an append's body that are still to come
        self._head = b""
        self._stored: Stored | None = None
        self._now = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.sink._links.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.sink._links.discard(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        self._now = time.monotonic_ns()
        data = _BUFFER[:nbytes]
        if self._left:
            data = self._take(data)
        while len(data):
            before = len(self._partial)
            self._partial += bytes(data[:65_536])
            end = self._partial.find(b"\r\n\r\n") + 4
            if end < 4:
                data = data[65_536:]
                continue
            self._head, self._partial = self._partial[: end - 2], b""
            data = self._begin(data[end - before :])

    def _begin(self, data: memoryview) -> memoryview:
        """A whole head is here; `data` follows it. Returns what is left after the request, if it is whole."""
        method, target, _ = self._head.split(b" ", 2)
        if method in {b"GET", b"HEAD"}:
            self._read(method, target)
            return data
        if field(self._head, b"transfer-encoding") is not None:
            raise BrokenRun("the null storage takes bodies with a Content-Length only")
        self._left = number(self._head, b"content-length") or 0
        path = target.partition(b"?")[0]
        if method == b"PUT":
            self._create(path)
        elif method == b"POST":
            self._stored = self.sink.streams.get(self.sink.name(path))
        elif method == b"DELETE":
            self._stored = None
            self.sink.streams.pop(self.sink.name(path), None)
        if not self._left:
            self._answer()
            return data
        return self._take(data)

    def _take(self, data: memoryview) -> memoryview:
        """Body bytes, checked without a copy."""
        piece = data[: self._left]
        stored = self._stored
        if stored is not None and not stored.closed:
            if stored.check is not None:
                # A retried append would be checked twice and fail the run: the rig breaks nothing, so nothing retries.
                stored.check.feed(piece, self._now)
            elif stored.kept is not None:
                stored.kept.append(bytes(piece))
            stored.length += len(piece)
        self._left -= len(piece)
        if not self._left:
            self._answer()
        return data[len(piece) :]

    def _create(self, path: bytes) -> None:
        name = self.sink.name(path)
        if name in self.sink.streams:
            raise BrokenRun("a stream was created twice")
        content_type = field(self._head, b"content-type") or b"application/octet-stream"
        data_stream = len(name) == 36 and name != path
        self._stored = Stored(content_type, self.sink.new_check() if data_stream else None)
        self.sink.streams[name] = self._stored

    def _answer(self) -> None:
        stored, head = self._stored, self._head
        if head.startswith(b"DELETE "):
            self.transport.write(b"HTTP/1.1 204 No Content\r\n\r\n")
            return
        if stored is None:
            self.transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        closes = field(head, b"stream-closed") == b"true" and not stored.closed
        stored.closed = stored.closed or closes
        ended = self.sink.name(head.split(b" ", 2)[1].partition(b"?")[0]) if closes else None
        if head.startswith(b"PUT "):
            answer = (
                b"HTTP/1.1 201 Created\r\nContent-Type: %b\r\nStream-Next-Offset: %b\r\nContent-Length: 0\r\n\r\n"
                % (stored.content_type, stored.offset)
            )
            self._acknowledge(stored, answer, ended)
            return
        self.sink.appends += 1
        stored.appends += 1
        answer = self._appended(stored)
        if self.sink.delay:
            asyncio.get_running_loop().call_later(self.sink.delay, self._acknowledge, stored, answer, ended)
        else:
            self._acknowledge(stored, answer, ended)

    def _acknowledge(self, stored: Stored, answer: bytes, ended: bytes | None) -> None:
        if self.transport.is_closing():
            return
        self.transport.write(answer)
        stored.wake()
        if ended is not None:
            self.sink.ended(ended)

    def _appended(self, stored: Stored) -> bytes:
        epoch, seq = field(self._head, b"producer-epoch"), field(self._head, b"producer-seq")
        closed = b"Stream-Closed: true\r\n" if stored.closed else b""
        if epoch is None or seq is None:
            return b"HTTP/1.1 204 No Content\r\nStream-Next-Offset: %b\r\n%b\r\n" % (stored.offset, closed)
        if int(epoch) > stored.epoch:
            stored.epoch, stored.seq = int(epoch), -1
        if int(seq) != stored.seq + 1:
            raise BrokenRun(f"append {seq.decode()} came after {stored.seq}")
        stored.seq += 1
        return (
            b"HTTP/1.1 200 OK\r\nStream-Next-Offset: %b\r\nProducer-Epoch: %b\r\nProducer-Seq: %b\r\n%b"
            b"Content-Length: 0\r\n\r\n" % (stored.offset, epoch, seq, closed)
        )

    def _read(self, method: bytes, target: bytes) -> None:
        path, _, query = target.partition(b"?")
        stored = self.sink.streams.get(self.sink.name(path))
        if stored is None:
            self.transport.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        elif b"live=sse" in query and method == b"GET":
            self._sse(stored, query)
        elif b"live=long-poll" in query and self._from(stored, query) >= stored.length and not stored.closed:
            self._park(method, stored, query)
        else:
            self._catch_up(method, stored, query)

    def _park(self, method: bytes, stored: Stored, query: bytes) -> None:
        """A long poll: answered when the stream changes, or empty after a while."""
        loop = asyncio.get_running_loop()
        waiting: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(_LONG_POLL_SECONDS, _resolve, waiting)

        def answer(_: object) -> None:
            timer.cancel()
            if not self.transport.is_closing():  # the reader may have been stopped meanwhile
                self._catch_up(method, stored, query)

        waiting.add_done_callback(answer)
        stored.parked.append(lambda: _resolve(waiting))

    def _from(self, stored: Stored, query: bytes) -> int:
        match = re.search(rb"offset=([^&]+)", query)
        if match is None or match[1] == b"-1":
            return 0
        return stored.length if match[1] == b"now" else int(match[1].rpartition(b"_")[2])

    def _catch_up(self, method: bytes, stored: Stored, query: bytes) -> None:
        if stored.kept is None and method == b"GET" and self._from(stored, query) < stored.length:
            raise BrokenRun("a data stream of the null storage was read: it keeps none")
        body = b"".join(stored.kept or ())[self._from(stored, query) :] if method == b"GET" else b""
        if stored.content_type.startswith(b"application/json") and method == b"GET":
            body = _json_array(body)
        nothing = not body and b"live=long-poll" in query
        self.transport.write(
            b"HTTP/1.1 %b\r\nContent-Type: %b\r\nStream-Next-Offset: %b\r\nStream-Up-To-Date: true\r\n"
            b"Stream-Cursor: 1\r\nCache-Control: no-store\r\n%b%b\r\n%b"
            % (
                b"204 No Content" if nothing else b"200 OK",
                stored.content_type,
                stored.offset,
                b"Stream-Closed: true\r\n" if stored.closed else b"",
                b"" if nothing or method == b"HEAD" else b"Content-Length: %d\r\n" % len(body),
                body,
            )
        )

    def _sse(self, stored: Stored, query: bytes) -> None:
        """Control events only: a reader of the null storage waits for the end, not for bytes."""
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nStream-SSE-Data-Encoding: base64\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        self._control(stored)

    def _control(self, stored: Stored) -> None:
        control = {"streamNextOffset": stored.offset.decode(), "streamCursor": "1", "upToDate": True}
        if stored.closed:
            control["streamClosed"] = True
        event = b"event: control\ndata:" + json.dumps(control).encode() + b"\n\n"
        self.transport.write(b"%x\r\n%b\r\n" % (len(event), event))
        if stored.closed:
            self.transport.write(b"0\r\n\r\n")
        else:
            stored.parked.append(lambda: self._control(stored))


def _resolve(future: "asyncio.Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _json_array(text: bytes) -> bytes:
    """The messages of a JSON stream (one after another, arrays counting as several) as one array."""
    decoder, at, messages = json.JSONDecoder(), 0, []
    decoded = text.decode()
    while at < len(decoded):
        message, at = decoder.raw_decode(decoded, at)
        messages += message if isinstance(message, list) else [message]
    return json.dumps(messages).encode()
