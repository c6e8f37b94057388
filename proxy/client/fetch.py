"""The synchronous driver: sends, waits and hands out bytes as `session`, `creating` and `reading` decide.

`proxy.client.aio` is its twin. A response is used by one thread at a time; a fetch by any number.
"""

import logging
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from types import ModuleType, TracebackType
from typing import Self
from weakref import WeakSet

from proxy.client.aborting import Aborting
from proxy.client.creating import Answered, Asked, UpstreamRequest
from proxy.client.errors import DurableError, NetworkError, ProxyError
from proxy.client.messages import Plan
from proxy.client.options import Retry, Timeouts
from proxy.client.reading import Reading
from proxy.client.responses import ResponseHead
from proxy.client.session import Call, Delivery, Session, Settings
from proxy.client.upstream import Content, HeaderInput, Json, upstream_request
from proxy.client.wire import Reply, Wire, installed_library, library_of, translated

__all__ = ["DurableFetch", "DurableResponse", "create_abort", "in_thread"]

logger = logging.getLogger(__name__)


class Pieces:
    """Pieces of a body from one source. Leaving a loop over it ends nothing: the next loop goes on.

    It just ends only when the body did. After an error it raises that again, after `stop` RuntimeError, so that no
    body that was left can be taken for a whole one.
    """

    def __init__(self, source: Generator[bytes, None, None]) -> None:
        self._source = source
        self._error: Exception | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        if self._error is not None:
            raise self._error
        try:
            return next(self._source)
        except StopIteration:
            raise
        except Exception as error:
            self._error = error
            raise
        except BaseException:
            self._error = RuntimeError("reading was interrupted")
            raise

    def stop(self) -> None:
        """No more from here; the source is closed."""
        self._error = self._error or RuntimeError("the response is closed")
        with suppress(ValueError):  # it runs in another thread, which will see its connection close
            self._source.close()


class DurableResponse(ResponseHead):
    """An upstream's answer, to be read once. Close it, or use it as a context manager, or read it to its end."""

    def __init__(self, fetch: "DurableFetch", source: Delivery | Answered) -> None:
        super().__init__(source)
        self._fetch = fetch
        self._reply: Reply | None = None
        self._raw = Pieces(self._read())
        self._decoded = Pieces(self._decode()) if self._encoded else self._raw
        self._whole: bytes | None = None

    def iter_bytes(self) -> Iterator[bytes]:
        """The body as it comes, any `Content-Encoding` undone. Another call goes on where this one was left.

        A piece counts as consumed when the next one is asked for. Raises IncompleteStream after the last byte of a
        stream that is not whole, NetworkError when the proxy stays out of reach, ProxyError when it refuses to go on.
        """
        return self._decoded

    def iter_raw(self) -> Iterator[bytes]:
        """The same bytes as the upstream sent them, encoded or not. Use this or `iter_bytes`."""
        return self._raw

    def read(self) -> bytes:
        """The whole body; the same again when called again. Raises as `iter_bytes`."""
        if self._whole is None:
            self._whole = b"".join(self.iter_bytes())
        return self._whole

    def abort(self) -> None:
        """Stop the upstream call; what it sent until now can still be read, and ends with IncompleteStream.

        Harmless when repeated, or when the stream has ended. Raises ProxyError or NetworkError.
        """
        if self.stream_url is not None:
            self._fetch.send_abort(self.stream_url)

    def close(self) -> None:
        """Read no more. Whether that aborts the upstream call is told by `on_close`; it never blocks to do so."""
        self._decoded.stop()
        self._raw.stop()
        self._close_reply()
        if self._aborts_on_close() and self.stream_url is not None:
            self._fetch.abort_later(self.stream_url)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def open(self) -> bool:
        """Have the first read answered, for whoever resumes; False when the stream is there no more."""
        if self._delivery is None or self._reading is None:
            return False
        try:
            self._reply = self._next_reply(self._reading)
        except DurableError as error:
            self._delivery.failed(error)
            if isinstance(error, ProxyError) and error.gone:
                return False
            raise
        return True

    def _read(self) -> Generator[bytes, None, None]:
        if self._delivery is None or self._reading is None:
            yield self._answer
            return
        try:
            yield from self._stream(self._delivery, self._reading)
            self._reading.verdict()
            self._delivery.finished()
        except DurableError as error:
            self._delivery.failed(error)
            raise

    def _decode(self) -> Generator[bytes, None, None]:
        library = self._fetch.wire.library
        fields = [("Content-Encoding", self.headers["content-encoding"])]
        with translated(library):
            yield from library.Response(200, headers=fields, content=self._raw).iter_bytes()

    def _stream(self, delivery: Delivery, reading: Reading) -> Generator[bytes, None, None]:
        while reading.outcome is None:
            if self._reply is None:
                self._reply = self._next_reply(reading)
            try:
                for data in self._reply.pieces():
                    if piece := reading.receive(data, time.monotonic()):
                        delivery.took(piece)
                        yield piece
                        reading.consumed(time.monotonic())
                    delivery.consumed(reading.position)
                    if reading.satisfied:
                        break
                reading.ended(time.monotonic())
                delivery.consumed(reading.position)
            except NetworkError as error:
                reading.lost(error, time.monotonic())
            finally:
                self._close_reply()

    def _next_reply(self, reading: Reading) -> Reply:
        """Ask until a read is answered with the stream's bytes. Raises ProxyError or NetworkError when that is vain."""
        while True:
            time.sleep(reading.delay)
            try:
                reply = self._fetch.wire.send(reading.request(time.monotonic()))
                if reading.head(reply.status, reply.headers, framed=reply.framed):
                    return reply
                with reply:
                    body = reply.body() if reply.status >= 400 else b""
                reading.refused(reply.status, reply.headers, body, time.monotonic())
            except NetworkError as error:
                reading.lost(error, time.monotonic())

    def _close_reply(self) -> None:
        reply, self._reply = self._reply, None
        if reply is not None:
            reply.close()


class DurableFetch:
    """Requests to upstreams through one proxy; call it. Made by `create_durable_fetch`, which tells of the options."""

    def __init__(self, settings: Settings, library: ModuleType | None = None, transport: object = None) -> None:
        self._session = Session(settings)
        self._library = library if transport is None else library_of(transport)
        self._transport = transport
        self._wire: Wire | None = None
        self._lock = threading.Lock()
        self._aborts: list[threading.Thread] = []
        self._responses: WeakSet[DurableResponse] = WeakSet()

    def __repr__(self) -> str:
        return f"<DurableFetch through {self._session.settings.place.url}>"

    def __call__(
        self,
        url: str,
        *,
        method: str = "POST",
        headers: HeaderInput = None,
        content: Content = None,
        json: Json = None,
        request_id: str | None = None,
    ) -> DurableResponse:
        """Send this request to `url` through the proxy and answer with what the upstream answers.

        Everything given is aimed at the upstream: its `Authorization` travels as `Upstream-Authorization`. With a
        `request_id`, the same request under the same id is never sent twice while its answer has not been read to
        the end: it is resumed, also by another process that shares the storage. Another request under that id takes
        its place. Raises ProxyError, NetworkError, or ValueError for arguments that cannot be sent.
        """
        upstream = upstream_request(self.wire.library, url, method, headers, content, json)
        return self.perform(upstream, request_id, self._session.settings.timeouts)

    def perform(
        self, upstream: UpstreamRequest, request_id: str | None, timeouts: Timeouts, *, attempt: int | None = None
    ) -> DurableResponse:
        """The same for a request that is ready. `attempt`: as in `Session.call`."""
        call = self._session.call(upstream, request_id, timeouts=timeouts, attempt=attempt)
        if (delivery := call.resumption()) is not None:
            response = DurableResponse(self, delivery)
            if response.open():
                return self._held(response)
        asked = self._ask(call)
        return self._held(DurableResponse(self, asked if isinstance(asked, Answered) else call.created(asked)))

    def resume(self, request_id: str) -> DurableResponse | None:
        """The answer that is remembered under the id; None when none is, or its stream is gone. Asks no upstream."""
        delivery = self._session.kept(request_id)
        if delivery is None:
            return None
        response = DurableResponse(self, delivery)
        return self._held(response) if response.open() else None

    def abort(self, request_id: str) -> bool:
        """Stop the upstream call of the id and forget it; False when nothing is remembered under it."""
        delivery = self._session.kept(request_id)
        if delivery is None:
            return False
        self.send_abort(delivery.created.stream_url)
        delivery.finished()
        return True

    def remembers(self, request_id: str) -> bool:
        """Whether a stream is remembered under the id; that it is still there is not asked."""
        return self._session.kept(request_id) is not None

    def forget(self, request_id: str) -> None:
        """Remember nothing under the id; the upstream call goes on."""
        self._session.ledger.forget(request_id)

    def close(self) -> None:
        """Close what is unfinished, as its own close does, then the connections.

        Waits for aborts that are on their way, each bounded by its time-outs.
        """
        with self._lock:
            responses = list(self._responses)
        for response in responses:
            if response.unfinished:
                response.close()
        for thread in self._aborts:
            thread.join()
        if self._wire is not None:
            self._wire.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def wire(self) -> Wire:
        """The connections, made when first needed."""
        with self._lock:
            if self._wire is None:
                self._wire = Wire(self._library or installed_library(), self._transport)
            return self._wire

    def send_abort(self, stream_url: str) -> None:
        """Abort the stream of this signed URL. Raises ProxyError or NetworkError."""
        self.wire.settle(Aborting(stream_url, self._session.settings.retry))

    def abort_later(self, stream_url: str) -> None:
        """The same without waiting, and whatever comes of it: for a close, which may run in a finaliser."""
        self._aborts = [thread for thread in self._aborts if thread.is_alive()]
        self._aborts += in_thread(lambda: self.send_abort(stream_url))

    def _held(self, response: DurableResponse) -> DurableResponse:
        """The same, to be closed with this fetch unless it is forgotten before."""
        with self._lock:
            self._responses.add(response)
        return response

    def _ask(self, call: Call) -> Asked:
        try:
            plan: Plan[Asked] = call.creating()
            asked = self.wire.settle(plan)
        except DurableError as error:
            call.failed(error)
            raise
        if isinstance(asked, Answered):
            call.failed(None)
        return asked


def in_thread(abort: Callable[[], None]) -> list[threading.Thread]:
    """Have a thread do it, quietly; the thread, or none when the interpreter is ending."""

    def work() -> None:
        try:
            abort()
        except DurableError as error:
            logger.info("a response that was closed could not be aborted: %s", error)

    if sys.is_finalizing():  # a thread started now would never run, and whoever starts it waits for that
        return []
    thread = threading.Thread(target=work, name="durable-abort")
    with suppress(RuntimeError):  # what later Pythons say to the same
        thread.start()
        return [thread]
    return []


def create_abort(stream_url: str) -> Callable[[], None]:
    """A function that stops the upstream call behind `response.stream_url`; a stream that is gone is no error.

    Raises ValueError for a URL that is not absolute; the function raises ProxyError or NetworkError.
    """
    plan = Aborting(stream_url, Retry())

    def abort() -> None:
        wire = Wire(installed_library())
        try:
            wire.settle(plan)
        finally:
            wire.close()

    return abort
