"""Toil: a count, without a clock, of the work that a peer causes and that moves nothing (RFC 9113 section 10.5).

Each kind of flood (settings, pings, empty frames, tiny window updates, requests that are reset at once, frames that
provoke a reset) consists of frames that are legal one by one. What they have in common is that they carry no part of a
request or response. So such frames are counted, and what does move earns an allowance: a peer that uses the connection
cannot run out of it, however long it lives, and one that does not is ended after a bounded number of frames.
"""

__all__ = ["Toil"]

_ALLOWANCE = 1_000
_COSTLY = 4
_FOR_DATA = 10
_FOR_ANSWER = 20


class Toil:
    """`left`: frames that may still move nothing. A connection of which it is negative is to be ended."""

    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = _ALLOWANCE

    def count(self) -> None:
        """A frame moved nothing."""
        self.left -= 1

    def count_costly(self) -> None:
        """A frame moved nothing and was work: a head that leads nowhere, settings, a ping, a reset."""
        self.left -= _COSTLY

    def moved(self) -> None:
        """A DATA frame carried payload, in either direction."""
        if self.left < _ALLOWANCE:
            self.left += _FOR_DATA

    def answered(self) -> None:
        """An exchange was answered to its end."""
        if self.left < _ALLOWANCE:
            self.left += _FOR_ANSWER
