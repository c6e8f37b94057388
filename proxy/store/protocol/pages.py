"""Web pages before a store that asks for no token: those of other sites are refused, and none may read a response.

A program that can connect to such a store may use it, and every page in a browser on this machine can connect. So three
fields are checked that a browser sets and that no script can change:

- `Host`. A name of another site that its owner points at this machine (DNS rebinding) makes the browser believe that
  the store belongs to that site.
- `Origin`, on every request that may change something, and on every cross-origin request that a script makes.
- `Sec-Fetch-Site`, where a browser sends no `Origin`: an image, a script or a link of another site.

Programs send neither of the last two, and the name under which they reach the store in the first.
"""

import re
from collections.abc import Collection
from ipaddress import ip_address

from proxy.http.body import BytesBody
from proxy.http.message import Handler, Request, Response
from proxy.wire.headers import Headers

__all__ = ["without_foreign_pages"]

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::[0-9]{1,5})?")
_SCHEMES = ("http://", "https://")
_POLICY = b"cross-origin-resource-policy"
_REFUSED = Headers(
    [(b"content-type", b"text/plain"), (b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
)
_NO_HOST = b"a store without tokens is reached by a name of this machine; --public-url adds one\n"
_NO_ORIGIN = b"a store without tokens takes no request from a page of another site\n"


def without_foreign_pages(handler: Handler, *, names: Collection[str], any_host: bool = False) -> Handler:
    """`handler` for programs and pages of this machine; responses have no CORS fields.

    `names`: hosts, in lower case, that `Host` and `Origin` may name beside `localhost`, names below it and loopback
    addresses. `any_host` takes any `Host`: for a Unix socket, to which no browser connects.
    """

    async def guarded(request: Request) -> Response:
        headers = request.headers
        host, origin = headers.get(b"host"), headers.get(b"origin")
        if not any_host and host is not None and not _is_own(host.decode("latin-1").lower(), names):
            return _refusal(_NO_HOST)
        if origin is None:
            foreign = headers.get(b"sec-fetch-site") == b"cross-site"
        else:
            foreign = not _is_own_origin(origin.decode("latin-1").lower(), names)
        return _refusal(_NO_ORIGIN) if foreign else _closed(await handler(request))

    return guarded


def _is_own(authority: str, names: Collection[str]) -> bool:
    match = _HOST.fullmatch(authority)
    return match is not None and (match[1] in names or _is_loopback(match[1]))


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761 section 6.3
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _is_own_origin(origin: str, names: Collection[str]) -> bool:
    return any(origin.startswith(scheme) and _is_own(origin.removeprefix(scheme), names) for scheme in _SCHEMES)


def _refusal(text: bytes) -> Response:
    return Response(403, _REFUSED, BytesBody([text]))


def _closed(response: Response) -> Response:
    """`response` for its own origin only."""
    fields = [each for each in response.headers if each[0] != _POLICY and not each[0].startswith(b"access-control-")]
    fields.append((_POLICY, b"same-origin"))
    response.headers = Headers.trusted(fields)
    return response
