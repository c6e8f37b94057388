"""Who may call: the service secret, tokens signed with it, and pre-signed URLs (protocol: Authentication).

The one place where credentials are checked: an operation names the `Access` that it asks for and gets a `Caller`, or
Refusal is raised. Owns every comparison with a secret: in constant time, over bytes, and over all secrets whichever
matches (a sum, not `any`). Nothing here is logged, and no repr shows a key.
"""

import hmac
import re
from base64 import urlsafe_b64encode
from collections.abc import Sequence
from hashlib import sha256

from proxy.base.errors import Code, Refusal
from proxy.policy.caller import Access, Caller, Credential
from proxy.policy.tokens import TokenError, TokenKey, read_claims, secret_bytes
from proxy.wire.url import query_values

__all__ = ["Keyring", "weakness"]

# The key of pre-signed URLs is derived, so that the secret itself signs nothing but tokens. The label is never the
# signing input of a token: it has spaces and no dot. So no token signed with the secret tells anything of the key.
_URL_KEY_LABEL = b"durable streams proxy: pre-signed URL key 1"

# Under which names Idempotency-Keys are kept in storage: a key of its own, so that a name tells nothing of a signature.
_NAME_KEY_LABEL = b"durable streams proxy: Idempotency-Key name key 1"

_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr](?:[ \t]+(.*))?", re.S)
_DIGITS = re.compile(rb"[0-9]+")
_STRONG_BYTES = 32  # of a secret: as much as its HMAC's output (RFC 7518 section 3.2)
_STRONG_VARIETY = 8  # different bytes in it: random text of that length has more, in any alphabet


def weakness(secret: str) -> str | None:
    """Why `secret` can be guessed, as a phrase; None when nothing shows that it can.

    A pre-signed URL or a token lets anybody try secrets offline, millions a second.
    """
    data = secret_bytes(secret)
    if len(data) < _STRONG_BYTES:
        return f"it is shorter than {_STRONG_BYTES} bytes"
    if len(set(data)) < _STRONG_VARIETY:
        return "it repeats a few characters"
    return None


class Keyring:
    """Several secrets: the first signs, all verify. Raises ValueError when there is none, or one is unusable."""

    __slots__ = ("_digests", "_name_keys", "_token_keys", "_url_keys")

    def __init__(self, secrets: Sequence[str]) -> None:
        if not secrets or not all(secrets):
            raise ValueError("at least one secret is needed, and none may be empty")
        keys = [secret_bytes(secret) for secret in secrets]
        self._digests = [sha256(key).digest() for key in keys]
        self._token_keys = [TokenKey(key) for key in keys]
        self._url_keys = [hmac.digest(key, _URL_KEY_LABEL, "sha256") for key in keys]
        self._name_keys = [hmac.digest(key, _NAME_KEY_LABEL, "sha256") for key in keys]

    def __repr__(self) -> str:
        return f"<Keyring of {len(self._digests)}>"

    def sign(self, stream_id: str, expires: int) -> str:
        """The signature of a pre-signed URL: base64url without padding. `expires` is Unix time in seconds."""
        return _signature(self._url_keys[0], stream_id, b"%d" % expires).decode()

    def hidden_names(self, parts: Sequence[bytes]) -> list[str]:
        """Names for what `parts` identify, base64url: nobody without a secret can compute or recognise them.

        One for each secret, the first secret's first. Different parts, however they are split, have different names.
        """
        message = b"".join(b"%d:%b" % (len(part), part) for part in parts)
        macs = [hmac.digest(key, message, "sha256") for key in self._name_keys]
        return [urlsafe_b64encode(mac).rstrip(b"=").decode() for mac in macs]

    def admit(
        self,
        access: Access,
        stream_id: str,
        query: Sequence[tuple[bytes, bytes]],
        authorization: Sequence[bytes],
        now: float,
    ) -> Caller:
        """The caller of an operation that asks for `access`. `now` is Unix time in seconds.

        `stream_id` as it stands in the path, in any spelling ("": the path has none); `query`: the decoded parameters;
        `authorization`: every Authorization value. Where a pre-signed URL is accepted, a query with any part of one is
        judged by that alone. Raises Refusal: MISSING_ and INVALID_SECRET, INSUFFICIENT_SCOPE, MISSING_SIGNATURE,
        SIGNATURE_INVALID, and SIGNATURE_EXPIRED.
        """
        if access is Access.ANYONE:
            return Caller(Credential.NONE)
        if access.takes_signature:
            expires, signature = query_values(query, b"expires"), query_values(query, b"signature")
            if access.right is None or expires or signature:
                return self._signed(access, stream_id, expires, signature, now)
        caller, has_right = self._service(access, query_values(query, b"secret"), authorization, now)
        if not has_right:
            raise Refusal(Code.INSUFFICIENT_SCOPE, "the token's scope does not include this operation")
        return caller

    def _signed(
        self, access: Access, stream_id: str, expires: Sequence[bytes], signature: Sequence[bytes], now: float
    ) -> Caller:
        """The signature is checked before the clock, so that only a genuine URL is ever called expired."""
        if access.right is None and not (expires and signature):
            raise Refusal(Code.MISSING_SIGNATURE, "a pre-signed URL with expires and signature is needed")
        if len(expires) != 1 or len(signature) != 1 or not self._is_signature(stream_id, expires[0], signature[0]):
            raise Refusal(Code.SIGNATURE_INVALID, "the signature is not valid for this stream and expiry")
        if now >= int(expires[0]):
            raise Refusal(Code.SIGNATURE_EXPIRED, "the pre-signed URL has expired")
        return Caller(Credential.SIGNATURE)

    def _service(
        self, access: Access, secret: Sequence[bytes], authorization: Sequence[bytes], now: float
    ) -> tuple[Caller, bool]:
        """The caller that the service secret or a token shows, and whether it has the right that is asked for.

        A `secret` parameter decides alone, so that an Authorization meant for somebody else does no harm; an empty one
        counts as none. Only the Bearer scheme is looked at. A repeated credential is invalid, even if each is right.
        """
        given = list(secret) if any(secret) else _bearer_tokens(authorization)
        if not any(given):
            raise Refusal(Code.MISSING_SECRET, "give the service secret as ?secret= or as a Bearer token")
        if len(given) > 1:
            raise Refusal(Code.INVALID_SECRET, "the service secret or token is given more than once")
        if self._is_secret(given[0]):
            return Caller(Credential.SECRET), True
        payload = self._genuine(given[0])
        if payload is None:
            raise Refusal(Code.INVALID_SECRET, "the service secret or token is not valid")
        try:
            claims = read_claims(payload, now)
        except TokenError as error:
            raise Refusal(Code.INVALID_SECRET, str(error)) from None
        return Caller(Credential.TOKEN, claims.subject, claims.upstream), access.right in claims.rights

    def _is_secret(self, credential: bytes) -> bool:
        """Digests are compared, so that time does not tell the secret's length either."""
        digest = sha256(credential).digest()
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0

    def _genuine(self, credential: bytes) -> bytes | None:
        """The payload of a token that was signed with one of the secrets."""
        payloads = [payload for key in self._token_keys if (payload := key.payload_of(credential)) is not None]
        return payloads[0] if payloads else None

    def _is_signature(self, stream_id: str, expires: bytes, signature: bytes) -> bool:
        """Compared as encoded text: another spelling of the same bytes is another signature."""
        genuine = sum(hmac.compare_digest(_signature(key, stream_id, expires), signature) for key in self._url_keys)
        return genuine > 0 and _DIGITS.fullmatch(expires) is not None


def _bearer_tokens(authorization: Sequence[bytes]) -> list[bytes]:
    return [match[1] or b"" for value in authorization if (match := _BEARER.fullmatch(value))]


def _signature(key: bytes, stream_id: str, expires: bytes) -> bytes:
    message = stream_id.encode(errors="backslashreplace") + b":" + expires
    return urlsafe_b64encode(hmac.digest(key, message, "sha256")).rstrip(b"=")
