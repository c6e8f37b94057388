"""Stopping an upstream call: one PATCH on the stream's signed URL, which may be repeated. Decides; a driver sends."""

from proxy.client.access import abort_url
from proxy.client.errors import NetworkError, NetworkFault, ProxyError
from proxy.client.messages import Fields, Send, proxy_error
from proxy.client.options import TRANSIENT_STATUSES, Backoff, Retry, Timeouts

__all__ = ["Aborting"]


class Aborting:
    """One abort with its retries: a `Plan` whose result is whether the stream still existed.

    Raises ValueError when the URL is not absolute.
    """

    def __init__(self, stream_url: str, retry: Retry) -> None:
        self._send = Send("PATCH", abort_url(stream_url), (), Timeouts().for_abort())
        self._backoff = Backoff(retry, retry.creates)
        self._longest = retry.max_delay
        self.delay = 0.0

    def request(self) -> Send:
        """The PATCH."""
        return self._send

    def replied(self, status: int, headers: Fields, body: bytes) -> bool | None:
        """True: the stream is aborted, or had ended. False: there is no such stream. Raises ProxyError otherwise.

        Only the proxy's own answers count: its 204, and its own error object. An answer from a server
        between the two is no answer, so the abort is sent again.
        """
        if status == 204:
            return True
        error = proxy_error(status, headers, body)
        if error.gone:
            return False
        if error.from_proxy and status not in TRANSIENT_STATUSES:
            raise error
        self._failed(error, error.retry_after)
        return None

    def failed(self, error: NetworkError) -> None:
        """Note that no answer came. Raises `error` when no attempt is left, or the proxy had the request."""
        if error.fault is NetworkFault.READ_TIMEOUT:
            raise error
        self._failed(error, None)

    def _failed(self, error: NetworkError | ProxyError, retry_after: float | None) -> None:
        delay = None
        if retry_after is None or retry_after <= self._longest:  # closing a fetch waits for its aborts
            delay = self._backoff.failed(retry_after)
        if delay is None:
            raise error
        self.delay = delay
