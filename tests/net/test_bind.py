"""Listening sockets: which addresses a host is, one port for all, Unix sockets, and errors that name the place."""

import errno
import socket
import stat
from pathlib import Path

import pytest

from proxy.net.bind import ListenSettings, bind, bind_tcp, bind_unix

BACKLOG = 64
needs_ipv6 = pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6")


def bound_names(*hosts: str) -> list[tuple[str, int]]:
    """Address and port of each socket for `hosts`."""
    sockets = bind_tcp(hosts, 0, BACKLOG)
    names = [bound.getsockname()[:2] for bound in sockets]
    for bound in sockets:
        bound.close()
    return names


def test_localhost_is_both_loopback_addresses_on_one_port() -> None:
    sockets = bind_tcp(["localhost"], 0, BACKLOG)
    names = [bound.getsockname()[:2] for bound in sockets]
    for bound in sockets:
        bound.close()
    assert [name[0] for name in names] in (["127.0.0.1", "::1"], ["127.0.0.1"])
    assert len({name[1] for name in names}) == 1


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_port_that_is_taken_is_named_and_nothing_stays_bound(host: str) -> None:
    (taken,) = bind_tcp(["127.0.0.1"], 0, BACKLOG)
    port = taken.getsockname()[1]
    with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.1 port {port}"):
        bind_tcp([host], port, BACKLOG)
    taken.close()
    for bound in bind_tcp([host], port, BACKLOG):
        bound.close()


def test_a_host_that_does_not_resolve_is_named() -> None:
    with pytest.raises(OSError, match=r"cannot listen on nowhere\.invalid"):
        bind_tcp(["nowhere.invalid"], 0, BACKLOG)


def test_a_unix_socket_is_private_and_a_stale_one_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    bound = bind_unix(path, BACKLOG)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(OSError, match="another process does") as caught:
        bind_unix(path, BACKLOG)
    assert caught.value.errno == errno.EADDRINUSE
    bound.close()
    bind_unix(path, BACKLOG).close()


def test_a_file_that_is_no_socket_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(OSError, match="cannot listen on"):
        bind_unix(path, BACKLOG)
    assert path.read_text() == "precious"


def test_a_path_that_is_too_long_for_a_socket_is_reported_as_that(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot listen on .*too long"):
        bind_unix(tmp_path / ("x" * 120), BACKLOG)


def test_several_hosts_have_a_socket_for_each_address_on_one_port() -> None:
    names = bound_names("127.0.0.1", "127.0.0.2", "127.0.0.1")
    assert [name[0] for name in names] == ["127.0.0.1", "127.0.0.2"]
    assert len({name[1] for name in names}) == 1


@needs_ipv6
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_every_address_means_both_families(address: str) -> None:
    (bound,) = bind_tcp(["::"], 0, BACKLOG)
    with bound, socket.create_connection((address, bound.getsockname()[1]), 5):
        pass


@needs_ipv6
def test_every_address_of_one_family_may_stand_beside_that_of_the_other() -> None:
    assert [name[0] for name in bound_names("::", "0.0.0.0")] == ["::", "0.0.0.0"]


def test_settings_say_whether_it_is_tcp_or_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    for uds, family in ((str(path), socket.AF_UNIX), ("", socket.AF_INET)):
        (bound,) = bind(ListenSettings(port=0, host=("127.0.0.1",), uds=uds, accept_backlog=BACKLOG))
        with bound:
            assert bound.family == family
