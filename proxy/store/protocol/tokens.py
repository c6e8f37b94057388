"""Bearer tokens for a store that listens by itself: who may read, who may write. Wraps any Handler."""

import hmac
from collections.abc import Collection

from proxy.http.body import BytesBody
from proxy.http.message import Handler, Request, Response
from proxy.store.protocol.service import BASE_FIELDS

__all__ = ["with_tokens"]

_READS = (b"GET", b"HEAD")


def with_tokens(handler: Handler, *, read: Collection[bytes], write: Collection[bytes]) -> Handler:
    """`handler` behind bearer tokens: a token in `write` allows everything, one in `read` allows GET and HEAD.

    When `read` is empty, everyone may read. When both are empty, everyone may write, too. OPTIONS needs no token.
    Raises ValueError when only `read` has tokens, because then everyone could write.
    """
    if read and not write:
        raise ValueError("a token for reading needs one for writing beside it")

    async def guarded(request: Request) -> Response:
        if request.method == b"OPTIONS":
            return await handler(request)
        accepted = (*read, *write) if request.method in _READS else write
        is_open = not (read if request.method in _READS else write)
        if is_open or _is_one_of(_token(request), accepted):
            return await handler(request)
        about = ((b"www-authenticate", b"Bearer"), (b"content-type", b"text/plain"), (b"cache-control", b"no-store"))
        return Response(401, BASE_FIELDS.plus(*about), BytesBody([b"a bearer token is needed\n"]))

    return guarded


def _token(request: Request) -> bytes:
    scheme, _, token = (request.headers.get(b"authorization") or b"").partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


def _is_one_of(token: bytes, accepted: Collection[bytes]) -> bool:
    """Compares with all tokens, each in constant time."""
    return any([hmac.compare_digest(token, each) for each in accepted])  # noqa: C419  # any() must not stop at the first
