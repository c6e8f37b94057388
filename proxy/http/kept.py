"""A request's body that is kept until the response's head is here, so that the request can be sent once more.

Its bytes stay counted where they are: the body is closed only when its response has come *and* its last sender has let
go of them, or when there will be no response.
"""

from proxy.http.body import Body, BytesBody, ReleasingBody
from proxy.wire.events import Buffer

__all__ = ["KeptBody"]


class KeptBody:
    """The bytes of `body`, for one sender after the other. Make it with `of`."""

    def __init__(self, body: Body, parts: list[Buffer]) -> None:
        self._body = body
        self._parts = parts
        self._is_answered = False
        self._has_left = False

    @classmethod
    async def of(cls, body: Body) -> "KeptBody":
        """Take all of `body`. Raises BodyError when it was cut."""
        parts = list(body.take_nowait())
        while not body.ended and (more := await body.take()):
            parts += more
        return cls(body, parts)

    def outgoing(self) -> Body:
        """The whole body for the next sender, which closes it when it no longer holds any of the bytes.

        The sender before it has done so.
        """
        self._has_left = False
        return ReleasingBody(BytesBody(self._parts), self._left)

    def _left(self) -> None:
        self._has_left = True
        if self._is_answered:
            self._body.close()

    def answered(self) -> None:
        """The response's head is here: there will be no other sender."""
        self._is_answered = True
        self._parts = []
        if self._has_left:
            self._body.close()

    def close(self) -> None:
        """There will be no response."""
        self._body.close()
