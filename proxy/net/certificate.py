"""What a certificate says: the names it is for, and when it is valid (RFC 5280). Reads files; verifies nothing.

The ssl module tells this only of certificates that a peer has shown, so the few fields are read here from their DER
encoding: a tree of values, each a tag, a length and as many bytes.
"""

import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address

__all__ = ["Certificate", "read_certificate"]

_PEM = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)

_SEQUENCE, _OBJECT_ID, _OCTETS, _UTC_TIME, _TIME = 0x30, 0x06, 0x04, 0x17, 0x18  # X.690
_EXTENSIONS = 0xA3  # RFC 5280 section 4.1
_SUBJECT_ALT_NAME = bytes((0x55, 0x1D, 0x11))  # 2.5.29.17
_DNS_NAME, _IP_ADDRESS = 0x82, 0x87  # RFC 5280 section 4.2.1.6


@dataclass(frozen=True, slots=True)
class Certificate:
    """`names`: host names in lower case, `*.` in front of some, and IP addresses. `begins` and `ends`: in UTC."""

    names: tuple[str, ...]
    begins: datetime
    ends: datetime


def read_certificate(pem: str) -> Certificate:
    """The first certificate of a PEM file's text. Raises ValueError when there is none."""
    found = _PEM.search(pem)
    if found is None:
        raise ValueError("no certificate")
    (_, whole) = next(_values(ssl.PEM_cert_to_DER_cert(found[0])))
    (_, signed) = next(_values(whole))
    fields = list(_values(signed))
    # Validity is the one sequence that begins with a time; before it stand optional fields.
    times: list[datetime] = []
    names: tuple[str, ...] = ()
    for tag, value in fields:
        if tag == _SEQUENCE and value and value[0] in (_UTC_TIME, _TIME):
            times = [_time(kind, text) for kind, text in _values(value)]
        elif tag == _EXTENSIONS:
            names = tuple(_names(value))
    if len(times) != 2:
        raise ValueError("no validity")
    return Certificate(names, *times)


def _values(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The tags and contents of the values that follow each other in `data`. Raises ValueError when one is cut."""
    at = 0
    while at < len(data):
        if at + 2 > len(data):
            raise ValueError("cut")
        tag, length = data[at], data[at + 1]
        at += 2
        if length & 0x80:  # the length's own length
            size = length & 0x7F
            length = int.from_bytes(data[at : at + size], "big")
            at += size
        if at + length > len(data):
            raise ValueError("cut")
        yield tag, data[at : at + length]
        at += length


def _time(kind: int, text: bytes) -> datetime:
    """A time as RFC 5280 section 4.1.2.5 allows it: UTCTime until 2049, with two digits of the year."""
    digits = text.decode("ascii")
    if kind == _UTC_TIME:
        digits = ("19" if digits >= "50" else "20") + digits
    return datetime.strptime(digits, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _names(extensions: bytes) -> Iterator[str]:
    for _, sequence in _values(extensions):
        for _, extension in _values(sequence):
            parts = dict(_values(extension))
            if parts.get(_OBJECT_ID) == _SUBJECT_ALT_NAME:
                for _, names in _values(parts[_OCTETS]):
                    for kind, name in _values(names):
                        if kind == _DNS_NAME:
                            yield name.decode("ascii").lower()
                        elif kind == _IP_ADDRESS:
                            yield str(ip_address(name))
