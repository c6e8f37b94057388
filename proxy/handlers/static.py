"""Files of the package over HTTP: the browser client, and the demo's scripts and styles

Owns their content types, validators and cache lifetimes.

All files are listed once, at construction. A request is a look-up in that list, so that no path in a request reaches
the file system. Everything else is refused with NOT_FOUND. Serves no page: a page needs a content security policy of
its own, and no script should run in the proxy's own origin.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable

from proxy.base.errors import Code, Refusal
from proxy.http.body import EMPTY, BytesBody
from proxy.http.message import Request, Response
from proxy.version import __version__
from proxy.wire.headers import Headers

__all__ = ["StaticFiles"]

_TYPES = {
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".json": b"application/json",
    ".svg": b"image/svg+xml",
    ".ts": b"text/plain; charset=utf-8",  # declarations, shown as text; a compiler reads them from the package
}
_REVALIDATE = (b"cache-control", b"no-cache")
_FOREVER = (b"cache-control", b"public, max-age=31536000, immutable")


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    etag: bytes
    headers: Headers


class StaticFiles:
    """A Handler for GET and HEAD of `{prefix}{path}` and `{prefix}{version}/{path}`, the files of proxy/static.

    A URL with the version names a file that never changes, so caches may keep it for ever. Without the version, a cache
    must ask again each time (RFC 9111 section 5.2.2.4). Scripts and styles of the demo's page are served only with
    `demo`, which the demo's own server sets. Raises Refusal: NOT_FOUND. The caller has checked the method.
    """

    def __init__(self, prefix: str = "/static/", *, demo: bool = False) -> None:
        self._files: dict[bytes, _File] = {}
        for path, content in _walk(files("proxy") / "static"):
            if path.startswith("demo/") and not demo:
                continue
            for versioned, cache in (("", _REVALIDATE), (f"{__version__}/", _FOREVER)):
                self._files[f"{prefix}{versioned}{path}".encode()] = _file(path, content, cache)

    def __repr__(self) -> str:
        return f"<StaticFiles {len(self._files)}>"

    async def __call__(self, request: Request) -> Response:
        """The file, or 304 without a body when `If-None-Match` names it (RFC 9110 section 13.1.2)."""
        file = self._files.get(request.target.partition(b"?")[0])
        if file is None:
            raise Refusal(Code.NOT_FOUND, "there is no such file")
        if _matches(request.headers.get_all(b"if-none-match"), file.etag):
            return Response(304, file.headers.without([b"content-type"]), EMPTY)
        return Response(200, file.headers, BytesBody([file.content]))


def _walk(folder: Traversable, above: str = "") -> Iterator[tuple[str, bytes]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{above}{entry.name}/")
        elif "." + entry.name.rpartition(".")[2] in _TYPES:
            yield above + entry.name, entry.read_bytes()


def _file(path: str, content: bytes, cache: tuple[bytes, bytes]) -> _File:
    etag = b'"%s"' % hashlib.sha256(content).hexdigest()[:32].encode()
    kind = _TYPES["." + path.rpartition(".")[2]]
    return _File(content, etag, Headers([(b"content-type", kind), (b"etag", etag), cache]))


def _matches(conditions: list[bytes], etag: bytes) -> bool:
    """Weak comparison, as If-None-Match asks for (RFC 9110 section 8.8.3.2)."""
    tags = [tag.strip().removeprefix(b"W/") for condition in conditions for tag in condition.split(b",")]
    return etag in tags or b"*" in tags
