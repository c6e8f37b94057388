"""The proxy's URL, and the credentials: the service secret for the proxy, a signed URL for one stream.

Owns every URL that the client makes. No repr or error shows the secret or a stream's URL. The secret travels in a
header, never in a URL.
"""

import re
from collections.abc import Callable
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

__all__ = ["Authorization", "Place", "StreamAccess", "abort_url"]

_VISIBLE = re.compile(r"[!-~]+")

Authorization = str | Callable[[], str]


class Place:
    """A proxy: its create URL (`/v1/proxy` when the given URL has no path), and the caller's authorization.

    `authorization` is the service secret or a JWT, or a function that returns one. It is called for each
    request that needs it.

    Raises ValueError when the URL is not absolute http or https, or holds credentials or a query.
    """

    def __init__(self, proxy_url: str, authorization: Authorization) -> None:
        parts = urlsplit(proxy_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("proxy_url must be an absolute http or https URL")
        if parts.username is not None or parts.query or parts.fragment:
            raise ValueError("proxy_url must hold neither credentials nor a query")
        self.url = urlunsplit((parts.scheme, parts.netloc.lower(), parts.path.rstrip("/") or "/v1/proxy", "", ""))
        self._authorization = authorization

    def __repr__(self) -> str:
        return f"<Place {self.url}>"

    def headers(self) -> tuple[tuple[str, str], ...]:
        """The header that authorizes a request to the proxy."""
        token = self._authorization if isinstance(self._authorization, str) else self._authorization()
        return (("Authorization", token if token[:7].lower() == "bearer " else f"Bearer {token}"),)

    def stream_url(self, location: str) -> str | None:
        """The absolute form of a `Location`, which may be relative to the proxy; None when it is not a stream's."""
        try:
            url = urljoin(self.url, location)
            parts = urlsplit(url)
        except ValueError:
            return None
        is_web = parts.scheme in ("http", "https") and bool(parts.hostname)
        return url if location and is_web and _VISIBLE.fullmatch(url) else None


class StreamAccess:
    """How one stream is read: by its signed URL, and once the proxy has refused that, by the service secret."""

    def __init__(self, place: Place, stream_url: str) -> None:
        self._place = place
        self._signed = stream_url
        self._fallen_back = False
        self.stream_id = urlsplit(stream_url).path.rpartition("/")[2]

    def __repr__(self) -> str:
        return f"<StreamAccess {self.stream_id}>"

    def url(self, query: list[tuple[str, str]]) -> str:
        """The URL of a read with these parameters."""
        return _with_query(f"{self._place.url}/{self.stream_id}" if self._fallen_back else self._signed, query)

    def headers(self) -> tuple[tuple[str, str], ...]:
        """The header fields of a read."""
        own = self._place.headers() if self._fallen_back else ()
        return (*own, ("Accept-Encoding", "identity"))

    def fall_back(self) -> bool:
        """Use the secret from now on, because the signed URL was refused. False when the secret was in use already."""
        fallen, self._fallen_back = self._fallen_back, True
        return not fallen


def abort_url(stream_url: str) -> str:
    """The URL that aborts the stream of this signed URL. Raises ValueError when it is not absolute http or https."""
    parts = urlsplit(stream_url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("a stream's URL must be absolute")
    return _with_query(stream_url, [("action", "abort")])


def _with_query(url: str, query: list[tuple[str, str]]) -> str:
    """`url` with these parameters; they replace parameters of the same names."""
    parts = urlsplit(url)
    names = {name for name, _ in query}
    kept = [(name, value) for name, value in parse_qsl(parts.query, keep_blank_values=True) if name not in names]
    return urlunsplit((parts.scheme, parts.netloc, parts.path, urlencode([*kept, *query]), ""))
