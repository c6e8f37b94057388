"""What is remembered of a request that has an id: which question it was, its stream, how far the answer was read.

Written before the proxy is asked (with the key that makes a second asking harmless), completed when the stream is
there, advanced as bytes are consumed, removed when the stream is done, expired or gone. A storage that fails costs
the memory, never the answer.
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
from proxy.client.storage import Storage

__all__ = ["Credentials", "Ledger", "new_key"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What is kept under a request id. `stream_url` is None while the proxy's answer is not known."""

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
        """The stream, as if the proxy had just told of it."""
        if self.stream_url is None:
            return None
        return Created(self.stream_url, self.status, Fields(self.headers), replayed=True)


def new_key() -> str:
    """An `Idempotency-Key` that nobody has used."""
    return secrets.token_urlsafe(24)


class Ledger:
    """The credentials of one proxy in one storage."""

    def __init__(self, storage: Storage, prefix: str, proxy_url: str) -> None:
        self._storage = storage
        self._scope = f"{prefix}{proxy_url}:"
        self._lock = threading.Lock()

    def find(self, request_id: str) -> Credentials | None:
        """What is kept under the id; None too when it cannot be read or understood."""
        try:
            text = self._storage.get(self._key(request_id))
        except Exception as error:
            logger.warning("the credentials' storage could not be read: %s", type(error).__name__)
            return None
        return _parsed(text) if text is not None else None

    def begin(self, request_id: str, upstream: UpstreamRequest) -> Credentials:
        """The credentials of this question: those kept, or new ones when none are, or another question's."""
        with self._lock:
            fingerprint = upstream.fingerprint
            kept = self.find(request_id)
            if kept is not None and kept.fingerprint == fingerprint:
                return kept
            fresh = Credentials(fingerprint, upstream.idempotency_key or new_key())
            self._write(request_id, fresh)
            return fresh

    def renew(self, request_id: str, upstream: UpstreamRequest) -> Credentials:
        """New credentials in place of those kept: the old stream is of no use."""
        with self._lock:
            fresh = Credentials(upstream.fingerprint, upstream.idempotency_key or new_key())
            self._write(request_id, fresh)
            return fresh

    def complete(self, request_id: str, mine: Credentials, created: Created) -> Credentials:
        """The stream is there."""
        full = replace(mine, stream_url=created.stream_url, status=created.status, headers=created.headers.pairs)
        with self._lock:
            self._write(request_id, full)
        return full

    def advance(self, request_id: str, mine: Credentials, position: Position) -> None:
        """So far the answer was consumed; nothing happens when the id has gone to another stream or was removed."""
        with self._lock:
            kept = self.find(request_id)
            if kept is not None and kept.key == mine.key and kept.position != position:
                self._write(request_id, replace(kept, offset=position.offset, ahead=position.ahead))

    def remove(self, request_id: str, mine: Credentials) -> None:
        """Done with this stream; another's credentials under the same id stay."""
        with self._lock:
            kept = self.find(request_id)
            if kept is not None and kept.key == mine.key:
                self.forget(request_id)

    def forget(self, request_id: str) -> None:
        """Remove whatever is kept under the id."""
        try:
            self._storage.delete(self._key(request_id))
        except Exception as error:
            logger.warning("the credentials' storage could not be cleared: %s", type(error).__name__)

    def _key(self, request_id: str) -> str:
        return self._scope + quote(request_id, safe="")

    def _write(self, request_id: str, credentials: Credentials) -> None:
        try:
            self._storage.set(self._key(request_id), json.dumps(asdict(credentials)))
        except Exception as error:
            logger.warning("no resume later: the credentials could not be stored: %s", type(error).__name__)


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
