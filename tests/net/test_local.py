"""Which addresses are this machine's own."""

from ipaddress import ip_address

import pytest

from proxy.net.local import is_local


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9"])
def test_loopback_is_here(address: str) -> None:
    assert is_local(ip_address(address))


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "fe80::1%nowhere", "fe80::1"])
def test_an_address_of_another_machine_is_not_here(address: str) -> None:
    assert not is_local(ip_address(address))
