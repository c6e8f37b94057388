"""JSON values as they are stored: the received text of each value, followed by a comma. Finds where a value ends.

So any run of stored values, in brackets and without its last comma, is a JSON array. The text was checked when it was
received: here only strings, brackets and commas matter.
"""

import asyncio
import re

__all__ = ["Separators", "prefix_length"]

_STEP = 8192  # bytes scanned in one step: at worst a millisecond or two, when each byte is a token
# Inside a string: up to its closing quote (group 1), or up to the end of the step, which may be a lone backslash (2).
_IN_STRING = rb'(?:[^"\\]++|\\.)*+(?:(")|(\\)?\Z)'
_REST = re.compile(_IN_STRING, re.DOTALL)
_TOKEN = re.compile(rb'"' + _IN_STRING + rb"|[\[\]{},]", re.DOTALL)
_CLOSED, _CUT = 1, 2
_QUOTE, _COMMA = b'",'
_OPENING = b"[{"


class Separators:
    """The commas between the values of `text`, from `start` up to `end`; commas inside a value do not count.

    `step` scans a bounded number of bytes, so that the event loop can do other work in between.
    """

    def __init__(self, text: bytes, start: int, end: int) -> None:
        self._text = text
        self._here = start
        self._end = end
        self._depth = 0
        self._in_string = False

    @property
    def ended(self) -> bool:
        """Whether all bytes were scanned."""
        return self._here >= self._end

    def step(self) -> list[int]:
        """Scan the next few kilobytes, and return the positions of their separators."""
        text, depth, here = self._text, self._depth, self._here
        end = min(here + _STEP, self._end)
        found: list[int] = []
        if self._in_string:
            here = self._after(_REST.match(text, here, end))
        if not self._in_string:
            for match in _TOKEN.finditer(text, here, end):
                token = text[match.start()]
                if token == _COMMA:
                    if not depth:
                        found.append(match.start())
                elif token == _QUOTE:
                    here = self._after(match)
                elif token in _OPENING:
                    depth += 1
                else:
                    depth -= 1
        self._depth = depth
        self._here = here if self._in_string and end < self._end else end
        return found

    def _after(self, string: re.Match[bytes] | None) -> int:
        """The position after a string, or after the part of it that was scanned."""
        if string is None:
            raise ValueError("the text is not JSON")
        self._in_string = string.lastindex != _CLOSED
        return string.end() - (string.lastindex == _CUT)


async def prefix_length(kept: bytes, count: int) -> int | None:
    """How many bytes the first `count` values of `kept` take; None when there are fewer values.

    Works in steps, and lets the event loop run in between.
    """
    separators = Separators(kept, 0, len(kept))
    while not separators.ended:
        found = separators.step()
        if count <= len(found):
            return found[count - 1] + 1
        count -= len(found)
        await asyncio.sleep(0)
    return None
