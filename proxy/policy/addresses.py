"""Which IP addresses an upstream may have (protocol: Allowlist). Judged after resolution, on the address dialled.

Owns the lists: IANA's special-purpose registries and the addresses of cloud metadata services. They are written out,
because `ipaddress.is_global` is true for NAT64, IPv4-compatible and site-local addresses. Owns also what is this
proxy's own: its listeners and its storage are never an upstream, because a caller that reaches storage directly reads
records and deletes streams without a credential.

Addresses are judged as `ipaddress` objects, never as text: one address has several spellings, and Python versions
differ in the one they print.
"""

from collections import OrderedDict
from collections.abc import Callable
from enum import Enum
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

__all__ = ["NEVER", "SPECIAL", "AddressRules", "Guard", "IPAddress", "Reach", "is_forbidden"]

IPAddress = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

Guard = Callable[[IPAddress, int], bool]
"""Whether a connection to this address and port is forbidden."""


class Reach(Enum):
    """How far the pattern that matched a URL reaches into networks that are not public."""

    PUBLIC = "public addresses only"
    PRIVATE = "private addresses too, but neither link-local nor metadata addresses"
    LITERAL = "the very address that the pattern names"


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(map(ip_network, texts))


NEVER = _networks(
    "169.254.0.0/16",  # link-local (RFC 3927): metadata of most clouds, and of containers in them
    "fe80::/10",  # link-local (RFC 4291)
    "100.100.100.200",  # metadata services that are not link-local
    "168.63.129.16",
    "192.0.0.192",
    "fd00:42::42",
    "fd00:c1::a9fe:a9fe",
    "fd00:ec2::/32",
    "fd20:ce::/32",
)
"""What no name may resolve to: these addresses hand out credentials of the machine to every caller on it."""

SPECIAL = NEVER + _networks(
    "0.0.0.0/8",  # this network, unspecified (RFC 791)
    "10.0.0.0/8",  # private (RFC 1918)
    "100.64.0.0/10",  # carrier-grade NAT (RFC 6598)
    "127.0.0.0/8",  # loopback (RFC 1122)
    "172.16.0.0/12",  # private
    "192.0.0.0/24",  # IETF protocol assignments (RFC 6890)
    "192.0.2.0/24",  # documentation (RFC 5737)
    "192.88.99.0/24",  # 6to4 relays, deprecated (RFC 7526)
    "192.168.0.0/16",  # private
    "198.18.0.0/15",  # benchmarking (RFC 2544)
    "198.51.100.0/24",  # documentation
    "203.0.113.0/24",  # documentation
    "224.0.0.0/4",  # multicast (RFC 5771)
    "240.0.0.0/4",  # reserved, and the limited broadcast address (RFC 1112)
    # Global unicast IPv6 is 2000::/3 and nothing else (RFC 4291 section 2.4). These three cover the rest: unspecified,
    # loopback, IPv4-mapped and -compatible, NAT64 (64:ff9b::), discard-only (100::), segment routing (5f00::),
    # unique-local (fc00::/7), link-local, site-local, multicast.
    "::/3",
    "4000::/2",
    "8000::/1",
    "2001::/23",  # IETF protocol assignments (RFC 2928): Teredo, benchmarking, ORCHID
    "2001:db8::/32",  # documentation (RFC 3849)
    "2002::/16",  # 6to4 (RFC 3056): an IPv4 address of the sender's choice
    "3ffe::/16",  # 6bone, handed back (RFC 3701)
    "3fff::/20",  # documentation (RFC 9637)
)
"""What a name may resolve to only where a pattern allows private addresses, NEVER excepted."""

# An IPv6 address with such a prefix of 96 bits ends in the IPv4 address that it stands for.
_EMBEDDING = (
    IPv6Network("::/96"),  # IPv4-compatible (RFC 4291 section 2.5.5.1)
    IPv6Network("::ffff:0:0/96"),  # IPv4-mapped
    IPv6Network("::ffff:0:0:0/96"),  # IPv4-translated (RFC 2765)
    IPv6Network("64:ff9b::/96"),  # NAT64 (RFC 6052)
)
_LOCAL_NAT64 = IPv6Network("64:ff9b:1::/48")  # RFC 8215: networks choose a prefix of 48 to 96 bits in it
_6TO4 = IPv6Network("2002::/16")
_IPV4 = 0xFFFFFFFF
_ISATAP = 0x5EFE  # RFC 5214 section 6.1: the interface identifier before an IPv4 address, behind any prefix
_STORAGE_PLACES = 64  # a name that resolves to ever new addresses is not remembered for ever

_Place = tuple[IPAddress, int]


def is_forbidden(ip: IPAddress, reach: Reach) -> bool:
    """Whether a URL whose pattern has this `reach` may not be connected to `ip`."""
    if reach is Reach.LITERAL:
        return False
    if reach is Reach.PUBLIC:
        return _is_in(ip, SPECIAL)
    return any(_is_in(each, NEVER) for each in (ip, *_embedded(ip)))


def _is_in(ip: IPAddress, networks: tuple[Network, ...]) -> bool:
    return any(ip in network for network in networks)


def _embedded(ip: IPAddress) -> list[IPv4Address]:
    """The IPv4 addresses that a gateway or the kernel could connect to instead of the IPv6 address `ip`."""
    if isinstance(ip, IPv4Address):
        return []
    number = int(ip)
    found = []
    if any(ip in network for network in _EMBEDDING) or number >> 32 & 0xFDFFFFFF == _ISATAP:
        found.append(number)
    elif ip in _LOCAL_NAT64:
        # RFC 6052 section 2.2: bits 64 to 71 are skipped; the IPv4 address follows a prefix of 48, 56, 64 or 96 bits.
        packed = number >> 64 << 56 | number & (1 << 56) - 1
        found += [packed >> 40, packed >> 32, packed >> 24, number]
    elif ip in _6TO4:
        found.append(number >> 80)
    elif ip.teredo is not None:
        return list(ip.teredo)
    return [IPv4Address(each & _IPV4) for each in found]


class AddressRules:
    """Makes the guards of upstreams, and knows what is this proxy's own: its listeners and its storage.

    What listens on the unspecified address is reached by every address of the machine. So is storage on this machine,
    as far as can be told from here. Port by port, those addresses are forbidden.
    """

    def __init__(self, is_local: Callable[[IPAddress], bool]) -> None:
        """`is_local`: whether an address is one of this machine's."""
        self._is_local = is_local
        self._listeners: dict[_Place, bool] = {}  # whether it is at every address of the machine
        self._storage: OrderedDict[_Place, bool] = OrderedDict()  # the same; the addresses dialled last
        self._guards: dict[Reach, Guard] = {reach: partial(self._is_forbidden, reach) for reach in Reach}

    def guard(self, reach: Reach) -> Guard:
        """The guard of an upstream whose pattern has this `reach`; the same object each time."""
        return self._guards[reach]

    def add_listener(self, ip: IPAddress, port: int) -> None:
        """Declare a listener of this proxy."""
        self._listeners[_plain(ip), port] = ip.is_unspecified

    def storage_guard(self, ip: IPAddress, port: int) -> bool:
        """The guard of storage: forbids nothing, and from then on this place is forbidden to upstreams.

        A dial checks every address that a name resolves to. So a storage is known as soon as it was first dialled,
        which a proxy does when it starts.
        """
        place = _plain(ip), port
        self._storage[place] = self._is_here(place[0])
        self._storage.move_to_end(place)
        if len(self._storage) > _STORAGE_PLACES:
            self._storage.popitem(last=False)
        return False

    def _is_forbidden(self, reach: Reach, ip: IPAddress, port: int) -> bool:
        return is_forbidden(ip, reach) or self._is_own(ip, port)

    def _is_own(self, ip: IPAddress, port: int) -> bool:
        own = [
            (address, everywhere)
            for places in (self._listeners, self._storage)
            for (address, own_port), everywhere in places.items()
            if own_port == port
        ]
        if not own:
            return False
        dialled = (_plain(ip), *_embedded(ip))
        if any(each.is_unspecified for each in dialled):  # the kernel connects to loopback
            return True
        if any(address in dialled for address, _ in own):
            return True
        return any(everywhere for _, everywhere in own) and any(map(self._is_here, dialled))

    def _is_here(self, ip: IPAddress) -> bool:
        return ip.is_loopback or self._is_local(ip)


def _plain(ip: IPAddress) -> IPAddress:
    """`ip` as a key: an IPv4-mapped address is its IPv4 address, and a zone is left out."""
    if isinstance(ip, IPv4Address):
        return ip
    return ip.ipv4_mapped or IPv6Address(int(ip))
