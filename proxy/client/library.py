"""The HTTP library at the border: httpx or httpx2, the same classes under two names, imported when first used.

Owns how a `Send` becomes a request of the library, how its exceptions become `NetworkError`, and what its logs may
show. Uses the library's transports, not its clients: no cookies, no redirects, no log line with a signed URL.
"""

import importlib
import logging
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from types import ModuleType
from typing import Any

from proxy.client.errors import NetworkError, NetworkFault
from proxy.client.messages import Fields, Send
from proxy.client.options import ERROR_BODY_BYTES, ERROR_BODY_SECONDS, MAX_CONNECTIONS, MAX_IDLE_CONNECTIONS

__all__ = [
    "BoundedBody", "ReplyHead", "installed_library", "library_of", "library_request", "redact_logs", "translated",
    "transport_options",
]  # fmt: skip

_FAULTS = {fault.value: fault for fault in NetworkFault}
_FAULTS |= {"CloseError": NetworkFault.READ, "DecodingError": NetworkFault.PROTOCOL, "ProxyError": NetworkFault.CONNECT}
_SIGNATURE = re.compile(r"(signature=)[\w-]+")


def installed_library() -> ModuleType:
    """httpx2 if it is installed, else httpx. Raises ModuleNotFoundError when neither is."""
    for name in ("httpx2", "httpx"):
        with suppress(ModuleNotFoundError):
            return importlib.import_module(name)
    raise ModuleNotFoundError("httpx2 or httpx is needed: pip install '.[client]'", name="httpx")


def library_of(transport: object) -> ModuleType:
    """The library whose transport this is. Raises TypeError when it is of neither."""
    for kind in type(transport).__mro__:
        if (name := kind.__module__.partition(".")[0]) in ("httpx", "httpx2"):
            return importlib.import_module(name)
    raise TypeError("transport must be one of httpx or httpx2")


class _Redact(logging.Filter):
    """Hides signatures: the library's debug lines show response heads, and a `Location` there is a credential."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg = _SIGNATURE.sub(r"\1…", record.getMessage())
        record.args = ()
        return True


_redact = _Redact()


def redact_logs(library: ModuleType) -> None:
    """Keep signed URLs out of the library's debug log."""
    core = library.__name__.replace("httpx", "httpcore")
    for part in ("connection", "http11", "http2", "proxy", "socks"):
        logging.getLogger(f"{core}.{part}").addFilter(_redact)


@contextmanager
def translated(library: ModuleType) -> Iterator[None]:
    """Raise the library's exceptions as NetworkError. They are not chained, because some quote a header's value."""
    try:
        yield
    except library.LocalProtocolError:
        raise NetworkError(NetworkFault.REQUEST, "the request holds a header that cannot be sent") from None
    except library.HTTPError as error:
        names = [kind.__name__ for kind in type(error).__mro__]
        fault = next((_FAULTS[name] for name in names if name in _FAULTS), NetworkFault.PROTOCOL)
        detail = _SIGNATURE.sub(r"\1…", str(error)) or fault.value
        raise NetworkError(fault, detail) from None


class BoundedBody:
    """Collects a small body: at most ERROR_BODY_BYTES, for at most ERROR_BODY_SECONDS."""

    def __init__(self) -> None:
        self._collected = bytearray()
        self._until = time.monotonic() + ERROR_BODY_SECONDS

    def add(self, piece: bytes) -> bool:
        """Add `piece`. False when a bound is reached and no more is to be read."""
        self._collected += piece
        return len(self._collected) < ERROR_BODY_BYTES and time.monotonic() < self._until

    def content(self) -> bytes:
        """The bytes that were collected."""
        return bytes(self._collected[:ERROR_BODY_BYTES])


class ReplyHead:
    """Status and header fields of a reply, before its body.

    `framed`: the body's end can be told from a connection that was cut. A body that ends with its connection
    (HTTP/1.0, or neither `Content-Length` nor `Transfer-Encoding`) is not framed.
    """

    def __init__(self, library: ModuleType, response: Any) -> None:
        self._library = library
        self._response = response
        self.status: int = response.status_code
        self.headers = Fields((name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers.raw)
        version = response.http_version
        self.framed: bool = (
            self.status in (204, 304)
            or not version.startswith("HTTP/1")
            or "content-length" in self.headers
            or (version == "HTTP/1.1" and "transfer-encoding" in self.headers)
        )


def transport_options(library: ModuleType) -> dict[str, Any]:
    """Arguments of a transport of our own: verified TLS, and limits on connections."""
    limits = library.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_IDLE_CONNECTIONS)
    return {"verify": _tls(library), "limits": limits}


@cache
def _tls(library: ModuleType) -> Any:
    """One verifying context for all transports: loading the system's certificates takes longer than most requests."""
    return library.create_ssl_context()


def library_request(library: ModuleType, send: Send) -> Any:
    """The library's request for `send`."""
    times = send.timeouts
    waits = {"connect": times.connect, "read": times.answer, "write": times.write, "pool": times.pool}
    return library.Request(
        send.method,
        send.url,
        headers=[(name.encode("latin-1"), value.encode("latin-1")) for name, value in send.headers],
        content=send.content if send.method == "POST" else None,
        extensions={"timeout": waits},
    )
