"""A caller's arguments as an upstream request: URL normalised, header fields listed, JSON encoded."""

import json as json_module
import re
from collections.abc import Iterable, Mapping
from types import ModuleType

from proxy.client.creating import UpstreamRequest

__all__ = ["Content", "HeaderInput", "Json", "bare_url", "upstream_request"]

_UNSENDABLE = re.compile(r"[^\x00-\xff]")

HeaderInput = Mapping[str, str] | Iterable[tuple[str, str]] | None
Content = bytes | str | None
Json = object


def upstream_request(
    library: ModuleType, url: str, method: str, headers: HeaderInput, content: Content, json: Json
) -> UpstreamRequest:
    """The upstream request.

    Raises ValueError for a URL that is not absolute or holds credentials, for two bodies at once, and for header fields
    that are not Latin-1.
    """
    try:
        parsed = library.URL(url)
    except library.InvalidURL:
        raise ValueError("url is not valid") from None
    if parsed.userinfo:
        raise ValueError("url holds credentials: send an Authorization header instead")
    fields = list((headers.items() if isinstance(headers, Mapping) else headers) or ())
    if json is not None:
        if content is not None:
            raise ValueError("content and json were both given")
        content = json_module.dumps(json, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        if not any(name.lower() == "content-type" for name, _ in fields):
            fields.append(("Content-Type", "application/json"))
    if any(_UNSENDABLE.search(name + value) for name, value in fields):
        raise ValueError("a header holds characters that are not Latin-1")
    body = content.encode() if isinstance(content, str) else content or b""
    return UpstreamRequest(method, bare_url(parsed), tuple(fields), body)


def bare_url(url: object) -> str:
    """The text of a library's URL: ASCII, without credentials and fragment. Raises ValueError unless http or https."""
    scheme = str(getattr(url, "scheme", ""))
    host = getattr(url, "raw_host", b"").decode("ascii")
    if scheme not in ("http", "https") or not host:
        raise ValueError("url must be an absolute http or https URL")
    port = getattr(url, "port", None)
    netloc = f"[{host}]" if ":" in host else host
    return f"{scheme}://{netloc}{'' if port is None else f':{port}'}{getattr(url, 'raw_path', b'/').decode('ascii')}"
