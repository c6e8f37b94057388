"""A durable-streams server in a dictionary, without time or I/O: what the simulations of pump and producer write to.

As much of the protocol as the proxy speaks to storage; `tests/streams/test_client.py` holds it to the real store.
"""

import json
from dataclasses import dataclass, field

from proxy.http.body import EMPTY, BytesBody, read_all
from proxy.http.message import Request, Response
from proxy.wire.headers import Headers

__all__ = ["Forgetting", "MemoryStorage", "Stored"]

_MOST = 1 << 30


@dataclass
class Stored:
    """One stream. `producers` maps an id to its epoch and last sequence number; `closed_by`: what closed it."""

    content_type: bytes
    data: bytes = b""
    is_closed: bool = False
    producers: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    closed_by: tuple[bytes, int, int] | None = None


class MemoryStorage:
    """The Handler. `streams` by path; `log` tells what was asked, in order.

    With `closed_first` it looks at the closure before it looks at the producer, as the npm server does.
    """

    def __init__(self, *, closed_first: bool = False) -> None:
        self.closed_first = closed_first
        self.streams: dict[str, Stored] = {}
        self.log: list[str] = []  # "PUT name", "POST name", …

    async def __call__(self, request: Request) -> Response:
        path, _, _ = request.target.decode().partition("?")
        body = await read_all(request.body, _MOST)
        method = request.method.decode()
        self.log.append(f"{method} {path.rpartition('/')[2]}")
        stream = self.streams.get(path)
        if method == "PUT":
            return self._create(path, request.headers, body)
        if stream is None:
            return _answer(404)
        if method == "POST":
            return self._append(stream, request.headers, body)
        if method == "DELETE":
            del self.streams[path]
            return _answer(204)
        return self._read(stream, method)

    def named(self, name: str) -> Stored | None:
        """The stream whose path ends with `name`."""
        return self.streams.get(f"/v1/streams/{name}")

    def _create(self, path: str, headers: Headers, body: bytes) -> Response:
        kind = headers.get(b"content-type") or b""
        if (stream := self.streams.get(path)) is not None:
            return _answer(200 if stream.content_type == kind else 409)
        closed = headers.get(b"stream-closed") == b"true"
        self.streams[path] = Stored(kind, _framed(kind, body), closed)
        return _answer(201)

    def _append(self, stream: Stored, headers: Headers, body: bytes) -> Response:
        name = headers.get(b"producer-id")
        closes = headers.get(b"stream-closed") == b"true"
        if name is not None:
            epoch, seq = int(headers.get(b"producer-epoch") or 0), int(headers.get(b"producer-seq") or 0)
            if self.closed_first and stream.is_closed:
                if stream.closed_by == (name, epoch, seq):
                    return _answer(204)
                return _answer(409, (b"stream-closed", b"true"))
            known, last = stream.producers.get(name, (epoch, -1))
            if epoch > known:
                known, last = epoch, -1
            if epoch < known:
                return _answer(403, (b"producer-epoch", b"%d" % known))
            if seq <= last:
                return _answer(204)
            if stream.is_closed:
                return _answer(409, (b"stream-closed", b"true"))
            if seq != last + 1:
                return _answer(409, (b"producer-expected-seq", b"%d" % (last + 1)))
            stream.producers[name] = (epoch, seq)
        elif stream.is_closed:
            return _answer(409, (b"stream-closed", b"true"))
        if not body and not closes:
            return _answer(400)
        stream.data += _framed(stream.content_type, body)
        stream.is_closed = closes
        if closes and name is not None:
            stream.closed_by = (name, epoch, seq)
        return _answer(200 if name is not None and body else 204, _end_of(stream))

    def _read(self, stream: Stored, method: str) -> Response:
        body = stream.data
        if stream.content_type == b"application/json":
            body = b"[" + b",".join(body.splitlines()) + b"]"
        fields = [(b"content-type", stream.content_type), _end_of(stream)]
        fields.append((b"stream-up-to-date", b"true"))
        if stream.is_closed:
            fields.append((b"stream-closed", b"true"))
        return Response(200, Headers(fields), BytesBody([body]) if method == "GET" else EMPTY)


class Forgetting(MemoryStorage):
    """Loses what is in a data stream past its first `keeps` bytes, whatever it has acknowledged."""

    def __init__(self) -> None:
        super().__init__()
        self.keeps = 1 << 30

    async def __call__(self, request: Request) -> Response:
        for stream in self.streams.values():
            if stream.content_type != b"application/json":
                stream.data = stream.data[: self.keeps]
        return await super().__call__(request)


def _end_of(stream: Stored) -> tuple[bytes, bytes]:
    return b"stream-next-offset", b"%016d" % len(stream.data)


def _framed(kind: bytes, body: bytes) -> bytes:
    """JSON messages are kept one a line."""
    return json.dumps(json.loads(body)).encode() + b"\n" if kind == b"application/json" and body else body


def _answer(status: int, *fields: tuple[bytes, bytes]) -> Response:
    return Response(status, Headers(fields))
