"""The read loop without I/O: which request to send next, which bytes are new, when and how the stream ends.

How reading goes on at the exact byte. An offset is an opaque token, and tokens stand only between appends. When a
connection is cut in the middle of an append, no token names that place. So a position is a token and the number of
bytes beyond it that have been delivered: the next read starts at the token, and that many of its bytes are dropped.
This is right because a stream only grows: the bytes after a token never change.

A driver waits `delay` seconds, sends `request`, and passes on what comes: the head to `head`, pieces of the body to
`receive`, the body's end to `ended`, a failure to `lost`, an answer that `head` did not accept to `refused`. It repeats
this until `outcome` is set.

Why SSE gives way to long-poll. Some networks hold back or cut a response that does not end: a virus scanner collects
it, a gateway times it out. Then a live read brings no event, however often it is repeated, although plain responses
pass. So after SSE_ATTEMPTS live reads in a row without one event, this reader waits by long-poll.

There is no clock here: `now` is the time in seconds of any monotonic clock.
"""

import binascii
import json
from base64 import b64decode
from dataclasses import dataclass

from proxy.client.access import StreamAccess
from proxy.client.errors import INVALID_RESPONSE, IncompleteStream, NetworkError, NetworkFault, ProxyError
from proxy.client.events import Event, EventDecoder, EventTooLarge
from proxy.client.messages import Fields, Send, proxy_error
from proxy.client.options import (
    EVENT_BYTES,
    SILENCE_SECONDS,
    SSE_ATTEMPTS,
    SSE_SILENCE_SECONDS,
    TRANSIENT_STATUSES,
    Backoff,
    Live,
    Retry,
    Timeouts,
)
from proxy.streams.names import Outcome

__all__ = ["START", "Position", "Reading"]


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a stream: `ahead` bytes beyond one of the server's offset tokens."""

    offset: str
    ahead: int


START = Position("-1", 0)

# These say nothing about how responses are buffered on the way.
_UNCONNECTED = frozenset({NetworkFault.CONNECT, NetworkFault.CONNECT_TIMEOUT, NetworkFault.POOL_TIMEOUT})


@dataclass(frozen=True, slots=True)
class _Plain:
    """What the head of a catch-up or long-poll answer says about the stream behind its body."""

    offset: str
    up_to_date: bool
    closed: bool
    outcome: str | None


class Reading:
    """Reads one stream from a position to its end.

    - `catch_up`: read what the stream already holds by plain reads, then follow it live. A stream that was just created
      is followed live at once.
    - `timeouts.data`: the longest wait for a new byte; after it NetworkError (READ_TIMEOUT) is raised.
    - `now`: the time; waiting for the first byte begins here.
    """

    def __init__(
        self, access: StreamAccess, position: Position, *, retry: Retry, timeouts: Timeouts, catch_up: bool, now: float
    ) -> None:
        self._access = access
        self._offset = position.offset
        self._ahead = position.ahead
        self._backoff = Backoff(retry, retry.reads)
        self._patience = timeouts.data
        self._timeouts = timeouts
        self._live = retry.live
        self._prefers_sse = retry.live is Live.SSE
        self._is_unframed = False  # plain bodies end with their connection, so they cannot be used
        self._catch_up = catch_up
        self._cursor: str | None = None
        self._since = now  # when the wait for the next byte began
        self._seen = 0  # bytes of this answer after the token
        self._spoke = False  # this answer held an event
        self._fruitless = 0  # live reads by SSE in a row that brought no event
        self._brought = False  # this answer held a new byte
        self._plain: _Plain | None = None
        self._events: EventDecoder | None = None
        self._closed_without_outcome = False
        self._broken: NetworkError | ProxyError | None = None  # to be raised after the bytes that were just handed out
        self.delay = 0.0
        self.bytes_read = 0
        self.outcome: Outcome | None = None

    @property
    def position(self) -> Position:
        """The place of the next byte to be delivered."""
        return Position(self._offset, self._ahead)

    def request(self, now: float) -> Send:
        """The next read. Drops what was kept of the answer before."""
        self._seen = 0
        self._spoke = self._brought = False
        self._plain = self._events = self._broken = None
        self.delay = 0.0
        query = [("offset", self._offset)]
        if not self._catch_up:
            query.append(("live", self._live.value))
            if self._cursor is not None:
                query.append(("cursor", self._cursor))
        silence = SSE_SILENCE_SECONDS if self._waits_by_sse else SILENCE_SECONDS
        timeouts = self._timeouts.for_reading(now - self._since, silence)
        return Send("GET", self._access.url(query), self._access.headers(), timeouts)

    def head(self, status: int, headers: Fields, *, framed: bool) -> bool:
        """Whether the body belongs to the stream. If not, the answer goes to `refused`, an error with its body.

        `framed`: the body's end can be told from a connection that was cut.
        """
        if status == 200 and self._waits_by_sse:
            if headers.get("stream-sse-data-encoding") != "base64":
                return False  # not of the stream, or events in text form, which do not carry every byte unchanged
            self._events = EventDecoder(EVENT_BYTES)
        elif status in (200, 204):
            offset = headers.get("stream-next-offset")
            if offset is None or not framed:
                return False
            closed = headers.get("stream-closed") == "true"
            up_to_date = closed or headers.get("stream-up-to-date") == "true"
            self._plain = _Plain(offset, up_to_date, closed, headers.get("upstream-outcome"))
            self._cursor = headers.get("stream-cursor", self._cursor)
        else:
            return False
        return True

    @property
    def _waits_by_sse(self) -> bool:
        return self._live is Live.SSE and not self._catch_up

    @property
    def satisfied(self) -> bool:
        """Whether the rest of this body is of no interest, so that the driver calls `ended` before its end."""
        return self._events is not None and (self.outcome is not None or self._closed_without_outcome)

    def refused(self, status: int, headers: Fields, body: bytes, now: float) -> None:
        """Note an answer that `head` did not accept. Raises ProxyError when asking again cannot help.

        What the proxy itself says can be final. An answer from something between (a gateway's page, a firewall's 403)
        says nothing about the stream, whatever its status, so the read is repeated.
        """
        if status in (200, 204) and self._is_unusable(headers):
            return
        error = proxy_error(status, headers, body)
        if error.code.startswith("SIGNATURE_") and self._access.fall_back():
            return
        if error.code == "INVALID_REQUEST" and self._waits_by_sse:
            self._live = Live.LONG_POLL
            return
        if error.from_proxy and status not in TRANSIENT_STATUSES:
            raise error
        if not error.from_proxy:
            self._count_fruitless()
        self._failed(error, now, error.retry_after)

    def receive(self, data: bytes, now: float) -> bytes:
        """The bytes in `data` that belong to the stream and were not delivered before; often none."""
        fresh = self._fresh(data) if self._events is None else self._live_bytes(self._events, data)
        if fresh:
            self._since = now
            self._brought = True
            self.bytes_read += len(fresh)
            self._backoff.progressed()
        else:
            self._check(now)
        return fresh

    def consumed(self, now: float) -> None:
        """Note that the caller asks for more: the wait for the next byte begins now, not when the last one arrived."""
        self._since = now

    def ended(self, now: float) -> None:
        """Note that the body ended as its framing promised, or that it is `satisfied`."""
        self._raise_broken()
        if self._plain is not None:
            self._end_plain(self._plain)
        elif not self.satisfied and not self._spoke:
            self._count_fruitless()
            self._failed(NetworkError(NetworkFault.PROTOCOL, "a live read ended without an event"), now)
        elif not self.satisfied and not self._brought:
            self.delay = self._backoff.pause()
        if self.outcome is None:
            self._check(now)

    def lost(self, error: NetworkError, now: float) -> None:
        """Note that no answer came, or that it was cut. Raises `error` when no attempt or no time is left."""
        if self.outcome is not None:
            return  # the closing event had arrived before: nothing was lost
        if error.fault is NetworkFault.READ_TIMEOUT:
            self._check(now)
        if error.fault not in _UNCONNECTED:
            self._count_fruitless()
        self._failed(error, now)

    def _count_fruitless(self) -> None:
        """Note that the present read failed; by SSE without one event, it may be the network that stops events."""
        if not self._waits_by_sse or self._spoke or self._is_unframed:
            return
        self._fruitless += 1
        if self._fruitless >= SSE_ATTEMPTS:
            self._live = Live.LONG_POLL

    def verdict(self) -> None:
        """Raise IncompleteStream unless the stream ended as whole."""
        if self.outcome is not None and self.outcome is not Outcome.COMPLETE:
            raise IncompleteStream(self.outcome, self.bytes_read)

    def _fresh(self, payload: bytes) -> bytes:
        """The part of `payload` that was not delivered before; `payload` follows what this answer brought so far."""
        self._seen += len(payload)
        new = self._seen - self._ahead
        if new <= 0:
            return b""
        self._ahead = self._seen
        return payload if new == len(payload) else payload[-new:]

    def _advance(self, offset: str) -> None:
        """Move to a token that stands right after everything that this answer brought so far."""
        self._ahead -= min(self._ahead, self._seen)
        self._seen = 0
        if offset != self._offset:
            self._offset = offset
            self._backoff.progressed()

    def _live_bytes(self, events: EventDecoder, data: bytes) -> bytes:
        """The new bytes in the events that `data` completes. An error in one is raised after those before it."""
        self._raise_broken()
        fresh: list[bytes] = []
        try:
            for event in events.feed(data):
                fresh.append(self._event(event))
        except EventTooLarge:
            self._live = Live.LONG_POLL
            self._broken = NetworkError(NetworkFault.PROTOCOL, "an event was larger than the client holds")
        except (NetworkError, ProxyError) as error:
            self._broken = error
        if not any(fresh):
            self._raise_broken()
        return b"".join(fresh)

    def _raise_broken(self) -> None:
        broken, self._broken = self._broken, None
        if broken is not None:
            raise broken

    def _event(self, event: Event) -> bytes:
        if event.name == b"data":
            self._spoke, self._fruitless = True, 0
            try:
                return self._fresh(b64decode(event.data.replace(b"\n", b""), validate=True))
            except binascii.Error:
                raise _broken("a data event was not base64") from None
        if event.name == b"control":
            self._spoke, self._fruitless = True, 0
            self._control(event.data)
        return b""

    def _control(self, data: bytes) -> None:
        try:
            told = json.loads(data)
            offset = told["streamNextOffset"]
        except (ValueError, LookupError, TypeError, RecursionError):
            raise _broken("a control event was not valid") from None
        if not isinstance(offset, str):
            raise _broken("an offset was not a string")
        self._advance(offset)
        self._backoff.progressed()  # the stream exists; it has no new bytes
        cursor = told.get("streamCursor")
        self._cursor = cursor if isinstance(cursor, str) else self._cursor
        if told.get("streamClosed") is True:
            self._close(told.get("upstreamOutcome"))

    def _end_plain(self, plain: _Plain) -> None:
        moved = plain.offset != self._offset
        self._advance(plain.offset)
        if plain.closed:
            self._close(plain.outcome)
        elif self._catch_up:
            self._catch_up = moved and not plain.up_to_date
        else:
            self._backoff.progressed()
            self.delay = 0.0 if moved else self._backoff.pause()

    def _close(self, outcome: object) -> None:
        if self._ahead:
            raise ProxyError(INVALID_RESPONSE, "the stream is shorter than before", status=200)
        if outcome is None and self._plain is None and not self._closed_without_outcome:
            # The closing event may lack the outcome. Then the head of a plain read at the end has it, if it is known.
            self._closed_without_outcome = self._catch_up = True
            return
        try:
            self.outcome = Outcome.COMPLETE if outcome is None else Outcome(outcome)
        except ValueError:
            raise ProxyError(INVALID_RESPONSE, "the stream's outcome is unknown to this client", status=200) from None

    def _is_unusable(self, headers: Fields) -> bool:
        """Whether a success came from the stream in a form that cannot be used. Then another way of reading is next."""
        if self._waits_by_sse:
            is_text = headers.get("content-type", "").lower().startswith("text/event-stream")
            if is_text and not self._is_unframed:
                self._live = Live.LONG_POLL
                return True
        elif "stream-next-offset" in headers and self._prefers_sse and (self._catch_up or not self._is_unframed):
            # An event marks its own end, so a body of events that is cut cannot pass for a whole one.
            self._is_unframed, self._live, self._catch_up = True, Live.SSE, False
            return True
        return False

    def _failed(self, error: NetworkError | ProxyError, now: float, retry_after: float | None = None) -> None:
        delay = self._backoff.failed(retry_after)
        if delay is None:
            raise error
        self._check(now)
        self.delay = delay if self._patience is None else min(delay, self._since + self._patience - now)

    def _check(self, now: float) -> None:
        if self._patience is not None and now - self._since >= self._patience:
            raise NetworkError(NetworkFault.READ_TIMEOUT, "no new byte of the answer arrived in time")


def _broken(detail: str) -> NetworkError:
    """The error for bytes that break the protocol. It is retried, as a lost connection is."""
    return NetworkError(NetworkFault.PROTOCOL, detail)
