"""Who may call: the service secret, JWTs signed with it, and pre-signed URLs (protocol: Authentication).

Owns every comparison with a secret: constant-time, over bytes, and over every secret, whichever matches (a sum, not
`any`). Refuses by raising `Refusal`. Nothing here is ever logged, and no repr shows a key.
"""

import hmac
import json
import math
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from hashlib import sha256
from typing import TypeGuard

from proxy.base.errors import Code, Refusal
from proxy.wire.url import query_values

__all__ = ["Keyring", "mint"]

# Never a JWT's signing input (it holds spaces and no dot), so a token signed with the secret is no signing key.
_URL_KEY_LABEL = b"durable streams proxy: pre-signed URL key 1"

_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr](?:[ \t]+(.*))?", re.S)
_TOKEN = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_DIGITS = re.compile(rb"[0-9]+")


class Keyring:
    """Several secrets: the first signs, all verify. Raises ValueError when there is none, or one is unusable."""

    __slots__ = ("_digests", "_secrets", "_url_keys")

    def __init__(self, secrets: Sequence[str]) -> None:
        if not secrets or not all(secrets):
            raise ValueError("at least one secret is needed, and none may be empty")
        self._secrets = [_secret_bytes(secret) for secret in secrets]
        self._digests = [sha256(secret).digest() for secret in self._secrets]
        self._url_keys = [_mac(secret, _URL_KEY_LABEL) for secret in self._secrets]

    def __repr__(self) -> str:
        return f"<Keyring of {len(self._secrets)}>"

    def check_service(self, *, query: Sequence[bytes], authorization: Sequence[bytes], now: float) -> None:
        """Pass whoever shows the secret or a JWT signed with it. `now` is Unix time in seconds.

        `query` holds every decoded `secret` parameter, `authorization` every Authorization value. A `secret` parameter
        decides alone, so that an Authorization meant for somebody else does no harm; an empty one counts as none. Only
        the Bearer scheme is looked at. Raises Refusal: MISSING_SECRET, or INVALID_SECRET (also for a repeated one).
        """
        given = list(query) if any(query) else _bearer_tokens(authorization)
        if not any(given):
            raise Refusal(Code.MISSING_SECRET, "give the service secret as ?secret= or as a Bearer token")
        if len(given) > 1 or not (self._is_secret(given[0]) or self._is_token(given[0], now)):
            raise Refusal(Code.INVALID_SECRET, "the service secret or token is not valid")

    def sign(self, stream_id: str, expires: int) -> str:
        """The signature of a pre-signed URL: base64url without padding. `expires` is Unix time in seconds."""
        return _signature(self._url_keys[0], stream_id, b"%d" % expires).decode()

    def check_signature(self, stream_id: str, expires: Sequence[bytes], signature: Sequence[bytes], now: float) -> None:
        """Pass a genuine pre-signed URL that has not expired; the arguments are every decoded parameter of that name.

        Raises Refusal: MISSING_SIGNATURE when either is absent, SIGNATURE_INVALID, and SIGNATURE_EXPIRED only after the
        signature was found genuine.
        """
        if not expires or not signature:
            raise Refusal(Code.MISSING_SIGNATURE, "a pre-signed URL with expires and signature is needed")
        if len(expires) > 1 or len(signature) > 1 or not self._is_signature(stream_id, expires[0], signature[0]):
            raise Refusal(Code.SIGNATURE_INVALID, "the signature is not valid for this stream and expiry")
        if now >= int(expires[0]):
            raise Refusal(Code.SIGNATURE_EXPIRED, "the pre-signed URL has expired")

    def check_read(
        self, stream_id: str, query: Sequence[tuple[bytes, bytes]], authorization: Sequence[bytes], now: float
    ) -> None:
        """Pass a reader: by the pre-signed URL when the query holds any part of one, else by the service secret.

        Raises Refusal as the two do; half a pre-signed URL is SIGNATURE_INVALID.
        """
        expires, signature = query_values(query, b"expires"), query_values(query, b"signature")
        if not expires and not signature:
            self.check_service(query=query_values(query, b"secret"), authorization=authorization, now=now)
        else:
            self.check_signature(stream_id, expires or [b""], signature or [b""], now)

    def _is_secret(self, credential: bytes) -> bool:
        """Digests are compared, so that time does not tell the secret's length either."""
        digest = sha256(credential).digest()
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0

    def _is_token(self, credential: bytes, now: float) -> bool:
        """A JWT (RFC 7519): nothing of it is decoded before its signature has been verified."""
        parts = _TOKEN.fullmatch(credential)
        if parts is None:
            return False
        header, payload, signature = parts.groups()
        signed = header + b"." + payload
        if not sum(hmac.compare_digest(_base64url(_mac(secret, signed)), signature) for secret in self._secrets):
            return False
        head, claims = _json_object(header), _json_object(payload)
        if head is None or claims is None or head.get("alg") != "HS256" or "crit" in head:
            return False
        expires, begins = claims.get("exp"), claims.get("nbf", 0)
        return _is_date(expires) and _is_date(begins) and begins <= now < expires

    def _is_signature(self, stream_id: str, expires: bytes, signature: bytes) -> bool:
        """Compared as encoded text: another spelling of the same bytes is another signature."""
        genuine = sum(hmac.compare_digest(_signature(key, stream_id, expires), signature) for key in self._url_keys)
        return genuine > 0 and _DIGITS.fullmatch(expires) is not None


def mint(secret: str, now: float, lifetime: float) -> str:
    """A service JWT for `lifetime` seconds from `now` (Unix time): what an app's backend hands to its browser."""
    header = _base64url(b'{"alg":"HS256","typ":"JWT"}')
    claims = {"iat": math.floor(now), "exp": math.ceil(now + lifetime)}
    signed = header + b"." + _base64url(json.dumps(claims, separators=(",", ":")).encode())
    return (signed + b"." + _base64url(_mac(_secret_bytes(secret), signed))).decode()


def _bearer_tokens(authorization: Sequence[bytes]) -> list[bytes]:
    return [match[1] or b"" for value in authorization if (match := _BEARER.fullmatch(value))]


def _secret_bytes(secret: str) -> bytes:
    """The very bytes that the environment or a file held."""
    try:
        return secret.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        raise ValueError("a secret is not text") from None  # the original error would quote it


def _mac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _signature(key: bytes, stream_id: str, expires: bytes) -> bytes:
    return _base64url(_mac(key, stream_id.encode(errors="backslashreplace") + b":" + expires))


def _base64url(data: bytes) -> bytes:
    return urlsafe_b64encode(data).rstrip(b"=")


def _json_object(encoded: bytes) -> dict[str, object] | None:
    """The JSON object in strict unpadded base64url (RFC 7515 section 2), or None."""
    try:
        data = urlsafe_b64decode(encoded + b"=" * (-len(encoded) % 4))
        value = json.loads(data.decode()) if _base64url(data) == encoded else None
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _is_date(value: object) -> TypeGuard[int | float]:
    """A NumericDate (RFC 7519 section 2): a finite number, and true is none."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)
