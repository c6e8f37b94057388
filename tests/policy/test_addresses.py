"""Addresses after resolution: every range that hides a private host, what is never reached, and what is our own."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy.addresses import NEVER, SPECIAL, AddressRules, IPAddress, Reach, is_forbidden

BAD = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "100.100.100.200",
    "127.0.0.1", "127.255.255.254", "168.63.129.16", "169.254.169.254", "169.254.170.2", "172.16.0.1",
    "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255",
    "198.51.100.7", "203.0.113.9", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "::", "::1", "::2",
    "::7f00:1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:a9fe:a9fe",
    "::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::8.8.8.8", "64:ff9b:1::a00:1", "100::1", "100:0:0:1::1",
    "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1",
    "2002:7f00:1::1", "2002:808:808::1", "3ffe::1", "3fff::1", "4000::1", "5f00::1", "fc00::1", "fd00:ec2::254",
    "fd20:ce::254", "fe80::1", "fe80::1%eth0", "fe80::a9fe:a9fe%2", "fec0::1", "fe00::1", "ff02::1", "ff0e::1",
]  # fmt: skip

GOOD = [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255",
    "128.0.0.1", "168.63.129.15", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.1",
    "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255", "2000::1", "2001:200::1",
    "2001:4860:4860::8888", "2606:4700::6810:84e5", "2a00:1450:4001:81b::200e", "2003::1",
]  # fmt: skip


# The metadata services of clouds, and link-local addresses, also behind every gateway that translates.
NEVER_REACHED = [
    "169.254.169.254", "169.254.170.2", "169.254.0.1", "169.254.255.255", "fe80::1", "fe80::1%eth0", "febf::1",
    "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254",
    "fd00:c1::a9fe:a9fe", "fd00:42::42", "::ffff:169.254.169.254", "::169.254.169.254", "::ffff:0:169.254.169.254",
    "64:ff9b::169.254.169.254", "64:ff9b:1::169.254.169.254", "64:ff9b:1:a9fe:a9:fe00::", "64:ff9b:1:a9:fe:a9fe::",
    "64:ff9b:1:ff:a9:fea9:fe00::", "2002:a9fe:a9fe::1", "2001:0:a9fe:a9fe::1", "2001::5601:5601",
    "2a00:1450::5efe:a9fe:a9fe", "fd12::200:5efe:a9fe:a9fe", "::ffff:100.100.100.200",
]  # fmt: skip

PRIVATE = [
    "127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "::1", "fd12::1", "fc00::1",
    "::ffff:10.0.0.1", "64:ff9b::8.8.8.8", "8.8.8.8", "2606:4700::1", "0.0.0.0", "198.18.0.1",
]  # fmt: skip


@pytest.mark.parametrize("address", BAD)
def test_an_address_that_could_be_inside_is_forbidden_to_a_public_upstream(address: str) -> None:
    assert is_forbidden(ip_address(address), Reach.PUBLIC)


@pytest.mark.parametrize("address", GOOD)
@pytest.mark.parametrize("reach", Reach)
def test_a_public_address_is_forbidden_to_nobody(address: str, reach: Reach) -> None:
    assert not is_forbidden(ip_address(address), reach)


@pytest.mark.parametrize("address", PRIVATE)
def test_a_private_address_is_open_to_patterns_that_allow_them(address: str) -> None:
    assert not is_forbidden(ip_address(address), Reach.PRIVATE)


@pytest.mark.parametrize("address", NEVER_REACHED)
def test_link_local_and_metadata_addresses_are_open_to_their_literal_only(address: str) -> None:
    ip = ip_address(address)
    assert is_forbidden(ip, Reach.PUBLIC) or address.startswith("2a00")
    assert is_forbidden(ip, Reach.PRIVATE)
    assert not is_forbidden(ip, Reach.LITERAL)


@given(st.ip_addresses())
def test_what_the_standard_library_calls_not_global_is_forbidden(ip: IPAddress) -> None:
    """One way only: the library lets NAT64, IPv4-compatible and site-local addresses through."""
    assert is_forbidden(ip, Reach.PUBLIC) or (ip.is_global and not ip.is_multicast and not ip.is_reserved)


@given(st.ip_addresses())
def test_a_wider_reach_never_forbids_more(ip: IPAddress) -> None:
    public, private, literal = (is_forbidden(ip, reach) for reach in (Reach.PUBLIC, Reach.PRIVATE, Reach.LITERAL))
    assert public >= private >= literal or int(ip) >> 32 & 0xFDFFFFFF == 0x5EFE


def disguises(address: IPv4Address) -> list[IPv6Address]:
    """The IPv6 addresses that a kernel or a gateway turns into `address`."""
    number = int(address)
    return [
        IPv6Address(disguise)
        for disguise in (
            number, 0xFFFF << 32 | number, 0xFFFF << 48 | number, 0x64FF9B << 96 | number,
            0x64FF9B0001 << 80 | number, 0x64FF9B0001 << 80 | number << 24, 0x2002 << 112 | number << 80,
            0x2001 << 112 | (number ^ 0xFFFFFFFF), 0xFE80 << 112 | 0x5EFE << 32 | number,
        )
    ]  # fmt: skip


@given(st.integers(0, 2**32 - 1).map(IPv4Address))
def test_no_ipv4_address_gets_through_in_an_ipv6_disguise(address: IPv4Address) -> None:
    assert all(is_forbidden(disguise, Reach.PUBLIC) for disguise in disguises(address))


@given(st.integers(0xA9FE0000, 0xA9FEFFFF).map(IPv4Address))
def test_no_link_local_address_gets_through_in_an_ipv6_disguise_even_where_private_ones_do(
    address: IPv4Address,
) -> None:
    assert all(is_forbidden(disguise, Reach.PRIVATE) for disguise in disguises(address))


@pytest.mark.parametrize("network", SPECIAL, ids=str)
def test_a_listed_network_is_forbidden_to_its_edges(network: IPv4Network | IPv6Network) -> None:
    for ip in (network[0], network[-1]):
        assert is_forbidden(ip, Reach.PUBLIC)
        assert is_forbidden(ip, Reach.PRIVATE) or network not in NEVER


# What is our own


HERE = {ip_address(text) for text in ("192.168.7.7", "2606:4700::7")}


def rules() -> AddressRules:
    return AddressRules(HERE.__contains__)


def forbidden_at(own: AddressRules, address: str, port: int) -> bool:
    answers = {own.guard(reach)(ip_address(address), port) for reach in (Reach.PRIVATE, Reach.LITERAL)}
    assert len(answers) == 1  # own places are no matter of reach
    return answers.pop()


ALL_ADDRESSES = ["127.0.0.1", "::1", "192.168.7.7", "2606:4700::7", "0.0.0.0", "::", "127.9.9.9", "::ffff:127.0.0.1",
                 "::ffff:192.168.7.7", "::ffff:0.0.0.0", "64:ff9b::127.0.0.1"]  # fmt: skip


@pytest.mark.parametrize("address", ALL_ADDRESSES)
@pytest.mark.parametrize("listening", ["0.0.0.0", "::"])
def test_a_listener_on_every_address_is_no_upstream_at_any_of_them(listening: str, address: str) -> None:
    own = rules()
    own.add_listener(ip_address(listening), 4440)
    assert forbidden_at(own, address, 4440)
    assert not forbidden_at(own, address, 4441)
    assert not forbidden_at(own, "192.168.7.8", 4440)


@pytest.mark.parametrize(
    ("address", "is_own"),
    [("127.0.0.1", True), ("::ffff:127.0.0.1", True), ("0.0.0.0", True), ("::", True), ("::1", False),
     ("127.0.0.2", False), ("192.168.7.7", False), ("8.8.8.8", False)],
)  # fmt: skip
def test_a_listener_on_one_address_is_no_upstream_there(address: str, is_own: bool) -> None:
    own = rules()
    own.add_listener(ip_address("127.0.0.1"), 4440)
    assert forbidden_at(own, address, 4440) is is_own


@pytest.mark.parametrize(
    ("storage", "address", "is_own"),
    [("10.0.0.5", "10.0.0.5", True), ("10.0.0.5", "::ffff:10.0.0.5", True), ("10.0.0.5", "10.0.0.6", False),
     ("10.0.0.5", "127.0.0.1", False), ("127.0.0.1", "192.168.7.7", True), ("127.0.0.1", "::1", True),
     ("192.168.7.7", "127.0.0.1", True), ("::ffff:127.0.0.1", "127.0.0.1", True), ("::1", "0.0.0.0", True)],
)  # fmt: skip
def test_storage_is_no_upstream_once_it_was_dialled(storage: str, address: str, is_own: bool) -> None:
    """Where storage on this machine listens cannot be seen: each of the machine's addresses may be it."""
    own = rules()
    assert not forbidden_at(own, address, 4437)
    assert not own.storage_guard(ip_address(storage), 4437)
    assert forbidden_at(own, address, 4437) is is_own
    assert not forbidden_at(own, address, 4438)


def test_a_listener_is_never_forgotten_however_often_storage_moves() -> None:
    own = rules()
    own.add_listener(ip_address("127.0.0.1"), 4440)
    for number in range(1000):
        own.storage_guard(IPv4Address(0x0A000000 + number), 4437)
    assert forbidden_at(own, "127.0.0.1", 4440)
    assert forbidden_at(own, "10.0.3.231", 4437)


def test_guards_are_made_once_since_pools_know_origins_by_them() -> None:
    own = rules()
    assert own.guard(Reach.PUBLIC) is own.guard(Reach.PUBLIC)
    assert len({own.guard(reach) for reach in Reach}) == len(Reach)
