"""Storage of the simulation: the tests' own in memory, with what a fleet needs of time: expiry, offsets, live reads."""

import base64
from collections.abc import Callable
from dataclasses import dataclass

from proxy.http.body import EMPTY, BytesBody
from proxy.http.message import Request, Response
from proxy.wire.headers import Field, Headers
from tests.kit.memory_storage import MemoryStorage, Stored

__all__ = ["LONG_POLL_SECONDS", "Live", "ModelStorage"]

LONG_POLL_SECONDS = 20.0
_ROOT = "/v1/streams/"


@dataclass
class Live:
    """A live read that waits: who asked for what, from which offset."""

    path: str
    offset: int
    is_events: bool


@dataclass
class _Lifetime:
    until: float
    ttl: float


class ModelStorage(MemoryStorage):
    """One server. `answer` does what a request says, at once; time is given. `changed` hears of what has changed."""

    def __init__(self, clock: Callable[[], float], *, closed_first: bool) -> None:
        super().__init__(closed_first=closed_first)
        self._clock = clock
        self._lifetimes: dict[str, _Lifetime] = {}
        self._waiting: list[tuple[Live, Callable[[], None]]] = []
        self._deleted: set[str] = set()
        self.revived: set[str] = set()  # names that were deleted, and made again by a request that came late

    def answer(self, request: Request, body: bytes) -> Response | Live:
        """The response, or the live read that there is nothing for so far."""
        path, _, query = request.target.decode().partition("?")
        stream = self._alive(path)
        headers, method = request.headers, request.method
        if method == b"PUT":
            ttl = headers.get(b"stream-ttl")
            if stream is None and path in self._deleted:
                self.revived.add(path.removeprefix(_ROOT).removesuffix(".record"))
            if stream is None and ttl is not None:
                self._lifetimes[path] = _Lifetime(self._clock() + int(ttl), int(ttl))
            return self._create(path, headers, body)
        if stream is None:
            return Response(404, Headers())
        if method != b"HEAD" and path in self._lifetimes:
            self._lifetimes[path].until = self._clock() + self._lifetimes[path].ttl
        if method == b"POST":
            response = self._append(stream, headers, body)
            self._changed(path)
            return response
        if method == b"DELETE":
            del self.streams[path]
            self._deleted.add(path)
            self._changed(path)
            return Response(204, Headers())
        parameters = dict(pair.split("=", 1) for pair in query.split("&") if pair)
        return self._answer_read(path, stream, request, parameters)

    def now(self) -> float:
        """The time by which streams expire."""
        return self._clock()

    def _alive(self, path: str) -> Stored | None:
        lifetime = self._lifetimes.get(path)
        if lifetime is not None and lifetime.until <= self._clock():
            self.streams.pop(path, None)
            del self._lifetimes[path]
        return self.streams.get(path)

    def _answer_read(self, path: str, stream: Stored, request: Request, parameters: dict[str, str]) -> Response | Live:
        asked = parameters.get("offset", "-1")
        size = len(stream.data)
        offset = {"-1": 0, "now": size}.get(asked) if not asked.isdigit() else min(int(asked), size)
        if offset is None:
            return Response(400, Headers())
        live = parameters.get("live")
        if live == "sse":
            return Live(path, offset, is_events=True)
        if live == "long-poll" and offset == size and not stream.is_closed:
            return Live(path, offset, is_events=False)
        if live == "long-poll" and offset == size:
            return self.nothing_new(path)
        body = b"" if request.method == b"HEAD" else _content(stream, offset)
        return Response(200, Headers(_fields(stream)), BytesBody([body]) if body else EMPTY)

    def poll_answer(self, live: Live) -> Response | None:
        """What a long-poll that waits is answered now, None when it goes on waiting."""
        stream = self._alive(live.path)
        if stream is None:
            return Response(404, Headers())
        if len(stream.data) == live.offset:
            return self.nothing_new(live.path) if stream.is_closed else None
        return Response(200, Headers(_fields(stream)), BytesBody([_content(stream, live.offset)]))

    def nothing_new(self, path: str) -> Response:
        """The answer to a long-poll whose time is over."""
        stream = self._alive(path)
        return Response(404, Headers()) if stream is None else Response(204, Headers(_fields(stream)))

    def events(self, live: Live) -> tuple[bytes, bool]:
        """The events since `live.offset`, which moves on, and whether they are the last ones."""
        stream = self._alive(live.path)
        if stream is None:
            return b"", True
        content, end = stream.data[live.offset :], len(stream.data)
        live.offset = end
        data = b"event: data\ndata:" + base64.b64encode(content) + b"\n\n" if content else b""
        closed = b',"streamClosed":true' if stream.is_closed else b""
        return data + b'event: control\ndata:{"streamNextOffset":"%d"%b}\n\n' % (end, closed), stream.is_closed

    def on_change(self, live: Live, hear: Callable[[], None]) -> Callable[[], None]:
        """Call `hear` whenever the stream of `live` changes, until the returned function is called."""
        entry = (live, hear)
        self._waiting.append(entry)
        return lambda: self._waiting.remove(entry) if entry in self._waiting else None

    def _changed(self, path: str) -> None:
        for live, hear in list(self._waiting):
            if live.path == path:
                hear()

    def lookup(self, name: str) -> Stored | None:
        """A stream by its name, for an oracle: nothing is renewed."""
        return self._alive(_ROOT + name)


def _fields(stream: Stored) -> list[Field]:
    fields: list[Field] = [
        (b"content-type", stream.content_type),
        (b"stream-next-offset", b"%d" % len(stream.data)),
        (b"stream-up-to-date", b"true"),
    ]
    return [*fields, (b"stream-closed", b"true")] if stream.is_closed else fields


def _content(stream: Stored, offset: int) -> bytes:
    part = stream.data[offset:]
    return b"[" + b",".join(part.splitlines()) + b"]" if stream.content_type == b"application/json" else part
