"""TLS towards origins: which authorities are trusted, which certificate is shown to whom, why a handshake failed."""

import ssl
from collections.abc import Callable, Sequence

from proxy.net.tls import TlsError, load_pair, trust
from proxy.wire.url import UrlError, parse_url

__all__ = ["ClientContexts", "Contexts", "client_context", "handshake_fault", "origin_and_file"]

Contexts = Callable[[str, int, bool], ssl.SSLContext]
"""The context for a handshake with a host's port that begins now; the last argument: whether HTTP/2 is offered."""

# Codes of OpenSSL's X509_verify_cert_error.
_VERIFIED = {
    9: "its certificate is not valid yet",
    10: "its certificate has expired",
    18: "its certificate is self-signed and not trusted",
    19: "its certificate is not of a trusted authority",
    20: "its certificate is not of a trusted authority",
    21: "its certificate is not of a trusted authority",
    23: "its certificate has been revoked",
    62: "its certificate is for another host",
    64: "its certificate is for another address",
}


_Offered = dict[bool, ssl.SSLContext]
"""The same context twice: True: it offers HTTP/2 beside HTTP/1.1, False: HTTP/1.1 alone."""


class ClientContexts:
    """Contexts that verify origins; those of each origin with a client certificate, and those of all others."""

    def __init__(self, ca_file: str, certificates: Sequence[str]) -> None:
        """`ca_file`: authorities to trust beside the system's, empty for none. `certificates`: each ORIGIN=FILE.

        Raises TlsError.
        """
        self._ca_file = ca_file
        self._certificates = [origin_and_file(text) for text in certificates]
        self.prepared()()

    def __call__(self, host: str, port: int, http2: bool) -> ssl.SSLContext:
        """See `Contexts`."""
        return self._by_origin.get((host, port), self._common)[http2]

    def prepared(self) -> Callable[[], None]:
        """Read the files again; the function that puts them into use. Raises TlsError; nothing has changed then."""
        common = self._contexts()
        by_origin: dict[tuple[str, int], _Offered] = {}
        for origin, file in self._certificates:
            by_origin[origin] = self._contexts()
            for context in by_origin[origin].values():
                load_pair(context, file, file)

        def use() -> None:
            self._common, self._by_origin = common, by_origin

        return use

    def _contexts(self) -> _Offered:
        contexts = {http2: client_context(self._ca_file) for http2 in (False, True)}
        contexts[False].set_alpn_protocols(["http/1.1"])
        contexts[True].set_alpn_protocols(["h2", "http/1.1"])
        return contexts


def client_context(ca_file: str) -> ssl.SSLContext:
    """A context that verifies against the system's authorities and those of `ca_file`, empty for none.

    Raises TlsError.
    """
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file:
        trust(context, ca_file)
    return context


def origin_and_file(text: str) -> tuple[tuple[str, int], str]:
    """Host, port and file of `https://HOST[:PORT]=FILE`. Raises TlsError."""
    origin, _, file = text.partition("=")
    try:
        url = parse_url(origin.encode())
    except UrlError as error:
        raise TlsError(f"{origin!r} is not an origin: {error}") from None
    if url.scheme != "https" or url.target != b"/" or not file:
        raise TlsError(f"{text!r} must be https://HOST[:PORT]=FILE")
    return (url.host, url.port), file


def handshake_fault(error: OSError) -> str:
    """What was wrong in a handshake that failed with `error`, without a byte of the peer's."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFIED.get(error.verify_code, "its certificate was not accepted")
    reason = (error.reason or "") if isinstance(error, ssl.SSLError) else ""
    if reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG"):
        return "it does not speak TLS at this port"
    if "PROTOCOL" in reason:
        return "it speaks no common version of TLS"
    if "ALERT" in reason:
        return "it refused, perhaps for want of a client certificate (--upstream-cert)"
    return "it closed the connection" if not reason or "EOF" in reason else "the protocol was broken"
