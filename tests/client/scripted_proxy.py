"""A proxy that speaks the protocol and does what a test says: streams are written by the test, answers cut at any byte.

A real socket server in its own thread. `reads`, `creates` and `aborts` are what it was asked; `cuts` ends a read's
answer after a number of bytes, head included; `slices` sends answers in pieces of that size.
"""

import asyncio
import base64
import json
import secrets
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, urlsplit

import httpx

from tests.kit.loops import LoopThread

__all__ = ["Asked", "Framing", "ScriptedProxy", "Stream", "error_answer"]

Fields = dict[str, str]


class Framing(Enum):
    """How the end of a plain answer's body is marked."""

    LENGTH = "Content-Length"
    CHUNKED = "chunked"
    CLOSE = "the end of the connection"


@dataclass
class Asked:
    """A request as it came; header names in lower case, repeated ones joined."""

    method: str
    path: str
    query: dict[str, str]
    headers: Fields
    body: bytes


def error_answer(status: int, code: str, *, message: str = "no", headers: Fields | None = None) -> bytes:
    """A whole answer with the proxy's error body."""
    body = json.dumps({"error": {"code": code, "message": message}}).encode()
    fields = {"Content-Type": "application/json", "Content-Length": str(len(body))} | (headers or {})
    return _head(status, fields) + body


def _head(status: int, fields: Fields) -> bytes:
    lines = [f"HTTP/1.1 {status} x", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode("latin-1")


@dataclass
class Stream:
    """Appends, and how they ended. Written through the proxy's methods, from the test's thread."""

    id: str
    salt: str
    content_type: str = "text/plain"
    appends: list[bytes] = field(default_factory=list)
    outcome: str | None = None
    closed: bool = False
    expired: bool = False  # its signed URL no longer opens it
    told: Fields = field(default_factory=dict)  # of the upstream's head
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    @property
    def data(self) -> bytes:
        """Everything appended."""
        return b"".join(self.appends)

    def token(self, index: int) -> str:
        """The offset before append `index`; nothing can be computed from it."""
        return f"{self.salt}_{index:x}"

    def index(self, offset: str) -> int | None:
        """Which append an offset stands before."""
        if offset == "-1":
            return 0
        salt, _, index = offset.rpartition("_")
        return int(index, 16) if salt == self.salt else None


class ScriptedProxy:
    """`with ScriptedProxy() as proxy:` and a client of `proxy.url` with `proxy.secret` gets what the test scripted."""

    def __init__(self) -> None:
        self.secret = "the-service-secret"
        self.streams: dict[str, Stream] = {}
        self.creates: list[Asked] = []
        self.reads: list[Asked] = []
        self.aborts: list[str] = []
        self.aborted = threading.Event()
        self.asked = threading.Event()  # a create has come
        self.reading = threading.Event()  # a read has come
        self._left = threading.Condition()
        self.answers: list[bytes | Callable[[Asked], bytes]] = []  # for the next requests of any kind, in place of ours
        self.next_streams: list[Stream] = []  # what creates bring forth; empty when none is queued
        self.keys: dict[str, str] = {}
        self.cuts: list[int | None] = []  # for the next reads: after how many bytes
        self.sent: list[int] = []  # bytes of each read's answer
        self.create_cuts: list[int | None] = []  # the same for creates
        self.reset = False  # cut by RST instead of FIN
        self.hang = False  # do not cut at all: say nothing more
        self.slices: int | None = None
        self.framing = Framing.LENGTH
        self.page = 1 << 30  # bytes of a plain answer at most, but one append at least
        self.events = 1 << 30  # control events of a live answer at most
        self.tell_outcome = True
        self.base64 = True
        self.live_refused = False
        self.long_poll_seconds = 0.05
        self.silent_end = False  # leave the connection open after the closing event
        self.keep_alive_seconds: float | None = None  # comments on an idle live read
        self._on_read: tuple[int, Callable[[], None]] | None = None
        self.forwards = False  # creates are sent on to the upstream that they name
        self.lose_creates = 0  # creates that are carried out, but whose answers are lost
        self._loop = LoopThread("scripted proxy")
        self._server = self._loop.run(self._listen())

    async def _listen(self) -> asyncio.Server:
        self._writers: set[asyncio.StreamWriter] = set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._upstream = httpx.AsyncHTTPTransport(
            verify=False
        )  # the upstreams are plain; certificates take long to load
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port: int = server.sockets[0].getsockname()[1]
        return server

    @property
    def base(self) -> str:
        """Its origin."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Its create URL."""
        return f"{self.base}/v1/proxy"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.run(self._end())
        self._loop.stop()

    async def _end(self) -> None:
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)
        await self._upstream.aclose()
        for _ in range(5):
            await asyncio.sleep(0)  # until a connection that was just accepted has its writer
        for writer in list(self._writers):
            writer.transport.abort()

    # What a test does

    def stream(self, *appends: bytes, outcome: str | None = "complete", content_type: str = "text/plain") -> Stream:
        """Queue what the next create brings forth: these appends; left open when `outcome` is None."""
        stream = Stream(_uuid(), secrets.token_hex(4), content_type, list(appends), outcome, outcome is not None)
        self.next_streams.append(stream)
        return stream

    def append(self, stream: Stream, *appends: bytes) -> None:
        """Append to a stream that is open, and wake its readers."""
        self._loop.run(self._change(stream, appends, None))

    def close(self, stream: Stream, outcome: str = "complete", *appends: bytes) -> None:
        """Close a stream, with last appends at once, and wake its readers."""
        self._loop.run(self._change(stream, appends, outcome))

    async def _change(self, stream: Stream, appends: Iterable[bytes], outcome: str | None) -> None:
        async with stream.changed:
            stream.appends += appends
            if outcome is not None:
                stream.closed, stream.outcome = True, outcome
            stream.changed.notify_all()

    def stream_url(self, stream: Stream) -> str:
        """Its signed URL."""
        return f"{self.url}/{stream.id}?expires=4102444800&signature=SIGNATURE-{stream.salt}"

    def wait_no_connections(self, timeout: float = 5) -> None:
        """Wait until no connection is open."""
        with self._left:
            assert self._left.wait_for(lambda: not self._writers, timeout)

    def refuse(self) -> None:
        """Accept no connection from now on, and drop those that are open."""
        self._loop.post(self._server.close)
        self.drop_connections()

    def on_read(self, count: int, act: Callable[[], None]) -> None:
        """Let a thread do something as soon as there were `count` reads."""
        self._on_read = (count, act)

    def drop_connections(self) -> None:
        """Reset every open connection."""

        async def work() -> None:
            for writer in list(self._writers):
                _reset(writer)

        self._loop.run(work())

    # How it answers

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.transport.set_write_buffer_limits(0)
        self._writers.add(writer)
        try:
            while (asked := await _request(reader)) is not None:
                if not await self._answer(asked, writer):
                    break
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError, _CutError):
            pass
        finally:
            with self._left:
                self._writers.discard(writer)
                self._left.notify_all()
            if self.reset:
                _reset(writer)
            else:
                writer.close()

    async def _answer(self, asked: Asked, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        cut = None
        if asked.method == "GET":
            self.reads.append(asked)
            self.reading.set()
            if self._on_read is not None and len(self.reads) >= self._on_read[0]:
                threading.Thread(target=self._on_read[1]).start()
                self._on_read = None
            cut = self.cuts.pop(0) if self.cuts else None
        elif asked.method == "POST":
            self.creates.append(asked)
            cut = self.create_cuts.pop(0) if self.create_cuts else None
            self.asked.set()
        out = _Out(writer, cut, self.slices, hang=self.hang)
        try:
            return await self._fill(asked, out)
        finally:
            if asked.method == "GET":
                with self._left:
                    self.sent.append(out.sent)
                    self._left.notify_all()

    def first_sent(self) -> int:
        """Bytes of the first read's answer, which its reader may have before this side knows that they are sent."""
        with self._left:
            assert self._left.wait_for(lambda: self.sent, timeout=10)
        return self.sent[0]

    async def _fill(self, asked: Asked, out: "_Out") -> bool:
        if self.answers:
            answer = self.answers.pop(0)
            await out.send(answer(asked) if callable(answer) else answer)
            return True
        if asked.method == "POST" and asked.path == "/v1/proxy":
            return await self._create(asked, out)
        stream = self.streams.get(asked.path.rpartition("/")[2])
        if stream is None:
            await out.send(error_answer(404, "STREAM_NOT_FOUND"))
            return True
        if (refusal := self._refusal(asked, stream)) is not None:
            await out.send(refusal)
            return True
        if asked.method == "PATCH":
            self.aborts.append(stream.id)
            self.aborted.set()
            if not stream.closed:
                await self._change(stream, (), "aborted")
            await out.send(_head(204, {}))
            return True
        return await self._read(asked, stream, out)

    def _refusal(self, asked: Asked, stream: Stream) -> bytes | None:
        if "signature" in asked.query or asked.method == "PATCH":
            if asked.query.get("signature") != f"SIGNATURE-{stream.salt}":
                return error_answer(401, "SIGNATURE_INVALID")
            return error_answer(401, "SIGNATURE_EXPIRED") if stream.expired else None
        if asked.headers.get("authorization") != f"Bearer {self.secret}":
            return error_answer(401, "INVALID_SECRET")
        return None

    async def _create(self, asked: Asked, out: "_Out") -> bool:
        if asked.headers.get("authorization") != f"Bearer {self.secret}":
            await out.send(error_answer(401, "INVALID_SECRET"))
            return True
        key = asked.headers.get("idempotency-key", "")
        replayed = key in self.keys
        if replayed:
            stream = self.streams[self.keys[key]]
            stream.expired = False  # the answer has a fresh URL
        else:
            stream = self.next_streams.pop(0) if self.next_streams else Stream(_uuid(), "empty", closed=True)
            self.streams[stream.id] = stream
            if key:
                self.keys[key] = stream.id
        refusal = await self._forward(asked, stream, key) if self.forwards and not replayed else None
        if refusal is not None:
            await out.send(refusal)
            return True
        if self.lose_creates:
            self.lose_creates -= 1
            raise _CutError
        location = self.stream_url(stream).removeprefix(self.base)
        fields = {"Location": location, "Upstream-Content-Type": stream.content_type, "Upstream-Status": "200"}
        fields |= {"Content-Length": "0", "Cache-Control": "no-store"} | (stream.told or {"X-Request-Id": "req-1"})
        fields |= {"Idempotent-Replay": "true"} if replayed else {}
        await out.send(_head(200 if replayed else 201, fields))
        return True

    async def _forward(self, asked: Asked, stream: Stream, key: str) -> bytes | None:
        """Ask the upstream; None when the stream is being filled, else the answer that tells of its error."""
        own = {"authorization", "host", "upstream-url", "upstream-method", "upstream-authorization", "content-length"}
        fields = [(name, value) for name, value in asked.headers.items() if name not in own]
        fields += [("authorization", asked.headers["upstream-authorization"])]
        request = httpx.Request(
            asked.headers["upstream-method"], asked.headers["upstream-url"], headers=fields, content=asked.body
        )
        request.extensions["timeout"] = httpx.Timeout(30).as_dict()
        try:
            answer = await self._upstream.handle_async_request(request)
        except httpx.TransportError:
            self.keys.pop(key, None)
            return error_answer(502, "UPSTREAM_ERROR")
        told = {"Upstream-Status": str(answer.status_code), "Upstream-Content-Type": answer.headers["content-type"]}
        passed = ("retry-after", "retry-after-ms", "x-should-retry", "request-id", "x-request-id")
        told |= {name: answer.headers[name] for name in passed if name in answer.headers}
        if answer.status_code >= 300:
            self.keys.pop(key, None)
            body = await answer.aread()
            return _head(502, told | {"Content-Length": str(len(body))}) + body
        stream.content_type, stream.closed, stream.told = told["Upstream-Content-Type"], False, told
        self._pumps.add(asyncio.get_running_loop().create_task(self._pump(answer, stream)))
        return None

    async def _pump(self, answer: httpx.Response, stream: Stream) -> None:
        outcome = "complete"
        try:
            async for piece in answer.aiter_raw():
                if stream.closed:
                    break
                await self._change(stream, [piece], None)
        except httpx.TransportError:
            outcome = "upstream_error"
        finally:
            await answer.aclose()
        if not stream.closed:
            await self._change(stream, (), outcome)

    async def _read(self, asked: Asked, stream: Stream, out: "_Out") -> bool:
        index = stream.index(asked.query.get("offset", "-1"))
        if index is None:
            await out.send(error_answer(400, "INVALID_REQUEST"))
            return True
        live = asked.query.get("live")
        if live == "sse":
            if self.live_refused:
                await out.send(error_answer(400, "INVALID_REQUEST"))
                return True
            return await self._live(stream, index, out)
        if live == "long-poll" and index == len(stream.appends) and not stream.closed:
            await self._wait(stream, index, self.long_poll_seconds)
        end = min(index + 1, len(stream.appends))
        while end < len(stream.appends) and len(b"".join(stream.appends[index : end + 1])) <= self.page:
            end += 1
        tail = end == len(stream.appends)
        fields = {"Stream-Next-Offset": stream.token(end), "Upstream-Content-Type": stream.content_type}
        fields |= {"Stream-Up-To-Date": "true"} if tail else {}
        if tail and stream.closed:
            fields["Stream-Closed"] = "true"
            if self.tell_outcome and stream.outcome is not None:
                fields["Upstream-Outcome"] = stream.outcome
        if live == "long-poll" and end == index:
            await out.send(_head(204, fields | {"Stream-Cursor": "c1"}))
            return True
        return await self._plain(fields, b"".join(stream.appends[index:end]), out)

    async def _plain(self, fields: Fields, body: bytes, out: "_Out") -> bool:
        fields |= {"Content-Type": "application/octet-stream"}
        if self.framing is Framing.LENGTH:
            await out.send(_head(200, fields | {"Content-Length": str(len(body))}) + body)
        elif self.framing is Framing.CHUNKED:
            half = len(body) // 2
            chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:half], body[half:]) if part)
            await out.send(_head(200, fields | {"Transfer-Encoding": "chunked"}) + chunks + b"0\r\n\r\n")
        else:
            await out.send(_head(200, fields | {"Connection": "close"}) + body)
            return False
        return True

    async def _live(self, stream: Stream, index: int, out: "_Out") -> bool:
        fields = {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"}
        await out.send(_head(200, fields | ({"Stream-SSE-Data-Encoding": "base64"} if self.base64 else {})))
        controls = 0
        while True:
            end = len(stream.appends)
            events = b"".join(_event("data", _lines(append)) for append in stream.appends[index:end])
            control: dict[str, object] = {"streamNextOffset": stream.token(end)}
            if stream.closed:
                control["streamClosed"] = True
                if self.tell_outcome:
                    control["upstreamOutcome"] = stream.outcome
            else:
                control |= {"streamCursor": f"c{end}", "upToDate": True}
            index = end
            await out.chunk(events + _event("control", [json.dumps(control).encode()]))
            controls += 1
            if stream.closed or controls >= self.events:
                break
            while not await self._wait(stream, index, self.keep_alive_seconds or 30):
                await out.chunk(b": still here\n\n")
        if self.silent_end:
            await asyncio.sleep(3600)
        await out.send(b"0\r\n\r\n")
        return True

    @staticmethod
    async def _wait(stream: Stream, index: int, seconds: float) -> bool:
        """Whether something came in time."""
        async with stream.changed:
            try:
                async with asyncio.timeout(seconds):
                    await stream.changed.wait_for(lambda: stream.closed or len(stream.appends) > index)
            except TimeoutError:
                return False
        return True


class _CutError(Exception):
    """The script says that the connection ends here."""


class _Out:
    """Sends, sliced, up to where the answer is cut."""

    def __init__(self, writer: asyncio.StreamWriter, cut: int | None, slices: int | None, *, hang: bool) -> None:
        self._hang = hang
        self._writer = writer
        self._left = cut
        self._slices = slices
        self.sent = 0

    async def send(self, data: bytes) -> None:
        whole = data if self._left is None else data[: self._left]
        step = self._slices or len(whole) or 1
        for at in range(0, len(whole), step):
            self._writer.write(whole[at : at + step])
            await self._writer.drain()
            self.sent += len(whole[at : at + step])
            if self._slices:
                await asyncio.sleep(0)
        if self._left is not None:
            self._left -= len(whole)
            if len(whole) < len(data):
                await asyncio.sleep(3600 if self._hang else 0)
                raise _CutError

    async def chunk(self, data: bytes) -> None:
        await self.send(b"%x\r\n%b\r\n" % (len(data), data))


def _lines(data: bytes) -> list[bytes]:
    """Base64, in two lines when it is long enough, as the protocol allows."""
    text = base64.b64encode(data)
    return [text[:8], text[8:]] if len(text) > 16 else [text]


def _event(name: str, lines: list[bytes]) -> bytes:
    return b"event: %b\n%b\n" % (name.encode(), b"".join(b"data: %b\n" % line for line in lines))


def _uuid() -> str:
    text = secrets.token_hex(16)
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if not writer.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _request(reader: asyncio.StreamReader) -> Asked | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    headers: Fields = {}
    for line in lines:
        name, _, value = line.partition(":")
        key = name.lower()
        headers[key] = f"{headers[key]}, {value.strip()}" if key in headers else value.strip()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    parts = urlsplit(target)
    return Asked(method, parts.path, dict(parse_qsl(parts.query)), headers, body)
