"""The deny list of resolved addresses: every range that hides a private host, and public ones untouched."""

from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.addresses import FORBIDDEN, forbidden

BAD = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "100.100.100.200",
    "127.0.0.1", "127.255.255.254", "168.63.129.16", "169.254.169.254", "169.254.170.2", "172.16.0.1",
    "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255",
    "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "::", "::1", "::2",
    "::7f00:1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:a9fe:a9fe",
    "::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::8.8.8.8", "64:ff9b:1::a00:1", "100::1", "100:0:0:1::1",
    "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1",
    "2002:7f00:1::1", "2002:808:808::1", "3ffe::1", "3fff::1", "4000::1", "5f00::1", "fc00::1", "fd00:ec2::254",
    "fd20:ce::254", "fe80::1", "fe80::1%eth0", "fe80::a9fe:a9fe%2", "fec0::1", "fe00::1", "ff02::1", "ff0e::1", "",
    "localhost", "127.1", "2130706433", "0x7f000001", "010.0.0.1", "[::1]", "8.8.8.8 ", "8.8.8.8/32", "\u0661.1.1.1",
]  # fmt: skip

GOOD = [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255",
    "128.0.0.1", "168.63.129.15", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.1",
    "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255", "2000::1", "2001:200::1",
    "2001:4860:4860::8888", "2606:4700::6810:84e5", "2a00:1450:4001:81b::200e", "2003::1",
]  # fmt: skip


@pytest.mark.parametrize("address", BAD)
def test_an_address_that_could_be_inside_is_forbidden(address: str) -> None:
    assert forbidden(address)


@pytest.mark.parametrize("address", GOOD)
def test_a_public_address_is_not_forbidden(address: str) -> None:
    assert not forbidden(address)


@given(st.ip_addresses())
def test_what_the_standard_library_calls_not_global_is_forbidden(address: object) -> None:
    """One way only: the library lets NAT64, IPv4-compatible and site-local addresses through."""
    ip = ip_address(str(address))
    assert forbidden(str(ip)) or (ip.is_global and not ip.is_multicast and not ip.is_reserved)


@given(st.integers(0, 2**32 - 1).map(IPv4Address))
def test_no_ipv4_address_gets_through_in_an_ipv6_disguise(address: IPv4Address) -> None:
    number = int(address)
    for disguise in (
        number, 0xFFFF << 32 | number, 0xFFFF << 48 | number, 0x64FF9B << 96 | number, 0x64FF9B0001 << 80 | number,
        0x2002 << 112 | number << 80, 0x2001 << 112 | (number ^ 0xFFFFFFFF), 0xFE80 << 112 | 0x5EFE << 32 | number,
    ):  # fmt: skip
        assert forbidden(str(ip_address(disguise.to_bytes(16, "big"))))


@pytest.mark.parametrize("network", FORBIDDEN, ids=str)
def test_a_listed_network_is_forbidden_to_its_edges(network: IPv4Network | IPv6Network) -> None:
    assert forbidden(str(network[0]))
    assert forbidden(str(network[-1]))


@given(st.text())
def test_no_text_raises(address: str) -> None:
    assert forbidden(address) in (True, False)
