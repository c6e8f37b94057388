"""Whether an IP address is one of this machine's own. The kernel is asked, because interfaces come and go."""

import socket
from ipaddress import IPv4Address, IPv6Address

__all__ = ["is_local"]


def is_local(ip: IPv4Address | IPv6Address) -> bool:
    """Whether a socket of this machine can be bound to `ip`; nothing is sent. False for a zone that does not exist."""
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(ip), 0))
    except OSError:
        return False
    return True
