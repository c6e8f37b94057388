"""A caller of a proxy in a dozen lines per operation: create, read, abort, head, delete, tokens, events.

Owns no expectation: tests assert on the `httpx.Response` they are given. Everything has a time-out.
"""

import base64
import hashlib
import hmac
import json
import re
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

import httpx

from tests.kit.peers import RawClient

__all__ = ["Caller", "Event", "Stream", "Whole", "base64url", "claims", "code", "events", "jwt"]

SECONDS = 15.0


class Whole(NamedTuple):
    """A stream read to its end: its bytes, its outcome, and the last response."""

    data: bytes
    outcome: str | None
    last: httpx.Response


class Event(NamedTuple):
    """A server-sent event of a live read."""

    kind: str
    data: str

    @property
    def control(self) -> dict[str, object]:
        """The fields of a control event."""
        assert self.kind == "control", self
        fields = json.loads(self.data)
        assert isinstance(fields, dict)
        return fields


def events(answer: httpx.Response) -> Iterator[Event]:
    """The events of an SSE response, comments left out (the event stream format of the HTML standard)."""
    kind, data = "message", list[str]()
    for line in answer.iter_lines():
        if not line:
            if data:
                yield Event(kind, "\n".join(data))
            kind, data = "message", []
            continue
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "event":
            kind = value
        elif name == "data":
            data.append(value)


def code(answer: httpx.Response) -> tuple[int, str]:
    """Status and error code; AssertionError when the body is not the protocol's error body."""
    assert answer.headers.get("content-type", "").partition(";")[0] == "application/json", answer.headers
    body = answer.json()
    assert set(body) == {"error"}, body
    assert {"code", "message"} <= set(body["error"]), body
    assert isinstance(body["error"]["message"], str)
    assert body["error"]["message"]
    return answer.status_code, body["error"]["code"]


def base64url(data: bytes) -> str:
    """Without padding, as JWTs and signatures are."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def jwt(secret: str, claims: Mapping[str, object], header: Mapping[str, object] | None = None) -> str:
    """A token over these claims; the header's `alg` chooses the signature (HS256 when none is given)."""
    head = {"alg": "HS256", "typ": "JWT"} if header is None else header
    signed = ".".join(base64url(json.dumps(part).encode()) for part in (head, claims))
    hashes = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}
    if head.get("alg") == "none":
        return signed + "."
    algorithm = hashes.get(str(head.get("alg")), hashlib.sha256)
    return f"{signed}.{base64url(hmac.digest(secret.encode(), signed.encode(), algorithm))}"


def claims(**more: object) -> dict[str, object]:
    """Claims of a token that expires in a minute."""
    return {"exp": int(time.time() + 60), **more}


@dataclass(frozen=True)
class Stream:
    """A stream by its pre-signed URL, as a 201 gave it."""

    caller: "Caller"
    url: str

    @property
    def path(self) -> str:
        """Its URL without the query."""
        return self.url.partition("?")[0]

    @property
    def id(self) -> str:
        """Its UUID."""
        return urlsplit(self.url).path.rpartition("/")[2]

    @property
    def signed(self) -> dict[str, str]:
        """The parameters that sign the URL."""
        return {name: values[0] for name, values in parse_qs(urlsplit(self.url).query).items()}

    def get(self, *, headers: Mapping[str, str] | None = None, **params: str) -> httpx.Response:
        """Read with the pre-signed URL and these parameters besides."""
        return self.caller.http.get(self.path, params=self.signed | params, headers=headers)

    def whole(self, offset: str = "-1") -> Whole:
        """Read from `offset` until storage says that the stream is closed, waiting by long-poll."""
        data = b""
        deadline = time.monotonic() + SECONDS
        answer = self.get(offset=offset)
        while True:
            assert answer.status_code in (200, 204), (answer.status_code, answer.text)
            data += answer.content
            offset = answer.headers["stream-next-offset"]
            if answer.headers.get("stream-closed") == "true":
                return Whole(data, answer.headers.get("upstream-outcome"), answer)
            assert time.monotonic() < deadline, f"open after {SECONDS} s, {len(data)} bytes"
            answer = self.get(offset=offset, live="long-poll")

    def until(self, data: bytes) -> str:
        """Wait until exactly `data` can be read from the start; the offset after it."""
        got, offset = b"", "-1"
        while len(got) < len(data):
            answer = self.get(offset=offset, live="long-poll")
            assert answer.status_code in (200, 204), (answer.status_code, answer.text)
            got += answer.content
            offset = answer.headers["stream-next-offset"]
            assert answer.headers.get("stream-closed") != "true" or len(got) >= len(data), (got, data)
        assert got == data
        return offset

    def live(self, offset: str = "-1") -> "LiveRead":
        """An SSE read, to be used in `with`."""
        return LiveRead(self, offset)

    def head(self) -> httpx.Response:
        """Metadata, with the service secret."""
        return self.caller.http.head(self.path, headers=self.caller.bearer)

    def abort(self, **params: str) -> httpx.Response:
        """Abort with the pre-signed URL."""
        return self.caller.http.patch(self.path, params=self.signed | {"action": "abort"} | params)

    def delete(self) -> httpx.Response:
        """Delete with the service secret."""
        return self.caller.http.delete(self.path, headers=self.caller.bearer)


class LiveRead:
    """`with stream.live() as live:` and `live.event()` is the next event, None at the end of the response."""

    def __init__(self, stream: Stream, offset: str) -> None:
        params = stream.signed | {"offset": offset, "live": "sse"}
        self._opening = stream.caller.http.stream("GET", stream.path, params=params)

    def __enter__(self) -> "LiveRead":
        self.response = self._opening.__enter__()
        assert self.response.status_code == 200, self.response.read()
        self._base64 = self.response.headers.get("stream-sse-data-encoding") == "base64"
        self._events = events(self.response)
        self.data = b""
        self.controls: list[dict[str, object]] = []
        self.last = ""
        return self

    def __exit__(self, *details: object) -> None:
        self.response.close()

    def event(self) -> Event | None:
        """The next event; its bytes are appended to `data`, or its fields to `controls`."""
        event = next(self._events, None)
        if event is None:
            return None
        self.last = event.kind
        if event.kind == "data":
            self.data += base64.b64decode(event.data, validate=True) if self._base64 else event.data.encode()
        elif event.kind == "control":
            self.controls.append(event.control)
        return event

    def until(self, data: bytes) -> None:
        """Take events until exactly `data` has come, and the control event after it."""
        while len(self.data) < len(data) or self.last != "control":
            assert self.event() is not None, (self.data, data)
        assert self.data == data

    def to_end(self) -> bytes:
        """Take everything until the response ends."""
        while self.event() is not None:
            pass
        return self.data


class Caller:
    """Somebody who has the service secret of the proxy at `url`; `tls` verifies it, by default as the system does.

    With `http2` it speaks HTTP/2 only, without TLS by prior knowledge. Raw connections are always of HTTP/1.1.
    """

    def __init__(self, url: str, secret: str, *, tls: ssl.SSLContext | None = None, http2: bool = False) -> None:
        self._tls = tls or ssl.create_default_context()
        self.url = url.rstrip("/")
        self.secret = secret
        self.bearer = {"Authorization": f"Bearer {secret}"}
        self.http = httpx.Client(
            base_url=self.url, timeout=SECONDS, trust_env=False, verify=self._tls, http1=not http2, http2=http2
        )

    def raw(self) -> RawClient:
        """A raw connection to the proxy."""
        return RawClient(self.url, tls=self._tls if self.url.startswith("https:") else None)

    def post(
        self,
        upstream_url: str | None,
        method: str | None = "POST",
        *,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        content: bytes | Iterable[bytes] = b"",
        authorized: bool = True,
    ) -> httpx.Response:
        """A create request; `headers` are the caller's, beside those of the protocol."""
        own: list[tuple[str, str]] = list(self.bearer.items()) if authorized else []
        if upstream_url is not None:
            own.append(("Upstream-URL", upstream_url))
        if method is not None:
            own.append(("Upstream-Method", method))
        more = headers.items() if isinstance(headers, Mapping) else headers
        return self.http.post("/v1/proxy", headers=[*own, *more], content=content)

    def stream(self, created: httpx.Response) -> Stream:
        """The stream of a 201 or of a replay."""
        assert created.status_code in (200, 201), (created.status_code, created.text)
        location = created.headers["location"]
        assert re.match(r"(https?://[^?]+)?/v1/proxy/", location), location
        return Stream(self, location)

    def create(
        self,
        upstream_url: str,
        method: str = "POST",
        *,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
        content: bytes | Iterable[bytes] = b"",
    ) -> Stream:
        """Create and expect a 201."""
        created = self.post(upstream_url, method, headers=headers, content=content)
        assert created.status_code == 201, (created.status_code, created.text)
        return self.stream(created)
