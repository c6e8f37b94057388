"""Certificates of a server: what they say, which one a client gets, reload, and files that cannot be used."""

import ssl
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from proxy.net.certificate import read_certificate
from proxy.net.tls import ServerCertificates, TlsError, TlsSettings
from tests.kit.certificates import LOOPBACK, Authority, Pair

NOW = datetime.now(UTC)


def settings(*pairs: Pair, **changed: object) -> TlsSettings:
    found = TlsSettings(
        tls_cert=tuple(str(pair.certificate) for pair in pairs),
        tls_key=tuple(str(pair.key) for pair in pairs),
        tls_min_version="1.2",
        tls_client_ca="",
        tls_handshake_seconds=1.0,
        tls_close_seconds=1.0,
        certificate_warning_days=7,
    )
    return replace(found, **changed)  # type: ignore[arg-type]  # fields of TlsSettings, by name


class Handshake:
    """A handshake in memory between a server's context and a client that names a host, or none."""

    def __init__(self, server: ssl.SSLContext, client: ssl.SSLContext, name: str | None = None) -> None:
        there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.client = client.wrap_bio(back, there, server_hostname=name)
        self.server = server.wrap_bio(there, back, server_side=True)

    def run(self) -> "Handshake":
        """Finish it, and one record beyond: over TLS 1.3 a server learns last that it was refused."""
        unfinished: list[Callable[[], object]] = [self.client.do_handshake, self.server.do_handshake]
        unfinished += [partial(self.client.write, b"x"), partial(self.server.read, 1)]
        while unfinished:
            try:
                unfinished[0]()
                unfinished.pop(0)
            except ssl.SSLWantReadError:
                unfinished.append(unfinished.pop(0))
        return self

    def names(self) -> list[str]:
        shown = self.client.getpeercert()
        assert shown is not None
        return [str(name[1]) for name in shown["subjectAltName"]]


def client_of(authority: Authority, **protocols: list[str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.ca_file))
    if protocols:
        context.set_alpn_protocols(protocols["alpn"])
    return context


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


# What a certificate says


def test_names_and_times_are_those_that_openssl_reads(tmp_path: Path, authority: Authority) -> None:
    pair = authority.pair("a", "a.example", "*.B.example", "127.0.0.1", "2001:db8::1", days=30)
    told = ssl._ssl._test_decode_cert(str(pair.certificate))  # type: ignore[attr-defined]  # an oracle for this test
    read = read_certificate(pair.certificate.read_text())
    assert [name.lower() for _, name in told["subjectAltName"]][:3] == list(read.names[:3])
    assert read.names[3] == "2001:db8::1"
    assert read.begins.timestamp() == ssl.cert_time_to_seconds(told["notBefore"])
    assert read.ends.timestamp() == ssl.cert_time_to_seconds(told["notAfter"])


def test_years_have_two_digits_until_2049_and_four_after(authority: Authority) -> None:
    for days in (365 * 10, 365 * 40):
        pair = authority.pair("a", days=days)
        ends = read_certificate(pair.certificate.read_text()).ends
        assert abs(ends - datetime.now(UTC) - timedelta(days=days)) < timedelta(minutes=1)


def test_a_certificate_that_is_cut_is_a_value_error_wherever_it_is_cut(authority: Authority) -> None:
    first, end, _ = authority.pair("a").certificate.read_text().partition("-----END CERTIFICATE-----\n")
    whole = ssl.PEM_cert_to_DER_cert(first + end)
    for size in range(1, len(whole), 7):
        with pytest.raises(ValueError, match=r".*"):
            read_certificate(ssl.DER_cert_to_PEM_cert(whole[:size]))


# Which certificate a client gets


def test_a_client_gets_the_certificate_of_the_name_it_asks_for_else_the_first(authority: Authority) -> None:
    pairs = [authority.pair("1", "one.example"), authority.pair("2", "two.example", "*.wide.example")]
    server = ServerCertificates(settings(*pairs), ["http/1.1"])
    client = client_of(authority)
    for name, shown in (
        ("one.example", "one.example"),
        ("TWO.example", "two.example"),
        ("a.wide.example", "two.example"),
    ):
        assert Handshake(server.context(), client, name).run().names()[0] == shown
    client.check_hostname = False
    for unknown in (None, "other.example", "a.b.wide.example", "wide.example"):
        assert Handshake(server.context(), client, unknown).run().names() == ["one.example"]


def test_a_client_without_a_common_protocol_is_served_all_the_same(authority: Authority) -> None:
    server = ServerCertificates(settings(authority.pair("a")), ["http/1.1"])
    for offered, chosen in ((["h2", "http/1.1"], "http/1.1"), (["h3"], None)):
        done = Handshake(server.context(), client_of(authority, alpn=offered), "localhost").run()
        assert done.server.selected_alpn_protocol() == chosen


def test_an_old_version_is_refused(authority: Authority) -> None:
    server = ServerCertificates(settings(authority.pair("a"), tls_min_version="1.3"), ["http/1.1"])
    client = client_of(authority)
    assert Handshake(server.context(), client, "localhost").run().server.version() == "TLSv1.3"
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError, match=r"unsupported protocol"):
        Handshake(server.context(), client, "localhost").run()


def test_over_tls_12_only_authenticated_encryption_is_spoken(authority: Authority) -> None:
    server = ServerCertificates(settings(authority.pair("a")), ["http/1.1"])
    client = client_of(authority)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers("ECDHE+AES")
    cipher = Handshake(server.context(), client, "localhost").run().server.cipher()
    assert cipher is not None
    assert "GCM" in cipher[0]
    client.set_ciphers("ECDHE-ECDSA-AES128-SHA256")
    with pytest.raises(ssl.SSLError):
        Handshake(server.context(), client, "localhost").run()


def test_with_a_client_authority_a_client_needs_its_certificate(tmp_path: Path, authority: Authority) -> None:
    others = Authority(tmp_path, "others")
    mine, foreign = others.pair("client", "client.example"), authority.pair("foreign", "client.example")
    server = ServerCertificates(settings(authority.pair("a"), tls_client_ca=str(others.ca_file)), ["http/1.1"])
    client = client_of(authority)
    with pytest.raises(ssl.SSLError):
        Handshake(server.context(), client, "localhost").run()
    client.load_cert_chain(foreign.certificate, foreign.key)
    with pytest.raises(ssl.SSLError):
        Handshake(server.context(), client, "localhost").run()
    client.load_cert_chain(mine.certificate, mine.key)
    assert Handshake(server.context(), client, "localhost").run().server.getpeercert()


# Reload


def test_a_reload_is_for_later_handshakes_and_a_bad_file_keeps_all_old_ones(authority: Authority) -> None:
    pairs = [authority.pair("1", "one.example"), authority.pair("2", "two.example")]
    server = ServerCertificates(settings(*pairs), ["http/1.1"])
    begun = Handshake(server.context(), client_of(authority), "two.example")
    authority.pair("1", "one.example", "new.example")
    Path(pairs[1].key).write_bytes(pairs[0].key.read_bytes())
    with pytest.raises(TlsError, match="does not belong to"):
        server.prepared()()
    assert Handshake(server.context(), client_of(authority), "one.example").run().names() == ["one.example"]
    authority.pair("2", "two.example", "newer.example")
    server.prepared()()
    assert Handshake(server.context(), client_of(authority), "new.example").run().names() == [
        "one.example",
        "new.example",
    ]
    assert begun.run().names() == ["two.example"]


# Files that cannot be used, and those that soon cannot


def _broken(what: str, pair: Pair, other: Pair) -> None:
    if what == "missing":
        pair.key.unlink()
    elif what == "readable":
        pair.key.chmod(0o644)
    elif what == "mismatch":
        pair.key.write_bytes(other.key.read_bytes())
    elif what == "no key":
        pair.key.write_text("nothing")
    elif what == "no certificate":
        pair.certificate.write_text("nothing")
    elif what == "cut":
        pair.certificate.write_text(pair.certificate.read_text()[:200])
    elif what == "encrypted":
        pair.key.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("missing", "the private key .*a.key cannot be read: No such file"),
        ("readable", "every user of this machine can read it .chmod o-rwx"),
        ("mismatch", "a.key does not belong to the certificate .*a.pem"),
        ("no key", "a.key holds no private key"),
        ("no certificate", "a.pem holds no certificate"),
        ("cut", "a.pem holds no certificate"),
    ],
)
def test_a_pair_that_cannot_be_used_is_refused_with_its_file_and_the_reason(
    authority: Authority, what: str, said: str
) -> None:
    pair, other = authority.pair("a"), authority.pair("b")
    _broken(what, pair, other)
    with pytest.raises(TlsError, match=said) as raised:
        ServerCertificates(settings(pair), ["http/1.1"])
    assert "\n" not in str(raised.value)


def test_an_encrypted_key_is_refused_without_asking_for_its_password(authority: Authority) -> None:
    from cryptography.hazmat.primitives import serialization

    pair = authority.pair("a")
    key = serialization.load_pem_private_key(pair.key.read_bytes(), None)
    pair.key.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"password"),
        )
    )
    with pytest.raises(TlsError, match=r"is encrypted: .*openssl pkey"):
        ServerCertificates(settings(pair), ["http/1.1"])


def test_a_client_authority_that_is_none_is_refused(tmp_path: Path, authority: Authority) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(TlsError, match="empty holds no certificate authority"):
        ServerCertificates(settings(authority.pair("a"), tls_client_ca=str(empty)), ["http/1.1"])


@pytest.mark.parametrize(
    ("days", "warning"), [(-1, "expired on"), (3, "expires on"), (30, None)], ids=["expired", "soon", "valid"]
)
def test_an_expired_certificate_is_used_and_warned_about(authority: Authority, days: int, warning: str | None) -> None:
    lines = ServerCertificates(settings(authority.pair("a", *LOOPBACK, days=days)), ["http/1.1"]).warnings(NOW)
    assert len(lines) == (warning is not None)
    assert all(warning is not None and warning in line for line in lines)


def test_a_certificate_of_the_future_is_warned_about(authority: Authority) -> None:
    certificates = ServerCertificates(settings(authority.pair("a")), ["http/1.1"])
    assert "valid from" in certificates.warnings(NOW - timedelta(days=2))[0]
