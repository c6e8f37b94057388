"""Offsets as clients see them. A position is a number of bytes; its token sorts as the position does.

Owns the spelling of a token, nothing else: whether a position exists is the stream's to say.
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
    """The position that a token names, None when it is not one."""
    match = _TOKEN.fullmatch(token)
    if match is None:
        return None
    return int(match[1]) * _HALF + int(match[2])
