"""A raw socket client, below every HTTP library: blocking, with a deadline on everything."""

import re
import socket
import ssl
import struct
import time
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

__all__ = ["End", "RawClient", "RawResponse"]


class End(Enum):
    """How the peer ended a connection, as far as reads have shown."""

    OPEN = "it is still open"
    FIN = "in order"
    RST = "by a reset"


@dataclass(frozen=True)
class RawResponse:
    """A response as it was on the wire: fields in order, the body without its framing."""

    version: bytes
    status: int
    reason: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes

    def get_all(self, name: str) -> list[str]:
        """Every value of `name`, compared without case."""
        wanted = name.lower().encode()
        return [value.decode("latin-1") for found, value in self.headers if found.lower() == wanted]

    def get(self, name: str) -> str | None:
        """The only value of `name`, None when absent; AssertionError when repeated."""
        values = self.get_all(name)
        assert len(values) <= 1, f"{name} repeated: {values}"
        return values[0] if values else None


class RawClient:
    """`with RawClient(url) as peer: peer.send(b"…"); peer.response()`. Times are seconds; too late is TimeoutError."""

    def __init__(self, url: str, *, tls: ssl.SSLContext | None = None, timeout: float = 10) -> None:
        parts = urlsplit(url)
        self.host = parts.netloc  # as a Host field has it
        self._timeout = timeout
        plain = socket.create_connection((parts.hostname, parts.port or (443 if tls else 80)), timeout)
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls is not None:
            tls.set_alpn_protocols(["http/1.1"])  # another client of the same context may have said otherwise
        self._socket = tls.wrap_socket(plain, server_hostname=parts.hostname) if tls is not None else plain
        self._buffer = b""
        self.end = End.OPEN

    def certificate(self) -> dict[str, object]:
        """What the ssl module says of the certificate that the peer has shown."""
        assert isinstance(self._socket, ssl.SSLSocket)
        shown = self._socket.getpeercert()
        assert shown is not None
        return dict(shown)

    def send(self, data: bytes) -> None:
        """Send all of it. A peer that has closed is noticed by the next read, not here."""
        try:
            self._socket.sendall(data)
        except (ConnectionResetError, BrokenPipeError):
            self.end = End.RST

    def send_split(self, data: bytes, size: int = 1) -> None:
        """Send it in segments of `size` bytes."""
        for at in range(0, len(data), size):
            self.send(data[at : at + size])

    def finish(self) -> None:
        """Half-close: nothing more will be sent."""
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """End with RST."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def close(self) -> None:
        """Close in order."""
        self._socket.close()

    def _receive(self, deadline: float) -> bool:
        """Read some more into the buffer; False when there will be no more."""
        if self.end is not End.OPEN:
            return False
        self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
        try:
            data = self._socket.recv(65536)
        except ConnectionResetError:
            self.end = End.RST
            return False
        if not data:
            self.end = End.FIN
            return False
        self._buffer += data
        return True

    def _until(self, mark: bytes, deadline: float) -> bytes:
        while (at := self._buffer.find(mark)) < 0:
            assert self._receive(deadline), f"ended {self.end.value} before {mark!r}: {self._buffer!r}"
        found, self._buffer = self._buffer[:at], self._buffer[at + len(mark) :]
        return found

    def _exactly(self, count: int, deadline: float) -> bytes:
        while len(self._buffer) < count:
            assert self._receive(deadline), f"ended {self.end.value} in a body: {self._buffer!r}"
        found, self._buffer = self._buffer[:count], self._buffer[count:]
        return found

    def rest(self, timeout: float | None = None) -> bytes:
        """Everything until the peer ends the connection; `end` then says how it ended."""
        deadline = time.monotonic() + (timeout or self._timeout)
        while self._receive(deadline):
            pass
        found, self._buffer = self._buffer, b""
        return found

    def silent(self, seconds: float = 0.2) -> bool:
        """Whether the peer sends nothing and ends nothing within `seconds`: for what must not happen."""
        try:
            self._receive(time.monotonic() + seconds)
        except TimeoutError:
            return not self._buffer
        return False

    def response(self, *, to: bytes = b"GET", timeout: float | None = None) -> RawResponse:
        """Read one final response, body and all; `to` is the request's method. AssertionError when it is cut short."""
        deadline = time.monotonic() + (timeout or self._timeout)
        answer = self.response_head(deadline=deadline)
        while answer.status < 200:
            answer = self.response_head(deadline=deadline)
        if to == b"HEAD" or answer.status in (204, 304):
            return answer
        return RawResponse(answer.version, answer.status, answer.reason, answer.headers, self._body(answer, deadline))

    def response_head(self, *, deadline: float | None = None) -> RawResponse:
        """Read one head, an informational one too; its body is left to read."""
        head = self._until(b"\r\n\r\n", deadline or time.monotonic() + self._timeout)
        start, *lines = head.split(b"\r\n")
        match = re.fullmatch(rb"(HTTP/1\.[01]) (\d{3}) ?(.*)", start)
        assert match, f"not a status line: {start!r}"
        fields = [line.partition(b":") for line in lines]
        assert all(colon for _, colon, _ in fields), f"not a header: {lines}"
        headers = [(name, value.strip(b" \t")) for name, _, value in fields]
        return RawResponse(match[1], int(match[2]), match[3], headers, b"")

    def chunk(self, *, timeout: float | None = None) -> bytes:
        """Read one chunk of a chunked body; b"" is the last one."""
        deadline = time.monotonic() + (timeout or self._timeout)
        data = self._exactly(int(self._until(b"\r\n", deadline), 16), deadline)
        assert self._exactly(2, deadline) == b"\r\n"
        return data

    def _body(self, answer: RawResponse, deadline: float) -> bytes:
        if answer.get("Transfer-Encoding") is not None:
            body = b""
            while data := self.chunk(timeout=deadline - time.monotonic()):
                body += data
            return body
        if (length := answer.get("Content-Length")) is not None:
            return self._exactly(int(length), deadline)
        return self.rest(deadline - time.monotonic())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()
