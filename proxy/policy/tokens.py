"""JSON Web Tokens for the service (RFC 7519; protocol: Authentication): made and read, HS256 only.

PyJWT checks structure, algorithm and signature. With it a whole check takes 22 to 28 µs of CPU, where 50 are allowed;
code of our own took 10. Claims are read here: the library asks the machine for the time, and it accepts `exp` as text.

Refuses tokens without `exp`, tokens that ask for extensions (`crit`), and every claim of the protocol that is not
exactly of its type: a claim narrows what a token may do, so a claim that is not understood must not be ignored.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeGuard

import jwt
from jwt.algorithms import HMACAlgorithm

from proxy.policy.allowlist import Allowlist
from proxy.policy.caller import Right
from proxy.policy.pattern import PatternError

__all__ = ["Claims", "TokenError", "TokenKey", "make_token", "read_claims", "secret_bytes"]

# Canonical base64url (RFC 7515 section 2): no padding, and no other spelling of the same bytes.
_PART = rb"(?:[A-Za-z0-9_-]{4})*(?:[A-Za-z0-9_-][AQgw]|[A-Za-z0-9_-]{2}[AEIMQUYcgkosw048])?"
_TOKEN = re.compile(rb"(?:%b\.){2}%b" % (_PART, _PART))
_SCOPE = re.compile(r"[!#-\[\]-~]+(?: [!#-\[\]-~]+)*")  # RFC 6749 section 3.3
_MAX_SUBJECT_BYTES = 255
_MAX_PATTERNS = 100
_LISTS_REMEMBERED = 256

_BY_DEFAULT = frozenset(Right) - {Right.ADMIN}
_RIGHTS = {right.value: right for right in Right}


class TokenError(ValueError):
    """A token that is not accepted: the reason as a phrase, without anything of the token."""


@dataclass(frozen=True, slots=True)
class Claims:
    """What a genuine token says: whose it is, what it may do, and the patterns that narrow its upstreams."""

    subject: str | None
    rights: frozenset[Right]
    upstream: Allowlist | None


class _Hs256(HMACAlgorithm):
    """HMAC with SHA-256 whose key was prepared once."""

    def __init__(self) -> None:
        super().__init__(HMACAlgorithm.SHA256)

    def prepare_key(self, key: str | bytes) -> bytes:
        """The key as it is: `TokenKey` has had it judged."""
        return key.encode() if isinstance(key, str) else key

    def check_key_length(self, key: object) -> str | None:
        """Nothing: a weak secret is reported once, at the start, not with each token."""
        return None


class TokenKey:
    """A secret as the key of tokens. Raises ValueError for one that is a private key or a JWK by its form."""

    __slots__ = ("_jws", "_secret")

    def __init__(self, secret: bytes) -> None:
        try:
            self._secret = HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret)
        except jwt.InvalidKeyError:
            raise ValueError("a secret is a PEM, SSH or JSON Web Key, which is no shared secret") from None
        self._jws = jwt.PyJWS(algorithms=[])
        self._jws.register_algorithm("HS256", _Hs256())

    def __repr__(self) -> str:
        return "<TokenKey>"

    def payload_of(self, token: bytes) -> bytes | None:
        """The payload of `token` if it was signed with this secret, else None. Nothing of it is read before that."""
        if not _TOKEN.fullmatch(token):
            return None
        try:
            found = self._jws.decode_complete(token, self._secret, algorithms=["HS256"])
        except (jwt.PyJWTError, ValueError, RecursionError):
            return None
        payload: bytes = found["payload"]
        return None if "crit" in found["header"] else payload

    def sign(self, claims: Mapping[str, object]) -> str:
        """The token that says `claims`."""
        payload = json.dumps(claims, separators=(",", ":")).encode()
        return self._jws.encode(payload, self._secret, algorithm="HS256")


def read_claims(payload: bytes, now: float) -> Claims:
    """What the payload of a genuine token says at `now` (Unix time, seconds). Raises TokenError."""
    try:
        claims = json.loads(payload.decode())
    except (ValueError, RecursionError):
        raise TokenError("the token's payload is not JSON") from None
    if not isinstance(claims, dict):
        raise TokenError("the token's payload is not a JSON object")
    expires, begins = claims.get("exp"), claims.get("nbf", 0)
    if not _is_date(expires) or not _is_date(begins):
        raise TokenError("the token's exp or nbf is missing or is not a number")
    if not begins <= now < expires:
        raise TokenError("the token has expired" if now >= expires else "the token is not valid yet")
    return Claims(_subject(claims), _rights(claims), _upstream(claims))


def make_token(
    secret: str,
    now: float,
    seconds: float,
    *,
    sub: str | None = None,
    scope: str | None = None,
    upstream: Sequence[str] | None = None,
) -> str:
    """A token for `seconds` from `now` (Unix time): what an application's backend hands to its browser.

    `sub`, `scope`, `upstream`: the protocol's claims; None leaves one out. Raises ValueError for a claim that no proxy
    accepts, for a word in `scope` that is no right, and for a lifetime that is not positive.
    """
    given = {"sub": sub, "scope": scope, "upstream": None if upstream is None else list(upstream)}
    claims: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    if not 0 < seconds < math.inf:
        raise TokenError("the token's lifetime must be a positive number of seconds")
    for word in (scope or "").split(" "):
        if word and word not in _RIGHTS:
            raise TokenError(f"the scope {word!r} is none of {', '.join(_RIGHTS)}")
    claims |= {"iat": math.floor(now), "exp": math.ceil(now + seconds)}
    read_claims(json.dumps(claims).encode(), now)
    return TokenKey(secret_bytes(secret)).sign(claims)


def secret_bytes(secret: str) -> bytes:
    """The very bytes that the environment or a file had. Raises ValueError."""
    try:
        return secret.encode(errors="surrogateescape")
    except UnicodeEncodeError:
        raise ValueError("a secret is not text") from None  # the original error would quote it


def _subject(claims: Mapping[str, object]) -> str | None:
    if "sub" not in claims:
        return None
    subject = claims["sub"]
    if not isinstance(subject, str):
        raise TokenError("the token's sub is not text")
    try:
        size = len(subject.encode())
    except UnicodeEncodeError:
        raise TokenError("the token's sub is not text") from None
    if not 0 < size <= _MAX_SUBJECT_BYTES:
        raise TokenError(f"the token's sub is empty or longer than {_MAX_SUBJECT_BYTES} bytes")
    return subject


def _rights(claims: Mapping[str, object]) -> frozenset[Right]:
    """Words that name no right of ours grant nothing: a token may serve other services too."""
    if "scope" not in claims:
        return _BY_DEFAULT
    scope = claims["scope"]
    if not isinstance(scope, str) or not _SCOPE.fullmatch(scope):
        raise TokenError("the token's scope is not a list of words with one space between them")
    return frozenset(_RIGHTS[word] for word in scope.split(" ") if word in _RIGHTS)


def _upstream(claims: Mapping[str, object]) -> Allowlist | None:
    if "upstream" not in claims:
        return None
    patterns = claims["upstream"]
    if not isinstance(patterns, list) or len(patterns) > _MAX_PATTERNS:
        raise TokenError(f"the token's upstream is not a list of at most {_MAX_PATTERNS} patterns")
    if not all(isinstance(pattern, str) for pattern in patterns):
        raise TokenError("the token's upstream has a pattern that is not text")
    try:
        return _allowlist(tuple(patterns))
    except PatternError as error:
        raise TokenError(f"the token's upstream has a bad pattern: {error.reason}") from None


@lru_cache(maxsize=_LISTS_REMEMBERED)
def _allowlist(patterns: tuple[str, ...]) -> Allowlist:
    """Remembered: the tokens of one application bring the same few lists. Only genuine tokens get here."""
    return Allowlist(patterns)


def _is_date(value: object) -> TypeGuard[int | float]:
    """A NumericDate (RFC 7519 section 2): a finite number, and true is none."""
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, int) and not isinstance(value, bool)
