"""A client of a `Handler`, without sockets: complete responses, and the events of a live one."""

import json
from dataclasses import dataclass

from proxy.http.body import Body, BytesBody, read_all
from proxy.http.message import Handler, Request, Response
from proxy.wire.events import Buffer
from proxy.wire.headers import Headers

__all__ = ["Answer", "Client", "Events"]

_MOST = 1 << 30


@dataclass(frozen=True)
class Answer:
    """A response with its complete body."""

    status: int
    headers: Headers
    body: bytes

    def __getitem__(self, name: str) -> str | None:
        value = self.headers.get(name.lower().encode())
        return None if value is None else value.decode("latin-1")

    @property
    def offset(self) -> str:
        value = self["stream-next-offset"]
        assert value is not None
        return value


def _fields(values: dict[str, str]) -> Headers:
    return Headers([(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in values.items()])


class Client:
    """Requests to a Handler; header names are spelled with underscores."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler

    async def send(self, method: str, target: str, body: Buffer | Body = b"", /, **headers: str) -> Response:
        given = BytesBody([body]) if isinstance(body, bytes | memoryview) else body
        return await self.handler(Request(method.encode(), target.encode("latin-1"), _fields(headers), given))

    async def call(self, method: str, target: str, body: Buffer | Body = b"", /, **headers: str) -> Answer:
        response = await self.send(method, target, body, **headers)
        return Answer(response.status, response.headers, await read_all(response.body, _MOST))

    async def put(self, target: str, body: bytes = b"", /, **headers: str) -> Answer:
        return await self.call("PUT", target, body, **headers)

    async def post(self, target: str, body: Buffer | Body = b"", /, **headers: str) -> Answer:
        headers.setdefault("content_type", "application/octet-stream")
        return await self.call("POST", target, body, **headers)

    async def get(self, target: str, /, **headers: str) -> Answer:
        return await self.call("GET", target, **headers)

    async def head(self, target: str) -> Answer:
        return await self.call("HEAD", target)

    async def delete(self, target: str) -> Answer:
        return await self.call("DELETE", target)

    async def produce(self, target: str, body: bytes, seq: int, /, *, epoch: int = 0, **headers: str) -> Answer:
        producer = {"producer_id": "p", "producer_epoch": str(epoch), "producer_seq": str(seq)}
        return await self.post(target, body, **{**producer, **headers})

    async def events(self, target: str) -> "Events":
        response = await self.send("GET", target)
        assert response.status == 200
        return Events(response)


class Events:
    """The server-sent events of a live response, as pairs of event and payload."""

    def __init__(self, response: Response) -> None:
        self.response = response
        self._rest = ""

    async def next(self) -> tuple[str, str]:
        """The next event; ("", "") is the end, (":", "") a comment."""
        while "\n\n" not in self._rest:
            parts = await self.response.body.take()
            if not parts:
                return "", ""
            self._rest += b"".join(parts).decode("utf-8")
        block, _, self._rest = self._rest.partition("\n\n")
        lines = block.split("\n")
        if lines[0] == ":":
            return ":", ""
        assert lines[0].startswith("event: ")
        assert all(line.startswith("data:") for line in lines[1:])
        return lines[0].removeprefix("event: "), "\n".join(line.removeprefix("data:") for line in lines[1:])

    async def data(self) -> str:
        kind, payload = await self.next()
        assert kind == "data"
        return payload

    async def control(self) -> dict[str, object]:
        kind, payload = await self.next()
        assert kind == "control"
        found: dict[str, object] = json.loads(payload)
        return found

    def close(self) -> None:
        self.response.body.abort()
