"""What goes to the proxy and what comes back, free of any HTTP library: fields, requests, the proxy's error body."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from proxy.client.errors import NetworkError, ProxyError
from proxy.client.options import Timeouts

__all__ = ["Fields", "Pairs", "Plan", "Send", "proxy_error", "retry_after"]

Pairs = Iterable[tuple[str, str]]

_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_SECONDS = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")


class Fields(Mapping[str, str]):
    """Header fields: case does not matter to a look-up, repeated ones are joined by a comma. The repr shows names.

    Values are bytes read as Latin-1, so that whatever was sent can be sent on.
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
        """Every field as it was given, in order."""
        return self._pairs


@dataclass(frozen=True, slots=True)
class Send:
    """A request to the proxy. The repr shows the method alone: everything else may hold a credential."""

    method: str
    url: str
    headers: tuple[tuple[str, str], ...]
    timeouts: Timeouts
    content: bytes = b""

    def __repr__(self) -> str:
        return f"<Send {self.method}>"


T_co = TypeVar("T_co", covariant=True)


class Plan(Protocol[T_co]):
    """A request that is sent until its answer is understood: wait `delay` seconds, send `request`, tell what came."""

    @property
    def delay(self) -> float:
        """Seconds to wait before the next sending."""

    def request(self) -> Send:
        """What to send now."""

    def replied(self, status: int, headers: Fields, body: bytes) -> T_co | None:
        """What the answer means; None: send again. Raises when it is a refusal."""

    def failed(self, error: NetworkError) -> None:
        """No answer came. Raises `error` when it is not to be sent again."""


def retry_after(headers: Fields) -> float | None:
    """Seconds of a `Retry-After` that is a number; dates are not worth a clock here."""
    value = headers.get("retry-after", "").strip()
    return float(value) if _SECONDS.fullmatch(value) else None


def proxy_error(status: int, headers: Fields, body: bytes) -> ProxyError:
    """The error that a proxy's answer tells of; `HTTP_{status}` when its body is not the proxy's."""
    code, message = f"HTTP_{status}", "the proxy, or something in front of it, answered without an error code"
    try:
        told = json.loads(body)["error"]
        if _CODE.fullmatch(told["code"]) and isinstance(told["message"], str):
            code, message = told["code"], told["message"]
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    return ProxyError(code, message, status=status, retry_after=retry_after(headers))
