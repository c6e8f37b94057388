"""TLS for loopback: an authority for this run, contexts for server and client, and the authority's file."""

import ssl
from dataclasses import dataclass
from pathlib import Path

import trustme

__all__ = ["Certificates"]


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
        authority.issue_cert(*(names or ("localhost", "127.0.0.1", "::1"))).configure_cert(server)
        client = ssl.create_default_context()
        authority.configure_trust(client)
        ca_file = directory / "ca.pem"
        authority.cert_pem.write_to_path(str(ca_file))
        return cls(server, client, ca_file)
