"""The HTTP library at the border: httpx or httpx2, the same classes under two names, imported when first used.

Owns how a `Send` becomes the library's request and its exceptions become `NetworkError`. Works on transports, below
the library's client: no cookies, no redirects, no log line that holds a signed URL.
"""

import asyncio
import importlib
import logging
import re
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager, suppress
from functools import cache
from types import ModuleType, TracebackType
from typing import Any, Self, TypeVar

from proxy.client.errors import Fault, NetworkError
from proxy.client.messages import Fields, Plan, Send
from proxy.client.options import ERROR_BODY_BYTES, ERROR_BODY_SECONDS, MAX_CONNECTIONS, MAX_IDLE_CONNECTIONS

__all__ = ["AsyncReply", "AsyncWire", "Reply", "Wire", "installed_library", "library_of", "translated"]

T = TypeVar("T")

_FAULTS = {fault.value: fault for fault in Fault}
_FAULTS |= {"CloseError": Fault.READ, "DecodingError": Fault.PROTOCOL, "ProxyError": Fault.CONNECT}
_SIGNATURE = re.compile(r"(signature=)[\w-]+")


def installed_library() -> ModuleType:
    """httpx2 if it is there, else httpx. Raises ModuleNotFoundError when neither is."""
    for name in ("httpx2", "httpx"):
        with suppress(ModuleNotFoundError):
            return importlib.import_module(name)
    raise ModuleNotFoundError("httpx2 or httpx is needed: pip install '.[client]'", name="httpx")


def library_of(transport: object) -> ModuleType:
    """The library that a transport was made for."""
    for kind in type(transport).__mro__:
        if (name := kind.__module__.partition(".")[0]) in ("httpx", "httpx2"):
            return importlib.import_module(name)
    raise TypeError("transport must be one of httpx or httpx2")


class _Redact(logging.Filter):
    """The library's debug lines show response heads, and a `Location` there is a credential."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg = _SIGNATURE.sub(r"\1…", record.getMessage())
        record.args = ()
        return True


_redact = _Redact()


def _redact_logs(library: ModuleType) -> None:
    core = library.__name__.replace("httpx", "httpcore")
    for part in ("connection", "http11", "http2", "proxy", "socks"):
        logging.getLogger(f"{core}.{part}").addFilter(_redact)


@contextmanager
def translated(library: ModuleType) -> Iterator[None]:
    """The library's exceptions as NetworkError. They are not chained: some quote a header's value."""
    try:
        yield
    except library.LocalProtocolError:
        raise NetworkError(Fault.REQUEST, "the request holds a header that cannot be sent") from None
    except library.HTTPError as error:
        names = [kind.__name__ for kind in type(error).__mro__]
        fault = next((_FAULTS[name] for name in names if name in _FAULTS), Fault.PROTOCOL)
        detail = _SIGNATURE.sub(r"\1…", str(error)) or fault.value
        raise NetworkError(fault, detail) from None


class _Bounded:
    """Bytes, up to so many, that come in so many seconds."""

    def __init__(self) -> None:
        self._collected = bytearray()
        self._until = time.monotonic() + ERROR_BODY_SECONDS

    def full(self, piece: bytes) -> bool:
        """Keep `piece`; whether that has to be the last."""
        self._collected += piece
        return len(self._collected) >= ERROR_BODY_BYTES or time.monotonic() >= self._until

    def bytes(self) -> bytes:
        """What was kept."""
        return bytes(self._collected[:ERROR_BODY_BYTES])


class _Head:
    """What a reply tells before its body."""

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


class Reply(_Head):
    """A response whose body is still to be read; close it in any case."""

    def pieces(self) -> Iterator[bytes]:
        """The body as it arrives. Raises NetworkError when it is cut."""
        with translated(self._library):
            yield from self._response.iter_bytes()

    def body(self) -> bytes:
        """An answer's own small body, bounded in bytes and time. Raises NetworkError when it is cut before."""
        collected = _Bounded()
        for piece in self.pieces():
            if collected.full(piece):
                break
        return collected.bytes()

    def close(self) -> None:
        """Give the connection back, or cut it when the body was not read to its end."""
        with suppress(self._library.HTTPError):
            self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Wire:
    """Sends to the proxy over one of the library's transports, its own one or one that was given."""

    def __init__(self, library: ModuleType, transport: object = None) -> None:
        self.library = library
        self._owned = transport is None
        self._transport: Any = transport or library.HTTPTransport(verify=_tls(library), limits=_limits(library))
        _redact_logs(library)

    def send(self, send: Send) -> Reply:
        """The reply's head. Raises NetworkError when none came."""
        with translated(self.library):
            response = self._transport.handle_request(_request(self.library, send))
            return Reply(self.library, response)

    def settle(self, plan: Plan[T]) -> T:
        """Send a plan's request until its answer is understood. Raises what the plan raises."""
        while True:
            time.sleep(plan.delay)
            try:
                with self.send(plan.request()) as reply:
                    body = reply.body()
            except NetworkError as error:
                plan.failed(error)
                continue
            if (result := plan.replied(reply.status, reply.headers, body)) is not None:
                return result

    def close(self) -> None:
        """Close every connection; a transport that was given is its giver's to close."""
        if self._owned:
            self._transport.close()


class AsyncReply(_Head):
    """A response whose body is still to be read; close it in any case."""

    async def pieces(self) -> AsyncGenerator[bytes]:
        """The body as it arrives. Raises NetworkError when it is cut."""
        with translated(self._library):
            async for piece in self._response.aiter_bytes():
                yield piece

    async def body(self) -> bytes:
        """An answer's own small body, bounded in bytes and time. Raises NetworkError when it is cut before."""
        collected = _Bounded()
        async with aclosing(self.pieces()) as pieces:
            async for piece in pieces:
                if collected.full(piece):
                    break
        return collected.bytes()

    async def aclose(self) -> None:
        """Give the connection back, or cut it when the body was not read to its end."""
        with suppress(self._library.HTTPError):
            await self._response.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


class AsyncWire:
    """The same over an asynchronous transport."""

    def __init__(self, library: ModuleType, transport: object = None) -> None:
        self.library = library
        self._owned = transport is None
        self._transport: Any = transport or library.AsyncHTTPTransport(verify=_tls(library), limits=_limits(library))
        _redact_logs(library)

    async def send(self, send: Send) -> AsyncReply:
        """The reply's head. Raises NetworkError when none came."""
        with translated(self.library):
            response = await self._transport.handle_async_request(_request(self.library, send))
            return AsyncReply(self.library, response)

    async def settle(self, plan: Plan[T]) -> T:
        """Send a plan's request until its answer is understood. Raises what the plan raises."""
        while True:
            await asyncio.sleep(plan.delay)
            try:
                async with await self.send(plan.request()) as reply:
                    body = await reply.body()
            except NetworkError as error:
                plan.failed(error)
                continue
            if (result := plan.replied(reply.status, reply.headers, body)) is not None:
                return result

    async def aclose(self) -> None:
        """Close every connection; a transport that was given is its giver's to close."""
        if self._owned:
            await self._transport.aclose()


@cache
def _tls(library: ModuleType) -> Any:
    """One verifying context for all: to load the system's certificates takes longer than most requests."""
    return library.create_ssl_context()


def _limits(library: ModuleType) -> Any:
    return library.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_IDLE_CONNECTIONS)


def _request(library: ModuleType, send: Send) -> Any:
    times = send.timeouts
    waits = {"connect": times.connect, "read": times.answer, "write": times.write, "pool": times.pool}
    return library.Request(
        send.method,
        send.url,
        headers=[(name.encode("latin-1"), value.encode("latin-1")) for name, value in send.headers],
        content=send.content if send.method == "POST" else None,
        extensions={"timeout": waits},
    )
