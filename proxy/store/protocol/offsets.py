"""Offsets as clients see them. A position is a number of bytes; tokens sort like their positions.

Owns the format of a token. Does not know whether a position exists: that depends on the stream.
"""

import re

__all__ = ["format_offset", "parse_offset"]

_TOKEN = re.compile(r"([0-9]{1,16})_([0-9]{1,16})")
_HALF = 10**16


def format_offset(position: int) -> str:
    """The token of a position: two numbers of sixteen digits, so that tokens compare as text like positions."""
    high, low = divmod(position, _HALF)
    return f"{high:016d}_{low:016d}"


def parse_offset(token: str) -> int | None:
    """The position that a token names; None for text that is not a token."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        return None
    return int(match[1]) * _HALF + int(match[2])
