"""TLS for loopback: an authority for this run, contexts for server and client, and their files.

`Certificates` is what most tests need. `Authority` issues any number of pairs, expired ones and those of clients, too.
"""

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import trustme

__all__ = ["LOOPBACK", "Authority", "Certificates", "Pair"]

LOOPBACK = ("localhost", "127.0.0.1", "::1")


class Pair(NamedTuple):
    """Files of a certificate with its chain, and of its private key, mode 0600."""

    certificate: Path
    key: Path

    @property
    def flags(self) -> list[str]:
        """The proxy's arguments for it."""
        return ["--tls-cert", str(self.certificate), "--tls-key", str(self.key)]


class Authority:
    """A certificate authority whose files are in `directory`: `ca_file` is its own certificate."""

    def __init__(self, directory: Path, name: str = "ca") -> None:
        self._authority = trustme.CA()
        self._directory = directory
        self.ca_file = directory / f"{name}.pem"
        self._authority.cert_pem.write_to_path(str(self.ca_file))
        self.client = ssl.create_default_context()
        self._authority.configure_trust(self.client)

    def pair(self, file: str, *names: str, days: float = 365) -> Pair:
        """Write a pair for `names`, those of loopback by default, that is valid for so many days from now, or was."""
        ends = datetime.now(UTC) + timedelta(days=days)
        begins = min(datetime.now(UTC), ends) - timedelta(days=1)
        issued = self._authority.issue_cert(*(names or LOOPBACK), not_before=begins, not_after=ends)
        pair = Pair(self._directory / f"{file}.pem", self._directory / f"{file}.key")
        pair.certificate.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        pair.key.touch(0o600)
        pair.key.write_bytes(issued.private_key_pem.bytes())
        return pair


@dataclass(frozen=True)
class Certificates:
    """`server` has a certificate for localhost, 127.0.0.1 and ::1; `client` trusts its authority, as in `ca_file`."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    ca_file: Path

    @classmethod
    def make(cls, directory: Path, *names: str) -> "Certificates":
        """Make an authority and write its certificate into `directory`; `names` replace those of loopback."""
        authority = trustme.CA()
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*(names or LOOPBACK)).configure_cert(server)
        client = ssl.create_default_context()
        authority.configure_trust(client)
        ca_file = directory / "ca.pem"
        authority.cert_pem.write_to_path(str(ca_file))
        return cls(server, client, ca_file)
