"""What is remembered under a request id: the request's fingerprint, its stream, how far the answer was read.

An entry is written before the create is sent, with the `Idempotency-Key`. After a crash it allows the same create to
be repeated without a second upstream call. It is completed when the stream is known, advanced as bytes are consumed,
and removed when the stream has been read to its end or no longer exists. When the storage fails, the answer is still
delivered but cannot be resumed.
"""

import json
import logging
import secrets
import threading
from dataclasses import asdict, dataclass, replace
from typing import Any
from urllib.parse import quote

from proxy.client.creating import Created, UpstreamRequest
from proxy.client.messages import Fields
from proxy.client.reading import START, Position
from proxy.client.storage import CredentialStorage

__all__ = ["CredentialEntries", "Credentials", "new_key"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What is stored under a request id.

    - `fingerprint`: of the request, to tell a repetition from another request under the same id.
    - `key`: the `Idempotency-Key` of the create. It also tells whose entry this is.
    - `stream_url`: None until the proxy has answered the create. `status`, `headers`: of the upstream's answer.
    - `offset`, `ahead`: the position up to which the answer was consumed, as in `Position`.
    """

    fingerprint: str
    key: str
    stream_url: str | None = None
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    offset: str = START.offset
    ahead: int = START.ahead

    def __repr__(self) -> str:
        return f"<Credentials {'pending' if self.stream_url is None else 'of a stream'}>"

    @property
    def position(self) -> Position:
        """How far the answer was consumed."""
        return Position(self.offset, self.ahead)

    @property
    def created(self) -> Created | None:
        """The stream; None until the proxy has answered the create."""
        if self.stream_url is None:
            return None
        return Created(self.stream_url, self.status, Fields(self.headers), replayed=True)


def new_key() -> str:
    """A fresh `Idempotency-Key`."""
    return secrets.token_urlsafe(24)


class CredentialEntries:
    """The entries of one proxy in one storage. Threads and processes may share the storage.

    A lock makes each change atomic within this process. Between processes the last write wins, so a change to a stored
    entry is made only when its key is the caller's own: a slow reader never touches a newer stream's entry.
    """

    def __init__(self, storage: CredentialStorage, prefix: str, proxy_url: str) -> None:
        self._storage = storage
        self._scope = f"{prefix}{proxy_url}:"
        self._lock = threading.Lock()

    def find(self, request_id: str) -> Credentials | None:
        """The entry of the id; None when there is none, or it cannot be read or understood."""
        try:
            text = self._storage.get(self._key(request_id))
        except Exception as error:
            logger.warning(
                "credentials could not be read: %s (an earlier answer cannot be resumed)", type(error).__name__
            )
            return None
        return _parsed(text) if text is not None else None

    def begin(self, request_id: str, upstream: UpstreamRequest) -> tuple[Credentials, bool]:
        """The entry of this request, and whether it is new. A new one replaces that of another request."""
        with self._lock:
            fingerprint = upstream.fingerprint
            kept = self.find(request_id)
            if kept is not None and kept.fingerprint == fingerprint:
                return kept, False
            fresh = Credentials(fingerprint, upstream.idempotency_key or new_key())
            self._write(request_id, fresh)
            return fresh, True

    def renew(self, request_id: str, upstream: UpstreamRequest) -> Credentials:
        """A new entry in place of the stored one, whose stream is not wanted or gone."""
        with self._lock:
            fresh = Credentials(upstream.fingerprint, upstream.idempotency_key or new_key())
            self._write(request_id, fresh)
            return fresh

    def complete(self, request_id: str, mine: Credentials, created: Created) -> Credentials:
        """Add the stream to the entry."""
        full = replace(mine, stream_url=created.stream_url, status=created.status, headers=created.headers.pairs)
        if not created.replayed:  # a stream of which nothing has been consumed
            full = replace(full, offset=START.offset, ahead=START.ahead)
        with self._lock:
            self._write(request_id, full)
        return full

    def advance(self, request_id: str, mine: Credentials, position: Position) -> None:
        """Note how far the answer was consumed, unless the entry was removed or belongs to another stream."""
        with self._lock:
            kept = self.find(request_id)
            if kept is not None and kept.key == mine.key and kept.position != position:
                self._write(request_id, replace(kept, offset=position.offset, ahead=position.ahead))

    def remove(self, request_id: str, mine: Credentials) -> None:
        """Remove the entry, unless it belongs to another stream."""
        with self._lock:
            kept = self.find(request_id)
            if kept is not None and kept.key == mine.key:
                self.forget(request_id)

    def forget(self, request_id: str) -> None:
        """Remove the entry of the id, whatever it is."""
        try:
            self._storage.delete(self._key(request_id))
        except Exception as error:
            logger.warning("credentials could not be removed: %s (they stay in the storage)", type(error).__name__)

    def _key(self, request_id: str) -> str:
        return self._scope + quote(request_id, safe="")

    def _write(self, request_id: str, credentials: Credentials) -> None:
        try:
            self._storage.set(self._key(request_id), json.dumps(asdict(credentials)))
        except Exception as error:
            logger.warning("credentials could not be stored: %s (the answer cannot be resumed)", type(error).__name__)


def _parsed(text: str) -> Credentials | None:
    try:
        told: dict[str, Any] = json.loads(text)
        headers = tuple((str(name), str(value)) for name, value in told.pop("headers"))
        kept = Credentials(**told, headers=headers)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    texts = isinstance(kept.fingerprint, str) and isinstance(kept.key, str) and isinstance(kept.offset, str)
    numbers = type(kept.status) is int and type(kept.ahead) is int and kept.ahead >= 0
    return kept if texts and numbers and isinstance(kept.stream_url, str | None) else None
