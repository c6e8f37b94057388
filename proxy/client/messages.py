"""Messages to and from the proxy, without an HTTP library: header fields, requests, the proxy's error body."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Protocol, TypeVar

from proxy.client.errors import NetworkError, ProxyError
from proxy.client.options import Timeouts

__all__ = ["Fields", "Pairs", "Plan", "Send", "proxy_error", "retry_after"]

Pairs = Iterable[tuple[str, str]]

_CODE = re.compile(r"(?!HTTP_|INVALID_RESPONSE$)[A-Z][A-Z0-9_]{0,63}")  # those two are the client's own
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


class Fields(Mapping[str, str]):
    """Header fields. A look-up ignores case and joins repeated fields by a comma. The repr shows the names only.

    Values are bytes decoded as Latin-1, so that any value can be sent on unchanged.
    """

    def __init__(self, pairs: Pairs = ()) -> None:
        self._pairs = tuple(pairs)
        self._values: dict[str, str] = {}
        for name, value in self._pairs:
            key = name.lower()
            self._values[key] = f"{self._values[key]}, {value}" if key in self._values else value

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def __repr__(self) -> str:
        return f"<Fields {', '.join(self._values)}>"

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Every field as given, in order."""
        return self._pairs


@dataclass(frozen=True, slots=True)
class Send:
    """A request to the proxy. The repr shows the method only, because everything else may hold a credential."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    timeouts: Timeouts
    content: bytes = b""

    def __repr__(self) -> str:
        return f"<Send {self.method}>"


T_co = TypeVar("T_co", covariant=True)


class Plan(Protocol[T_co]):
    """A request that is sent until its answer is understood.

    A driver waits `delay` seconds, sends `request`, and passes the answer to `replied` or the loss to `failed`. It
    repeats this until `replied` returns a result, or one of the two raises.
    """

    @property
    def delay(self) -> float:
        """Seconds to wait before the next sending."""

    def request(self) -> Send:
        """The request to send now."""

    def replied(self, status: int, headers: Fields, body: bytes) -> T_co | None:
        """The result; None to send again. Raises ProxyError when the answer is a refusal."""

    def failed(self, error: NetworkError) -> None:
        """Note that no answer came. Raises `error` when the request is not to be sent again."""


def retry_after(headers: Fields) -> float | None:
    """Seconds to wait by the field `Retry-After`, a number or a date (RFC 9110 section 10.2.3); None without one.

    A date counts from the answer's own `Date`, so the client's clock does not matter.
    """
    value = headers.get("retry-after", "").strip()
    if _SECONDS.fullmatch(value):
        return float(value)
    try:
        wait = parsedate_to_datetime(value) - parsedate_to_datetime(headers.get("date", ""))
    except (ValueError, TypeError, OverflowError):  # no dates, or one of them without a time zone
        return None
    return max(wait.total_seconds(), 0.0)


def proxy_error(status: int, headers: Fields, body: bytes) -> ProxyError:
    """The error in an answer.

    Its code is the proxy's only when the body is the proxy's error object, sent as JSON. A server between the client
    and the proxy can answer with any status, so a status alone says nothing about the stream: the code is then
    `HTTP_{status}`.
    """
    code, message = f"HTTP_{status}", "the answer is not the proxy's; something in front of it may have sent it"
    if headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json":
        try:
            told = json.loads(body)["error"]
            if _CODE.fullmatch(told["code"]) and isinstance(told["message"], str):
                code, message = told["code"], told["message"]
        except (ValueError, LookupError, TypeError, RecursionError):
            pass
    return ProxyError(code, message, status=status, retry_after=retry_after(headers))
