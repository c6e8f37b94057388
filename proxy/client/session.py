"""One logical request from question to last byte, free of I/O: what is resumed, what is asked anew, what is kept.

`Session` is what a durable fetch is made of besides its connections. `Call` is one request; `Delivery` is the stream
that answers it: its place in the ledger, and what closing it early means. Drivers wait and send.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from proxy.client.access import Access, Place
from proxy.client.creating import Created, Creating, UpstreamRequest
from proxy.client.credentials import Credentials, Ledger, new_key
from proxy.client.errors import DurableError, Fault, IncompleteStream, NetworkError, ProxyError
from proxy.client.options import LOST_ATTEMPTS, TAIL_BYTES, OnClose, Retry, Timeouts
from proxy.client.reading import START, Position, Reading
from proxy.client.storage import Storage

__all__ = ["Call", "Delivery", "Session", "Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a caller chooses once; the meaning of each is told by `create_durable_fetch`."""

    place: Place
    storage: Storage
    storage_prefix: str
    auto_resume: bool
    resume_from: Literal["start", "offset"]
    on_close: OnClose
    retry: Retry
    timeouts: Timeouts

    def __post_init__(self) -> None:
        if self.resume_from not in ("start", "offset"):
            raise ValueError("resume_from must be start or offset")


class Session:
    """The settings, the ledger, and the keys of requests whose answer was lost."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.ledger = Ledger(settings.storage, settings.storage_prefix, settings.place.url)
        self._lost: OrderedDict[str, str] = OrderedDict()  # the fingerprint of each key
        self._lock = threading.Lock()

    def call(
        self, upstream: UpstreamRequest, request_id: str | None, *, timeouts: Timeouts, attempt: int | None
    ) -> "Call":
        """`attempt`: how often the caller, who repeats what fails, has tried before; None for one who does not."""
        repeats = attempt is not None
        if request_id is not None:
            credentials = self.ledger.begin(request_id, upstream)
            return Call(self, upstream, request_id, credentials, timeouts, repeats=repeats)
        lost = self._take_lost(upstream.fingerprint) if attempt else None
        credentials = Credentials(upstream.fingerprint, upstream.idempotency_key or lost or new_key())
        return Call(self, upstream, None, credentials, timeouts, repeats=repeats)

    def kept(self, request_id: str) -> "Delivery | None":
        """The stream that is remembered under the id, ready to be read on."""
        credentials = self.ledger.find(request_id)
        if credentials is None or credentials.created is None:
            return None
        return Delivery(self, credentials.created, request_id, credentials, self.settings.timeouts, repeats=False)

    def remember_lost(self, credentials: Credentials) -> None:
        """The answer got lost on the way: who asks the same again, as a retry, gets the same stream."""
        with self._lock:
            self._lost[credentials.key] = credentials.fingerprint
            self._lost.move_to_end(credentials.key)
            while len(self._lost) > LOST_ATTEMPTS:
                self._lost.popitem(last=False)

    def _take_lost(self, fingerprint: str) -> str | None:
        """The latest key of this question, for one retry only: questions alike may be lost at the same time."""
        with self._lock:
            key = next((key for key, asked in reversed(self._lost.items()) if asked == fingerprint), None)
            if key is not None:
                del self._lost[key]
            return key


class Call:
    """One request: perhaps answered before, else to be asked."""

    def __init__(
        self,
        session: Session,
        upstream: UpstreamRequest,
        request_id: str | None,
        credentials: Credentials,
        timeouts: Timeouts,
        *,
        repeats: bool,
    ) -> None:
        self._session = session
        self._upstream = upstream
        self._request_id = request_id
        self._credentials = credentials
        self._timeouts = timeouts
        self._repeats = repeats

    def resumption(self) -> "Delivery | None":
        """The stream that answered this very question before, if there is one and the caller wants it."""
        created = self._credentials.created
        if created is None or not self._session.settings.auto_resume:
            return None
        return self._delivery(created)

    def creating(self) -> Creating:
        """The create of this question; a stream that answered it before is put out of mind."""
        if self._credentials.stream_url is not None and self._request_id is not None:
            self._credentials = self._session.ledger.renew(self._request_id, self._upstream)
        settings = self._session.settings
        return Creating(settings.place, self._upstream, self._credentials.key, settings.retry, self._timeouts)

    def created(self, created: Created) -> "Delivery":
        """The stream is there: remember it before anything else."""
        if self._request_id is not None:
            self._credentials = self._session.ledger.complete(self._request_id, self._credentials, created)
        return self._delivery(created)

    def failed(self, error: DurableError | None) -> None:
        """There is no stream; None: an upstream's own error. When nobody can know, the key is kept for a retry."""
        lost = isinstance(error, NetworkError) and error.fault is not Fault.REQUEST
        unknown = lost or (isinstance(error, ProxyError) and error.code.startswith("HTTP_5"))
        if unknown and self._request_id is None:
            self._session.remember_lost(self._credentials)
        if not unknown and self._request_id is not None:
            self._session.ledger.remove(self._request_id, self._credentials)

    def _delivery(self, created: Created) -> "Delivery":
        return Delivery(
            self._session, created, self._request_id, self._credentials, self._timeouts, repeats=self._repeats
        )


class Delivery:
    """A stream on its way to the caller."""

    def __init__(
        self,
        session: Session,
        created: Created,
        request_id: str | None,
        credentials: Credentials,
        timeouts: Timeouts,
        *,
        repeats: bool,
    ) -> None:
        self._session = session
        self._request_id = request_id
        self._credentials = credentials
        self._timeouts = timeouts
        streamed = created.headers.get("content-type", "").lower().startswith("text/event-stream")
        self._repeats = repeats and not streamed  # who is handed a stream has his answer, and asks no more
        self._tail = b""
        self.over = False  # nothing is left to close
        self.created = created
        self.access = Access(session.settings.place, created.stream_url)
        self.position = START  # before which every byte has been consumed

    def __repr__(self) -> str:
        return f"<Delivery {self.access.stream_id}>"

    def reading(self, now: float) -> Reading:
        """The read loop: from the start, or from where the caller stopped if he wants to go on there.

        What is encoded is always read from the start: a decoder cannot begin in the middle.
        """
        settings = self._session.settings
        go_on = settings.resume_from == "offset" and "content-encoding" not in self.created.headers
        position = self._credentials.position if go_on else START
        self.position = position
        return Reading(
            self.access,
            position,
            retry=settings.retry,
            timeouts=self._timeouts,
            catch_up=self.created.replayed,
            now=now,
        )

    def took(self, piece: bytes) -> None:
        """The caller gets these bytes now."""
        self._tail = (self._tail + piece[-TAIL_BYTES:])[-TAIL_BYTES:]

    def consumed(self, position: Position) -> None:
        """The caller asks for more, and so has done with all up to here."""
        if position != self.position:
            self.position = position
            if self._request_id is not None:
                self._session.ledger.advance(self._request_id, self._credentials, position)

    def finished(self) -> None:
        """The stream has been read to its end, whatever that was, or is gone: nobody needs to find it again."""
        self.over = True
        if self._request_id is not None:
            self._session.ledger.remove(self._request_id, self._credentials)

    def failed(self, error: DurableError) -> None:
        """Reading has ended with an error that the caller sees: after some, another attempt can still have it all.

        A caller who repeats what fails finds it again, and closes nothing for good; any other's close still decides.
        """
        if isinstance(error, IncompleteStream) or (isinstance(error, ProxyError) and error.gone):
            self.finished()
        elif self._repeats:
            self.over = True
            if self._request_id is None:
                self._session.remember_lost(self._credentials)

    def aborts_on_close(self) -> bool:
        """The caller closes: whether the upstream call is to be aborted. True once at most.

        Who has seen `data: [DONE]` has seen all, though the stream's end may not have come: that is never aborted.
        """
        if self.over:
            return False
        if self._tail.rstrip().endswith((b"data: [DONE]", b"data:[DONE]")):
            self.finished()
            return False
        self.over = True
        on_close = self._session.settings.on_close
        abort = on_close is OnClose.ABORT or (on_close is OnClose.AUTO and self._request_id is None)
        if abort:
            self.finished()
        return abort
