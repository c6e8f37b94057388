"""The token grammar of HTTP (RFC 9110 section 5.6.2), written once: methods, field names and codings are tokens."""

import re

__all__ = ["TCHAR", "TOKEN", "is_token"]

TCHAR = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
"""One character of a token, as a regular expression to build others from."""

TOKEN = TCHAR + rb"+"
"""A token, as a regular expression to build others from."""

_TOKEN = re.compile(TOKEN)


def is_token(text: bytes) -> bool:
    """Whether `text` is one token: not empty, ASCII, no space and no delimiter."""
    return _TOKEN.fullmatch(text) is not None
