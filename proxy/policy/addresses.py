"""Which IP addresses an upstream may not have: an explicit list, because `ipaddress.is_global` lets too many through.

Owns the list: IANA's special-purpose registries, and the addresses of cloud metadata services.
"""

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

__all__ = ["FORBIDDEN", "forbidden"]

FORBIDDEN: tuple[IPv4Network | IPv6Network, ...] = tuple(
    ip_network(network)
    for network in (
        "0.0.0.0/8",  # this network, unspecified (RFC 791)
        "10.0.0.0/8",  # private (RFC 1918)
        "100.64.0.0/10",  # carrier-grade NAT (RFC 6598); a cloud's metadata at 100.100.100.200
        "127.0.0.0/8",  # loopback (RFC 1122)
        "168.63.129.16/32",  # a cloud's host agent; the address itself is public
        "169.254.0.0/16",  # link-local (RFC 3927); most clouds' metadata at 169.254.169.254
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # IETF protocol assignments (RFC 6890); a cloud's metadata at 192.0.0.192
        "192.0.2.0/24",  # documentation (RFC 5737)
        "192.88.99.0/24",  # 6to4 relays, deprecated (RFC 7526)
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarking (RFC 2544)
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast (RFC 5771)
        "240.0.0.0/4",  # reserved, and the limited broadcast address (RFC 1112)
        # Global unicast IPv6 is 2000::/3 and nothing else (RFC 4291 section 2.4). These three cover the rest:
        # unspecified, loopback, IPv4-mapped and -compatible, NAT64 (64:ff9b::), discard-only (100::), segment
        # routing (5f00::), unique-local (fc00::/7; clouds' metadata at fd00:ec2::254 and fd20:ce::254),
        # link-local, site-local, multicast.
        "::/3",
        "4000::/2",
        "8000::/1",
        "2001::/23",  # IETF protocol assignments (RFC 2928): Teredo, benchmarking, ORCHID
        "2001:db8::/32",  # documentation (RFC 3849)
        "2002::/16",  # 6to4 (RFC 3056): an IPv4 address of the sender's choice
        "3ffe::/16",  # 6bone, handed back (RFC 3701)
        "3fff::/20",  # documentation (RFC 9637)
    )
)


def forbidden(address: str) -> bool:
    """Whether `address`, in a resolver's spelling, is on the list. Text that is not an IP address is forbidden too."""
    try:
        ip = ip_address(address)
    except ValueError:
        return True
    return any(ip in network for network in FORBIDDEN)
