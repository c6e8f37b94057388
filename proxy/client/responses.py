"""The head of a durable response: status, headers, stream, and how far it was consumed. No I/O."""

import time
import warnings

from proxy.client.creating import Answered
from proxy.client.messages import Fields
from proxy.client.reading import Reading
from proxy.client.session import Delivery
from proxy.streams.names import Outcome

__all__ = ["DurableHead"]


class DurableHead:
    """An upstream's answer, read from a durable stream.

    - `status_code`, `headers`: the upstream's.
    - `stream_id`, `stream_url`: the stream. The URL is a credential: it opens the stream for reading and aborting. Both
      are None for an upstream's error, which has no stream: its body came with it.
    - `was_resumed`: whether the stream existed before this request.
    """

    def __init__(self, source: Delivery | Answered) -> None:
        self.status_code: int
        self.headers: Fields
        self.stream_id: str | None = None
        self.stream_url: str | None = None
        self.was_resumed = False
        self._delivery: Delivery | None = None
        self._reading: Reading | None = None
        self._answer = b""
        if isinstance(source, Answered):
            self.status_code = source.status
            self.headers = source.headers
            self._answer = source.content
            return
        self.status_code = source.created.status
        self.headers = source.created.headers
        self.stream_id = source.access.stream_id
        self.stream_url = source.created.stream_url
        self.was_resumed = source.created.replayed
        self._delivery = source
        self._reading = source.reading(time.monotonic())

    def __del__(self) -> None:
        """Warn about a response that was neither closed nor read to its end.

        A finaliser runs in any thread at any time, so it may not send an abort: the upstream call goes on.
        """
        if getattr(self, "_delivery", None) is not None and self.unfinished:
            warnings.warn(f"unclosed {self!r}: the upstream call goes on", ResourceWarning, stacklevel=2, source=self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.status_code} stream={self.stream_id} outcome={self.outcome}>"

    @property
    def offset(self) -> str | None:
        """A token for a place in the stream: every byte before it has been consumed. None without a stream."""
        return self._delivery.position.offset if self._delivery is not None else None

    @property
    def outcome(self) -> Outcome | None:
        """How the stream ended; None until the end is known."""
        return self._reading.outcome if self._reading is not None else None

    @property
    def unfinished(self) -> bool:
        """Whether it has been neither read to its end nor closed."""
        return self._delivery is not None and not self._delivery.over

    @property
    def _encoded(self) -> bool:
        return "content-encoding" in self.headers

    def _aborts_on_close(self) -> bool:
        return self._delivery is not None and self._delivery.aborts_on_close()
