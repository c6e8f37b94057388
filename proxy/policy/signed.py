"""Which header fields a request's own signature covers: they reach the upstream unchanged, or the signature is void.

Reads how request-signing schemes list them: `SignedHeaders` of AWS Signature Version 4 and its relatives (Google,
Alibaba, Tencent, Azure: another scheme name, the same parameter), in Authorization or in the URL's query; `headers` of
HTTP Signatures (draft-cavage); `Signature-Input` of RFC 9421.
"""

import re
from collections.abc import Iterator, Mapping

from proxy.wire.grammar import TCHAR
from proxy.wire.headers import Headers
from proxy.wire.url import Url, parse_query

__all__ = ["signed_names"]

_SIGNED_HEADERS = re.compile(rb"(?i:[ ,]signedheaders=)\"?([A-Za-z0-9_-]+(?:;[A-Za-z0-9_-]+)*)")
_CAVAGE = re.compile(rb"(?i:[ ,]headers=)\"([^\"]*)\"")
_RFC_9421 = re.compile(rb"\"(%b+)\"" % TCHAR)
_QUERY_NAMES = (b"x-amz-signedheaders", b"x-goog-signedheaders")


def signed_names(headers: Headers, url: Url) -> frozenset[bytes]:
    """The names (lower case) of the fields that a signature covers in a request with these `headers` to `url`.

    `headers` are the caller's, so that the upstream's Authorization is Upstream-Authorization.
    """
    return frozenset([name.lower() for name in _signed(headers.joined(), url)])


def _signed(fields: Mapping[bytes, bytes], url: Url) -> Iterator[bytes]:
    authorization = fields.get(b"upstream-authorization", b"")
    if authorization[:7].lower() != b"bearer ":
        for names in _SIGNED_HEADERS.findall(authorization):
            yield from names.split(b";")
        for names in _CAVAGE.findall(authorization):
            yield from names.split()
    if signature := fields.get(b"signature"):
        for names in _CAVAGE.findall(b"," + signature):
            yield from names.split()
    if inputs := fields.get(b"signature-input"):
        yield from _RFC_9421.findall(inputs)
    if b"-signedheaders=" in url.target.lower():
        for name, value in parse_query(url.target.partition(b"?")[2]):
            if name.lower() in _QUERY_NAMES:
                yield from value.split(b";")
