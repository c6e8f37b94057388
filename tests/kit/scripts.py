"""Scripts of an upstream: the bytes that it sends and the steps between them. Values only; `upstream` runs them."""

import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

__all__ = [
    "FIN", "GATE", "HANG", "LAST_CHUNK", "RESET", "Part", "Script", "Seen", "Step", "chunk", "chunked", "echo",
    "endless", "fixed", "head", "sse", "sse_event", "until_close",
]  # fmt: skip


class Step(Enum):
    """What a script can do other than send bytes."""

    GATE = "wait until the test calls `release`"
    HANG = "wait until the peer closes"
    FIN = "close the sending side, then wait until the peer closes"
    RESET = "end the connection with RST"


GATE, HANG, FIN, RESET = Step.GATE, Step.HANG, Step.FIN, Step.RESET

Field = tuple[str, str]


@dataclass(frozen=True)
class Seen:
    """A request exactly as it came: names as spelled, fields in order. `connection` is the number of its connection."""

    method: bytes
    target: bytes
    version: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    connection: int

    def get_all(self, name: str) -> list[str]:
        """Every value of `name`, compared without case."""
        wanted = name.lower().encode()
        return [value.decode("latin-1") for field, value in self.headers if field.lower() == wanted]

    def get(self, name: str) -> str | None:
        """The only value of `name`; None when absent. AssertionError when it is repeated."""
        values = self.get_all(name)
        assert len(values) <= 1, f"{name} repeated: {values}"
        return values[0] if values else None


# Bytes are sent as they are, numbers are seconds to wait.
Part = bytes | float | Step
Script = Iterable[Part] | Callable[[Seen], Iterable[Part]]


def head(status: int = 200, *fields: Field, reason: str = "Whatever") -> bytes:
    """A response head with these fields and nothing added."""
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in fields)]
    return "".join(f"{line}\r\n" for line in [*lines, ""]).encode("latin-1")


def fixed(body: bytes = b"", *fields: Field, status: int = 200, content_type: str | None = "text/plain") -> list[bytes]:
    """A response with Content-Length, head and body in one write."""
    kind = [("Content-Type", content_type)] if content_type is not None else []
    return [head(status, *kind, ("Content-Length", str(len(body))), *fields) + body]


def chunk(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def chunked(
    *parts: Part, fields: Iterable[Field] = (), status: int = 200, content_type: str = "text/event-stream"
) -> list[Part]:
    """A chunked response: one chunk for each part that is bytes; steps stay in place."""
    start = head(status, ("Content-Type", content_type), ("Transfer-Encoding", "chunked"), *fields)
    return [start, *(chunk(part) if isinstance(part, bytes) else part for part in parts), LAST_CHUNK]


def until_close(
    *parts: Part, fields: Iterable[Field] = (), status: int = 200, content_type: str = "text/plain"
) -> list[Part]:
    """A response that ends with the connection."""
    return [head(status, ("Content-Type", content_type), ("Connection", "close"), *fields), *parts, FIN]


def endless(piece: bytes, *, status: int = 200) -> Script:
    """A response without length or end: `piece` repeated for ever."""
    return lambda _: itertools.chain(until_close(status=status)[:1], itertools.repeat(piece))


def sse_event(token: str) -> bytes:
    """One server-sent event as AI services send them."""
    return f"data: {json.dumps({'token': token})}\n\n".encode()


def sse(*tokens: str | Step) -> list[Part]:
    """A chunked event stream of tokens, with steps between them."""
    return chunked(*(token if isinstance(token, Step) else sse_event(token) for token in tokens))


def echo(seen: Seen) -> list[bytes]:
    """Answers with the request as JSON: method, target, headers (list of pairs), body (latin-1)."""
    headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in seen.headers]
    told = {"method": seen.method.decode(), "target": seen.target.decode("latin-1"), "headers": headers}
    body = json.dumps(told | {"body": seen.body.decode("latin-1")}).encode()
    return fixed(body, content_type="application/json")
