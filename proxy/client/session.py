"""One request from the first attempt to the last byte, without I/O: what is resumed, asked again and remembered.

A `Session` is a durable fetch without its connections. A `FetchCall` is one request. A `Delivery` is the stream that
answers it, with its stored entry and what closing it early means. Drivers wait and send.

When credentials are forgotten. An entry is the only way back to an answer that has been paid for, so it is removed only
when nobody can need it: the answer was read to its end, the caller aborted it, or the proxy itself said that the stream
does not exist. An entry whose create was not answered holds a key, and there may be a stream under that key. Such an
entry is removed only when this call made the key and every attempt was answered by the proxy itself, without a stream.
Nothing that a gateway, a firewall or another server answers removes an entry.
"""

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Literal

from proxy.client.access import Place, StreamAccess
from proxy.client.creating import Created, Creating, UpstreamRequest
from proxy.client.credentials import CredentialEntries, Credentials, new_key
from proxy.client.decoding import BodyEnd
from proxy.client.errors import DurableError, IncompleteStream, ProxyError
from proxy.client.options import LOST_ATTEMPTS, OnClose, Retry, Timeouts
from proxy.client.reading import START, Position, Reading
from proxy.client.storage import CredentialStorage

__all__ = ["Delivery", "FetchCall", "Session", "Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a caller chooses once for a durable fetch; `create_durable_fetch` documents each option.

    Raises ValueError when `resume_from` is not one of its values.
    """

    place: Place
    storage: CredentialStorage
    storage_prefix: str
    auto_resume: bool
    resume_from: Literal["start", "offset"]
    on_close: OnClose
    retry: Retry
    timeouts: Timeouts

    def __post_init__(self) -> None:
        if self.resume_from not in ("start", "offset"):
            raise ValueError("resume_from must be start or offset")


@dataclass(frozen=True, slots=True)
class _Terms:
    """What belongs to one call: its request id (or None), its time-outs, and whether its caller repeats failures."""

    request_id: str | None
    timeouts: Timeouts
    repeats: bool


class Session:
    """The settings, the stored entries, and the keys of requests whose answer was lost.

    An SDK repeats a failed request without saying which one it repeats, and without a request id. So the key of a
    request whose answer was lost is kept by fingerprint: a retry of the same request takes it, and gets the stream that
    the lost answer was about instead of a second upstream call.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.entries = CredentialEntries(settings.storage, settings.storage_prefix, settings.place.url)
        self._lost: OrderedDict[str, str] = OrderedDict()  # fingerprints by key, the latest loss last
        self._lock = threading.Lock()

    def call(
        self, upstream: UpstreamRequest, request_id: str | None, *, timeouts: Timeouts, attempt: int | None
    ) -> "FetchCall":
        """The call for a request. `attempt`: as in `DurableFetch.perform`."""
        terms = _Terms(request_id, timeouts, repeats=attempt is not None)
        if request_id is not None:
            credentials, is_new = self.entries.begin(request_id, upstream)
            return FetchCall(self, upstream, credentials, terms, is_new=is_new)
        lost = self._take_lost(upstream.fingerprint) if attempt else None
        credentials = Credentials(upstream.fingerprint, upstream.idempotency_key or lost or new_key())
        return FetchCall(self, upstream, credentials, terms, is_new=lost is None)

    def kept(self, request_id: str) -> "Delivery | None":
        """The stream that is remembered under the id, to be read from there; None when there is none."""
        credentials = self.entries.find(request_id)
        if credentials is None or credentials.created is None:
            return None
        return Delivery(
            self, credentials.created, credentials, _Terms(request_id, self.settings.timeouts, repeats=False)
        )

    def remember_lost(self, credentials: Credentials) -> None:
        """Keep the key of a request whose answer was lost, for a retry of it."""
        with self._lock:
            self._lost[credentials.key] = credentials.fingerprint
            self._lost.move_to_end(credentials.key)
            while len(self._lost) > LOST_ATTEMPTS:
                self._lost.popitem(last=False)

    def _take_lost(self, fingerprint: str) -> str | None:
        """The latest lost key of this request, taken out: each is for one retry, and equal requests may be lost too."""
        with self._lock:
            key = next((key for key, asked in reversed(self._lost.items()) if asked == fingerprint), None)
            if key is not None:
                del self._lost[key]
            return key


class FetchCall:
    """One request: answered by a stream that it already has, or to be asked."""

    def __init__(
        self, session: Session, upstream: UpstreamRequest, credentials: Credentials, terms: _Terms, *, is_new: bool
    ) -> None:
        self._session = session
        self._upstream = upstream
        self._credentials = credentials
        self._terms = terms
        self._is_new = is_new  # no earlier attempt can have made a stream under the key
        self._creating: Creating | None = None

    def resumption(self) -> "Delivery | None":
        """The stream that this request already has; None when there is none, or the caller does not want it."""
        created = self._credentials.created
        if created is None or not self._session.settings.auto_resume:
            return None
        return self._delivery(created)

    def creating(self) -> Creating:
        """The create for this request. A stream that it had before is forgotten."""
        if self._credentials.stream_url is not None and self._terms.request_id is not None:
            self._credentials = self._session.entries.renew(self._terms.request_id, self._upstream)
            self._is_new = True
        place, retry = self._session.settings.place, self._session.settings.retry
        self._creating = Creating(place, self._upstream, self._credentials.key, retry, self._terms.timeouts)
        return self._creating

    def needs_fresh_url(self) -> None:
        """Note that the stream's URL has expired and the caller's secret does not open the stream.

        The create is then sent under the same key, and the proxy answers it with a fresh URL of the same stream.
        """
        self._credentials = replace(self._credentials, stream_url=None)

    def created(self, created: Created) -> "Delivery":
        """The stream that the create was answered with. It is remembered before anything else happens."""
        if self._terms.request_id is not None:
            self._credentials = self._session.entries.complete(self._terms.request_id, self._credentials, created)
        return self._delivery(created)

    def failed(self, error: DurableError | None) -> None:
        """Note that the create brought no stream; None stands for the upstream's own error, which frees the key.

        When there may be a stream under the key, the key is kept for a repetition of the request.
        """
        tried = self._creating is not None and self._creating.leaves_open
        leaves_open = error is not None and (tried or not self._is_new)
        if leaves_open and self._terms.request_id is None:
            self._session.remember_lost(self._credentials)
        if not leaves_open and self._terms.request_id is not None:
            self._session.entries.remove(self._terms.request_id, self._credentials)

    def _delivery(self, created: Created) -> "Delivery":
        return Delivery(self._session, created, self._credentials, self._terms)


class Delivery:
    """A stream on its way to the caller."""

    def __init__(self, session: Session, created: Created, credentials: Credentials, terms: _Terms) -> None:
        self._session = session
        self._request_id = terms.request_id
        self._credentials = credentials
        self._timeouts = terms.timeouts
        streamed = created.headers.get("content-type", "").lower().startswith("text/event-stream")
        self._repeats = terms.repeats and not streamed  # an SDK that was handed a stream does not ask again
        self._end = BodyEnd(created.headers.get("content-encoding"))
        self.over = False  # nothing is left to close
        self.created = created
        self.access = StreamAccess(session.settings.place, created.stream_url)
        self.position = START  # every byte before it has been consumed

    def __repr__(self) -> str:
        return f"<Delivery {self.access.stream_id}>"

    def reading(self, now: float) -> Reading:
        """The read loop: from the start, or from where the caller stopped when `resume_from` is "offset".

        A body with a content coding is read from the start in either case: a decoder cannot begin in its middle.
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
        """Note that the caller is about to get these bytes."""
        self._end.add(piece)

    def consumed(self, position: Position) -> None:
        """Note that the caller asked for more, so everything before `position` has been consumed."""
        if position != self.position:
            self.position = position
            if self._request_id is not None:
                self._session.entries.advance(self._request_id, self._credentials, position)

    def finished(self) -> None:
        """Forget the stream: it was read to its end, or aborted, or no longer exists."""
        self.over = True
        if self._request_id is not None:
            self._session.entries.remove(self._request_id, self._credentials)

    def failed(self, error: DurableError) -> None:
        """Note that reading ended with an error that the caller sees.

        Unless the stream is gone, another attempt can still read all of it. For a caller that repeats failures the
        stream stays, so its close aborts nothing. For any other caller the close decides as usual.
        """
        if isinstance(error, IncompleteStream) or (isinstance(error, ProxyError) and error.gone):
            self.finished()
        elif self._repeats:
            self.over = True
            if self._request_id is None:
                self._session.remember_lost(self._credentials)

    def aborts_on_close(self) -> bool:
        """Whether a close now has to abort the upstream call. True at most once.

        A caller that has seen `data: [DONE]` has the whole answer, although the stream may not have ended yet: then
        nothing is aborted. The openai SDK closes at that point.
        """
        if self.over:
            return False
        if self._end.says_done:
            self.finished()
            return False
        self.over = True
        on_close = self._session.settings.on_close
        abort = on_close is OnClose.ABORT or (on_close is OnClose.AUTO and self._request_id is None)
        if abort:
            self.finished()
        return abort
