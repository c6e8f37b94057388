"""TLS at our own port: contexts from certificate files, which certificate a client gets, and how new files replace old.

A context is never changed after it was made. Loading a new pair into a living one is accepted even when key and
certificate do not belong together, and every handshake after that fails. So `prepared` makes new contexts, which check
each pair, and only then they take the place of the old ones: each handshake has all of the old or all of the new.
"""

import os
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import NoReturn

from proxy.base.exposed import exposure
from proxy.net.certificate import Certificate, read_certificate

__all__ = ["TLS_VERSIONS", "ServerCertificates", "TlsError", "TlsSettings", "load_pair", "trust"]

TLS_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
"""Versions that a server may speak, by the names that settings have for them."""

# TLS 1.2 with forward secrecy and authenticated encryption only, as HTTP/2 demands (RFC 9113 section 9.2.2). TLS 1.3
# has nothing else.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


class TlsError(Exception):
    """A certificate or key cannot be used; the message says which, why and what to do, in one line."""


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """TLS for clients: files as PEM, times in seconds."""

    tls_cert: tuple[str, ...]  # files of certificates, each with its chain; empty: no TLS
    tls_key: tuple[str, ...]  # files of the private keys, in the order of `tls_cert`
    tls_min_version: str  # oldest version of TLS that is accepted: 1.2 or 1.3
    tls_client_ca: str  # file of the authorities of client certificates; empty: clients need none
    tls_handshake_seconds: float  # longest time of a handshake
    tls_close_seconds: float  # time for a client to take the rest and to answer the end of TLS; the sweep is stricter
    certificate_warning_days: int  # remaining lifetime of a certificate, in days, at which a warning is logged


@dataclass(frozen=True, slots=True)
class _Pair:
    """A certificate with a context that uses it."""

    file: str
    certificate: Certificate
    context: ssl.SSLContext


class ServerCertificates:
    """The certificates of a server. `context` is for the next handshake."""

    def __init__(self, settings: TlsSettings, protocols: Sequence[str]) -> None:
        """Read the files. `protocols`: what ALPN offers, the best first. Raises TlsError."""
        self._settings = settings
        self._protocols = list(protocols)
        self.prepared()()

    def context(self) -> ssl.SSLContext:
        """The context for a handshake that begins now; it chooses the certificate by the name that the client asks for.

        A client that names no host, or one that no certificate is for, gets the first certificate.
        """
        return self._pairs[0].context

    def prepared(self) -> Callable[[], None]:
        """Read the files again; the function that puts them into use. Raises TlsError; nothing has changed then."""
        pairs = self._load()

        def use() -> None:
            self._pairs = pairs

        return use

    def warnings(self, now: datetime) -> list[str]:
        """What is wrong, or soon will be, with certificates that can be used all the same; one line each."""
        soon = timedelta(days=self._settings.certificate_warning_days)
        lines = []
        for pair in self._pairs:
            begins, ends = pair.certificate.begins, pair.certificate.ends
            if ends <= now:
                lines.append(f"The certificate {pair.file} expired on {ends:%Y-%m-%d}: clients will refuse it")
            elif begins > now:
                lines.append(f"The certificate {pair.file} is valid from {begins:%Y-%m-%d %H:%M} UTC only")
            elif ends <= now + soon:
                lines.append(f"The certificate {pair.file} expires on {ends:%Y-%m-%d}")
        return lines

    def _load(self) -> tuple[_Pair, ...]:
        pairs = tuple(map(self._pair, self._settings.tls_cert, self._settings.tls_key))
        by_name: dict[str, ssl.SSLContext] = {}
        for pair in pairs:
            for name in pair.certificate.names:
                by_name.setdefault(name, pair.context)

        def choose(handshake: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            """Take the certificate for `name`, or for all names of its domain (RFC 6125 section 6.4.3)."""
            wanted = (name or "").lower()
            found = by_name.get(wanted) or by_name.get(f"*.{wanted.partition('.')[2]}")
            if found is not None:
                handshake.context = found

        if len(pairs) > 1:
            pairs[0].context.sni_callback = choose
        return pairs

    def _pair(self, certificate_file: str, key_file: str) -> _Pair:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = TLS_VERSIONS[self._settings.tls_min_version]
        context.set_ciphers(_CIPHERS)
        context.options |= ssl.OP_NO_RENEGOTIATION  # it costs us more than the client (RFC 9113 section 9.2.1)
        context.set_alpn_protocols(self._protocols)
        certificate = load_pair(context, certificate_file, key_file)
        if self._settings.tls_client_ca:
            context.verify_mode = ssl.CERT_REQUIRED
            trust(context, self._settings.tls_client_ca)
        return _Pair(certificate_file, certificate, context)


def load_pair(context: ssl.SSLContext, certificate_file: str, key_file: str) -> Certificate:
    """Load a certificate with its chain, and its private key, into a new context. Raises TlsError."""
    try:
        certificate = read_certificate(_text(certificate_file, "certificate"))
    except ValueError:
        raise TlsError(f"the file {certificate_file} holds no certificate that can be read (PEM is needed)") from None
    key = _text(key_file, "private key", is_secret=True)

    def is_encrypted() -> NoReturn:
        raise TlsError(
            f"the private key {key_file} is encrypted: write it in clear into a file that only the proxy can read"
            f" (openssl pkey -in {key_file} -out FILE)"
        )

    try:
        context.load_cert_chain(certificate_file, key_file, password=is_encrypted)
    except ssl.SSLError as error:
        if error.reason in ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH"):
            reason = f"the private key {key_file} does not belong to the certificate {certificate_file}"
            raise TlsError(f"{reason} (certificates and keys are given in the same order)") from None
        if "PRIVATE KEY-----" not in key:
            raise TlsError(f"the file {key_file} holds no private key (PEM is needed)") from None
        reason = (error.reason or "unknown").lower().replace("_", " ")
        raise TlsError(f"{certificate_file} with {key_file} cannot be used: {reason}") from None
    return certificate


def trust(context: ssl.SSLContext, file: str) -> None:
    """Trust the certificate authorities of `file`. Raises TlsError."""
    _text(file, "authorities file")
    try:
        context.load_verify_locations(cafile=file)
    except ssl.SSLError:
        raise TlsError(f"the file {file} holds no certificate authority (PEM is needed)") from None


def _text(file: str, named: str, *, is_secret: bool = False) -> str:
    try:
        with Path(file).open(encoding="utf-8", errors="replace") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            text = opened.read()
    except OSError as error:
        raise TlsError(f"the {named} {file} cannot be read: {error.strerror}") from None
    if is_secret and (does := exposure(mode)):
        raise TlsError(f"the {named} {file}: every user of this machine can {does} it (chmod o-rwx {file})")
    return text
