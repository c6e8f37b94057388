"""Stopping an upstream call: one PATCH on the stream's signed URL, which may be repeated. Decides; a driver sends."""

from proxy.client.access import abort_url
from proxy.client.errors import Fault, NetworkError
from proxy.client.messages import Fields, Send, proxy_error
from proxy.client.options import Backoff, Retry, Timeouts

__all__ = ["Aborting"]


class Aborting:
    """One abort with its retries: a `Plan` whose result is whether the stream still existed.

    Raises ValueError when the URL is not absolute.
    """

    def __init__(self, stream_url: str, retry: Retry) -> None:
        self._send = Send("PATCH", abort_url(stream_url), (), Timeouts().for_abort())
        self._backoff = Backoff(retry, retry.creates)
        self.delay = 0.0

    def request(self) -> Send:
        """The PATCH."""
        return self._send

    def replied(self, status: int, headers: Fields, body: bytes) -> bool | None:
        """True: the stream is aborted, or had ended. False: there is no such stream. Raises ProxyError otherwise."""
        if status in (404, 410):
            return False
        if status >= 300:
            raise proxy_error(status, headers, body)
        return True

    def failed(self, error: NetworkError) -> None:
        """Note that no answer came. Raises `error` when no attempt is left, or the proxy had the request."""
        delay = None if error.fault is Fault.READ_TIMEOUT else self._backoff.failed()
        if delay is None:
            raise error
        self.delay = delay
