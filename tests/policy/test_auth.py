"""Credentials: the secret, JWTs and pre-signed URLs; what is right passes, and one byte off never does."""

import base64
import hashlib
import hmac
import json
import math
import string
import traceback
from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from proxy.base.errors import Code, Refusal
from proxy.policy.auth import Keyring, weakness
from proxy.policy.caller import Access, Caller, Credential, Right
from proxy.policy.tokens import make_token
from proxy.wire.url import parse_url

NOW = 1_700_000_000.0
SECRET = "correct horse battery staple + ü"
KEYS = Keyring([SECRET])
ID = "0f8fad5b-d9cb-469f-a165-70867728950e"
URL_SAFE = (string.ascii_letters + string.digits + "-_").encode()


def b64(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def jwt(
    claims: object = None, header: object = None, secret: str = SECRET, *, raw: tuple[bytes, bytes] | None = None
) -> bytes:
    """A token made here by hand, so that the code under test is not its own judge."""
    head = json.dumps({"alg": "HS256"} if header is None else header).encode()
    body = json.dumps({"exp": NOW + 60} if claims is None else claims).encode()
    signed = b".".join(raw or (b64(head), b64(body)))
    return signed + b"." + b64(hmac.new(secret.encode(), signed, hashlib.sha256).digest())


def service(
    *secrets: bytes, authorization: tuple[bytes, ...] = (), keys: Keyring = KEYS, now: float = NOW
) -> Code | None:
    """The code of the refusal, None when the caller passes."""
    try:
        keys.admit(Access.CREATE, "", [(b"secret", secret) for secret in secrets], authorization, now)
    except Refusal as refusal:
        return refusal.code
    return None


def signed(
    expires: list[bytes], signature: list[bytes], *, keys: Keyring = KEYS, now: float = NOW, stream_id: str = ID
) -> Code | None:
    query = [(b"expires", value) for value in expires] + [(b"signature", value) for value in signature]
    try:
        keys.admit(Access.ABORT, stream_id, query, (), now)
    except Refusal as refusal:
        return refusal.code
    return None


# The service secret


@pytest.mark.parametrize("scheme", [b"Bearer ", b"bearer ", b"BEARER ", b"bEaReR  ", b"Bearer\t"])
def test_the_secret_passes_as_a_bearer_token_in_any_case_of_the_scheme(scheme: bytes) -> None:
    assert service(authorization=(scheme + SECRET.encode(),)) is None


def test_the_secret_passes_as_a_parameter() -> None:
    assert service(SECRET.encode()) is None


@pytest.mark.parametrize(
    "authorization",
    [(), (b"",), (b"Bearer",), (b"Basic dXNlcjpwYXNz",), (SECRET.encode(),), (b"Bearer" + SECRET.encode(),),
     (b"Token " + SECRET.encode(),), (b"Bearerx " + SECRET.encode(),), (b"\xff",), (b"Digest a", b"Basic b")],
)  # fmt: skip
def test_no_credential_of_ours_is_a_missing_secret(authorization: tuple[bytes, ...]) -> None:
    assert service(authorization=authorization) is Code.MISSING_SECRET


@pytest.mark.parametrize("given", [(b"",), (b"", b"")])
def test_an_empty_parameter_is_no_credential(given: tuple[bytes, ...]) -> None:
    assert service(*given) is Code.MISSING_SECRET
    assert service(*given, authorization=(b"Bearer " + SECRET.encode(),)) is None


@pytest.mark.parametrize(
    "wrong",
    [b"x", SECRET.encode() + b" ", SECRET.upper().encode(), SECRET.encode()[:-1],
     SECRET.encode() * 2, SECRET.encode("latin-1"), b"\xff\xfe", b"\x00", b".", b"..", b"a.b.c", b"." * 5000],
)  # fmt: skip
def test_a_wrong_secret_is_invalid_wherever_it_stands(wrong: bytes) -> None:
    assert service(wrong) is Code.INVALID_SECRET
    assert service(authorization=(b"Bearer " + wrong,)) is Code.INVALID_SECRET


def test_a_repeated_credential_is_invalid_even_when_each_is_right() -> None:
    right = SECRET.encode()
    assert service(right, right) is Code.INVALID_SECRET
    assert service(right, b"") is Code.INVALID_SECRET
    assert service(authorization=(b"Bearer " + right, b"bearer " + right)) is Code.INVALID_SECRET


def test_the_parameter_decides_alone_when_both_are_given() -> None:
    right = SECRET.encode()
    assert service(right, authorization=(b"Bearer sk-of-somebody-else",)) is None
    assert service(b"wrong", authorization=(b"Bearer " + right,)) is Code.INVALID_SECRET


@given(st.binary(max_size=60))
def test_no_other_bytes_pass_and_none_raise(credential: bytes) -> None:
    assume(credential != SECRET.encode())
    assert service(credential) is (Code.INVALID_SECRET if credential else Code.MISSING_SECRET)
    assert service(authorization=(credential,)) in (Code.INVALID_SECRET, Code.MISSING_SECRET)


# JWTs


@pytest.mark.parametrize(
    "claims",
    [{"exp": NOW + 1}, {"exp": int(NOW) + 1}, {"exp": NOW + 0.001}, {"exp": 10**400}, {"exp": 1e300},
     {"exp": NOW + 60, "nbf": NOW}, {"exp": NOW + 60, "nbf": -5}, {"exp": NOW + 60, "aud": "x", "iss": ["y"]}],
)  # fmt: skip
def test_a_token_signed_with_the_secret_passes_in_its_time(claims: object) -> None:
    assert service(jwt(claims)) is None
    assert service(authorization=(b"Bearer " + jwt(claims),)) is None


def test_a_header_may_say_more_about_a_token() -> None:
    assert service(jwt(header={"typ": "JWT", "alg": "HS256", "kid": "1"})) is None


@pytest.mark.parametrize(
    "claims",
    [
        {}, {"exp": NOW}, {"exp": NOW - 1}, {"exp": 0}, {"exp": -1}, {"exp": None}, {"exp": str(NOW + 60)},
        {"exp": True},
        {"exp": [NOW + 60]}, {"exp": math.nan}, {"exp": math.inf}, {"exp": {}}, {"exp": NOW + 60, "nbf": NOW + 1},
        {"exp": NOW + 60, "nbf": "0"}, {"exp": NOW + 60, "nbf": None}, {"exp": NOW + 60, "nbf": False},
        {"exp": NOW + 60, "nbf": -math.inf}, {"EXP": NOW + 60}, [], "exp", 1, None, [{"exp": NOW + 60}],
    ],
)  # fmt: skip
def test_a_token_without_a_sound_time_is_invalid(claims: object) -> None:
    token = jwt(raw=(b64(b'{"alg":"HS256"}'), b64(json.dumps(claims).encode())))
    assert service(token) is Code.INVALID_SECRET


@pytest.mark.parametrize(
    "header",
    [{}, {"alg": "none"}, {"alg": "None"}, {"alg": "hs256"}, {"alg": "HS512"}, {"alg": "HS384"}, {"alg": "RS256"},
     {"alg": ["HS256"]}, {"alg": None}, {"alg": "HS256 "}, {"alg": "HS256", "crit": []},
     {"alg": "HS256", "crit": ["exp"]}, {"alg": "HS256", "b64": False, "crit": ["b64"]},
     {"alg": "HS256", "b64": True, "crit": ["b64"]}, [], "HS256"],
)  # fmt: skip
def test_a_token_of_another_algorithm_is_invalid(header: object) -> None:
    assert service(jwt(raw=(b64(json.dumps(header).encode()), b64(b'{"exp":1e300}')))) is Code.INVALID_SECRET


def test_a_token_without_its_signature_is_invalid() -> None:
    header, payload, signature = jwt(header={"alg": "none"}).split(b".")
    for parts in [
        (header, payload, b""),
        (header, payload),
        (header, payload, signature, b""),
        (header, b"", signature),
    ]:
        assert service(b".".join(parts)) is Code.INVALID_SECRET


@pytest.mark.parametrize("digest", ["sha512", "sha384", "sha1", "md5"])
def test_a_token_signed_with_another_hash_is_invalid(digest: str) -> None:
    signed_part = jwt().rpartition(b".")[0]
    mac = hmac.new(SECRET.encode(), signed_part, digest).digest()
    assert service(signed_part + b"." + b64(mac)) is Code.INVALID_SECRET


@pytest.mark.parametrize(
    "part",
    [b"", b64(b"{"), b64(b""), b64(b"\xff"), b64(b'\xef\xbb\xbf{"exp":1e300}'), b64('{"exp":1e300}'.encode("utf-16")),
     b64(b"[" * 3000), b64(b'{"a":' * 3000), b64(b'{"exp":' + b"9" * 5000 + b"}"), b"a", b"ab=",
     b64(b'{"exp":1e300}') + b"="],
)  # fmt: skip
def test_a_signed_token_with_an_unreadable_part_is_invalid(part: bytes) -> None:
    assert service(jwt(raw=(b64(b'{"alg":"HS256"}'), part))) is Code.INVALID_SECRET
    assert service(jwt(raw=(part, b64(b'{"exp":1e300}')))) is Code.INVALID_SECRET


def test_a_part_in_another_spelling_of_base64url_is_invalid() -> None:
    """The last character of the header holds two bits that no byte needs: only zeros are canonical."""
    header = b64(b'{"alg":"HS256" }')
    assert service(jwt(raw=(header, b64(b'{"exp":1e300}')))) is None
    other = header[:-1] + bytes([URL_SAFE[URL_SAFE.index(header[-1].to_bytes(1, "big")) + 1]])
    assert base64.urlsafe_b64decode(other + b"=" * (-len(other) % 4)) == b'{"alg":"HS256" }'
    assert service(jwt(raw=(other, b64(b'{"exp":1e300}')))) is Code.INVALID_SECRET


@given(st.data())
def test_a_token_with_one_byte_changed_is_invalid(data: st.DataObject) -> None:
    token = jwt()
    position = data.draw(st.integers(0, len(token) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != token[position]))
    assert service(token[:position] + bytes([byte]) + token[position + 1 :]) is Code.INVALID_SECRET


@given(st.data())
def test_a_token_cut_or_extended_is_invalid(data: st.DataObject) -> None:
    token = jwt()
    assert service(token[: data.draw(st.integers(1, len(token) - 1))]) is Code.INVALID_SECRET
    assert service(token + data.draw(st.binary(min_size=1, max_size=3))) is Code.INVALID_SECRET


def test_a_token_is_signed_with_the_secret_itself_not_with_another() -> None:
    assert service(jwt(secret="another")) is Code.INVALID_SECRET
    assert service(jwt(secret="")) is Code.INVALID_SECRET


@pytest.mark.parametrize("secret", [SECRET, "x", "\udcff from the environment"])
def test_a_token_of_ours_passes_until_its_lifetime_is_over(secret: str) -> None:
    token, keys = make_token(secret, NOW + 0.5, 60).encode(), Keyring([secret])
    assert service(token, keys=keys, now=NOW + 0.5) is None
    assert service(token, keys=keys, now=NOW + 60.4) is None
    assert service(token, keys=keys, now=NOW + 62) is Code.INVALID_SECRET


# Pre-signed URLs


def presigned(expires: int = int(NOW) + 60, keys: Keyring = KEYS) -> tuple[list[bytes], list[bytes]]:
    return [b"%d" % expires], [keys.sign(ID, expires).encode()]


def test_a_signature_is_unpadded_base64url_of_256_bits() -> None:
    signature = KEYS.sign(ID, 1)
    assert len(signature) == 43
    assert set(signature.encode()) <= set(URL_SAFE)


def test_a_genuine_url_passes_until_it_expires() -> None:
    expires, signature = presigned()
    assert signed(expires, signature) is None
    assert signed(expires, signature, now=NOW + 59.9) is None
    assert signed(expires, signature, now=NOW + 60) is Code.SIGNATURE_EXPIRED
    assert signed(expires, signature, now=NOW + 1e9) is Code.SIGNATURE_EXPIRED


@pytest.mark.parametrize(
    ("expires", "signature"), [([], []), ([b"1"], []), ([], [b"x"]), ([], [b"x", b"y"]), ([b"1", b"2"], [])]
)
def test_a_url_without_both_parameters_is_missing_its_signature(expires: list[bytes], signature: list[bytes]) -> None:
    assert signed(expires, signature) is Code.MISSING_SIGNATURE


@pytest.mark.parametrize(
    "spell",
    [
        lambda digits: b"0" + digits, lambda digits: b"+" + digits, lambda digits: b" " + digits,
        lambda digits: digits + b" ",
        lambda digits: digits + b".0", lambda digits: digits[:2] + b"_" + digits[2:], lambda digits: b"0x" + digits,
        lambda digits: b"-" + digits, lambda digits: b"", lambda digits: digits + b"\x00", lambda digits: digits + b"0",
        lambda digits: digits.translate(bytes.maketrans(b"1", b"2")), lambda digits: "\u0661".encode() + digits[1:],
        lambda digits: b"9" * 6000, lambda digits: b"1e10", lambda digits: b"inf",
    ],
)  # fmt: skip
def test_another_spelling_of_the_time_is_invalid(spell: Callable[[bytes], bytes]) -> None:
    (digits,), signature = presigned()
    assert signed([spell(digits)], signature) is Code.SIGNATURE_INVALID


@pytest.mark.parametrize(
    "spell",
    [
        lambda text: text + b"=", lambda text: text + b"==", lambda text: text[:-1], lambda text: b"",
        lambda text: text + b"A",
        lambda text: text.swapcase(), lambda text: b" " + text, lambda text: text + b"\n", lambda text: b"\xff" * 43,
        lambda text: base64.urlsafe_b64decode(text + b"="),
        lambda text: base64.urlsafe_b64decode(text + b"=").hex().encode(),
        lambda text: text[:-1] + bytes([URL_SAFE[URL_SAFE.index(text[-1:]) ^ 1]]),
    ],
)  # fmt: skip
def test_another_spelling_of_the_signature_is_invalid(spell: Callable[[bytes], bytes]) -> None:
    expires, (text,) = presigned()
    assert signed(expires, [spell(text)]) is Code.SIGNATURE_INVALID


def test_a_repeated_parameter_is_invalid_even_when_each_is_right() -> None:
    expires, signature = presigned()
    assert signed(expires * 2, signature) is Code.SIGNATURE_INVALID
    assert signed(expires, signature * 2) is Code.SIGNATURE_INVALID
    assert signed([*expires, b""], signature) is Code.SIGNATURE_INVALID


def test_a_false_url_is_invalid_and_not_expired_however_old() -> None:
    _, signature = presigned(expires=1)
    assert signed([b"2"], signature) is Code.SIGNATURE_INVALID
    assert signed([b"1"], [signature[0][:-1]]) is Code.SIGNATURE_INVALID
    assert signed([b"1"], signature) is Code.SIGNATURE_EXPIRED


def test_a_url_is_bound_to_its_stream() -> None:
    expires, signature = presigned()
    for other in (ID[:-1] + "f", ID.upper(), "", ID + ":", "\udcff", "ü"):
        assert signed(expires, signature, stream_id=other) is Code.SIGNATURE_INVALID


def test_where_the_stream_ends_and_the_time_begins_is_signed_too() -> None:
    assert KEYS.sign(ID + "1", 2) != KEYS.sign(ID, 12)


def test_a_time_before_the_epoch_is_no_time() -> None:
    assert signed([b"-5"], [KEYS.sign(ID, -5).encode()], now=-10) is Code.SIGNATURE_INVALID


@given(st.data())
def test_a_url_with_one_byte_changed_is_invalid(data: st.DataObject) -> None:
    (expires,), (signature,) = presigned()
    text = expires + b"&" + signature
    position = data.draw(st.integers(0, len(text) - 1).filter(lambda position: position != len(expires)))
    byte = data.draw(st.integers(0, 255).filter(lambda byte: byte != text[position]))
    changed = text[:position] + bytes([byte]) + text[position + 1 :]
    assert signed([changed[: len(expires)]], [changed[len(expires) + 1 :]]) is Code.SIGNATURE_INVALID


@given(st.lists(st.binary(max_size=50), max_size=2), st.lists(st.binary(max_size=50), max_size=2))
def test_no_parameters_raise(expires: list[bytes], signature: list[bytes]) -> None:
    assert signed(expires, signature) in (Code.SIGNATURE_INVALID, Code.MISSING_SIGNATURE)


def test_the_secret_does_not_sign_by_itself() -> None:
    expires = b"%d" % (NOW + 60)
    direct = b64(hmac.new(SECRET.encode(), f"{ID}:".encode() + expires, hashlib.sha256).digest())
    assert signed([expires], [direct]) is Code.SIGNATURE_INVALID


# A reader: the pre-signed URL, else the service secret


def read(query: list[tuple[bytes, bytes]], *authorization: bytes) -> Code | None:
    try:
        KEYS.admit(Access.READ, ID, query, authorization, NOW)
    except Refusal as refusal:
        return refusal.code
    return None


def test_a_reader_passes_with_either() -> None:
    (expires,), (signature,) = presigned()
    assert read([(b"offset", b"-1"), (b"expires", expires), (b"signature", signature)]) is None
    assert read([(b"offset", b"-1"), (b"secret", SECRET.encode())]) is None
    assert read([], b"Bearer " + SECRET.encode()) is None
    assert read([(b"secret", jwt())]) is None


def test_a_reader_with_nothing_is_asked_for_the_secret() -> None:
    assert read([(b"offset", b"-1")]) is Code.MISSING_SECRET
    assert read([(b"secret", b"wrong")]) is Code.INVALID_SECRET
    assert read([(b"secret", SECRET.encode()), (b"secret", SECRET.encode())]) is Code.INVALID_SECRET


@pytest.mark.parametrize(
    "part",
    [
        [(b"expires", b"9999999999")],
        [(b"signature", b"x")],
        [(b"expires", b"")],
        [(b"expires", b"1"), (b"signature", b"")],
    ],
)
def test_a_part_of_a_pre_signed_url_decides_alone(part: list[tuple[bytes, bytes]]) -> None:
    assert read([*part, (b"secret", SECRET.encode())], b"Bearer " + SECRET.encode()) is Code.SIGNATURE_INVALID


def test_an_expired_url_is_not_saved_by_the_secret() -> None:
    (expires,), (signature,) = presigned(expires=1)
    query = [(b"expires", expires), (b"signature", signature), (b"secret", SECRET.encode())]
    assert read(query, b"Bearer " + SECRET.encode()) is Code.SIGNATURE_EXPIRED


# What a token may do


def caller(access: Access = Access.CREATE, **claims: object) -> Caller:
    token = jwt({"exp": NOW + 60} | claims)
    return KEYS.admit(access, ID, [], [b"Bearer " + token], NOW)


def refused(access: Access, **claims: object) -> Code | None:
    try:
        caller(access, **claims)
    except Refusal as refusal:
        return refusal.code
    return None


SERVICE = [Access.CREATE, Access.READ, Access.METADATA, Access.DELETE, Access.ADMIN]
OPENED = {
    "create": {Access.CREATE}, "read": {Access.READ, Access.METADATA}, "delete": {Access.DELETE},
    "admin": {Access.ADMIN},
}  # fmt: skip


@pytest.mark.parametrize("words", [*OPENED, "create read", "read create", "delete admin", "openid", "read  ".strip()])
def test_a_scope_opens_its_operations_and_no_other(words: str) -> None:
    opened = {access for word in words.split() for access in OPENED.get(word, set())}
    for access in SERVICE:
        assert refused(access, scope=words) is (None if access in opened else Code.INSUFFICIENT_SCOPE)


def test_without_a_scope_a_token_may_do_all_but_administration() -> None:
    assert [access for access in SERVICE if refused(access)] == [Access.ADMIN]
    assert refused(Access.ADMIN) is Code.INSUFFICIENT_SCOPE


def test_every_right_is_a_word_of_the_protocol() -> None:
    assert {right.value for right in Right} == set(OPENED)


@pytest.mark.parametrize("access", SERVICE)
def test_the_secret_itself_may_do_everything(access: Access) -> None:
    found = KEYS.admit(access, ID, [(b"secret", SECRET.encode())], [], NOW)
    assert found == Caller(Credential.SECRET)
    assert (found.is_service, found.is_signed) == (True, False)
    assert found.may_open(None)
    assert found.may_open("anybody")


@pytest.mark.parametrize("credential", [SECRET.encode(), jwt({"exp": NOW + 60, "scope": "admin delete"})])
def test_an_abort_takes_the_pre_signed_url_and_nothing_else(credential: bytes) -> None:
    with pytest.raises(Refusal) as refusal:
        KEYS.admit(Access.ABORT, ID, [(b"secret", credential)], [b"Bearer " + credential], NOW)
    assert refusal.value.code is Code.MISSING_SIGNATURE


@pytest.mark.parametrize("access", [Access.CREATE, Access.METADATA, Access.DELETE, Access.ADMIN])
def test_a_pre_signed_url_opens_no_operation_of_the_service(access: Access) -> None:
    (expires,), (signature,) = presigned()
    query = [(b"expires", expires), (b"signature", signature)]
    with pytest.raises(Refusal) as refusal:
        KEYS.admit(access, ID, query, [], NOW)
    assert refusal.value.code is Code.MISSING_SECRET
    KEYS.admit(access, ID, [*query, (b"secret", SECRET.encode())], [], NOW)


def test_a_reader_by_the_url_differs_from_one_by_a_credential() -> None:
    """Only what every reader of a URL sees may be kept by a shared cache."""
    (expires,), (signature,) = presigned()
    by_url = KEYS.admit(Access.READ, ID, [(b"expires", expires), (b"signature", signature)], [], NOW)
    assert (by_url.is_signed, by_url.is_service) == (True, False)
    assert by_url.may_open("any subject")
    assert not caller(Access.READ).is_signed
    assert not KEYS.admit(Access.READ, ID, [(b"secret", SECRET.encode())], [], NOW).is_signed


@pytest.mark.parametrize(
    ("claims", "owner", "opens"),
    [
        ({"sub": "alice"}, "alice", True),
        ({"sub": "alice"}, "bob", False),
        ({"sub": "alice"}, "Alice", False),
        ({"sub": "alice"}, None, False),
        ({}, None, True),
        ({}, "alice", False),
        ({"sub": "ü" * 127}, "ü" * 127, True),
    ],
)
def test_a_token_opens_the_streams_of_its_subject(claims: dict[str, object], owner: str | None, opens: bool) -> None:
    found = caller(Access.READ, **claims)
    assert found.subject == claims.get("sub")
    assert found.may_open(owner) is opens


def test_the_patterns_of_a_token_narrow_its_upstreams() -> None:
    openai, other = parse_url(b"https://api.openai.com/v1/x"), parse_url(b"https://api.openai.com/v2/x")
    narrowed = caller(upstream=["https://api.openai.com/v1/**", "https://*.example.com"])
    assert (narrowed.may_call(openai), narrowed.may_call(other)) == (True, False)
    assert not caller(upstream=[]).may_call(openai)
    assert caller().may_call(other)


MALFORMED: dict[str, list[object]] = {
    "scope": [None, 1, True, ["read"], {}, "", " ", " read", "read ", "read  create", "read\tcreate", "read\ncreate",
              "r\u00e9ad", 'read"', "read\\create", "\ud800"],
    "sub": [None, 1, True, ["alice"], {}, "", "a" * 256, "ü" * 128, "\ud800"],
    "upstream": [None, "https://a.example", 1, True, {}, [1], [None], [["https://a.example"]],
                 ["https://a.example", ""],
                 ["*"], ["https://a.example/v1/"], ["ftp://a.example"], ["https://a.example"] * 101, ["\ud800"]],
}  # fmt: skip


@pytest.mark.parametrize(
    ("claim", "value"), [(claim, value) for claim, values in MALFORMED.items() for value in values]
)
@pytest.mark.parametrize("access", SERVICE)
def test_a_malformed_claim_makes_the_token_invalid_for_every_operation(
    access: Access, claim: str, value: object
) -> None:
    """Not understood is not absent: a claim that was meant to narrow must not be ignored."""
    assert refused(access, **({"scope": "create read delete admin"} | {claim: value})) is Code.INVALID_SECRET


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(("exp", "nbf", "sub", "scope", "upstream"), json_values)))
def test_whatever_a_token_claims_it_gets_a_caller_or_one_of_two_codes(claims: dict[str, object]) -> None:
    assert refused(Access.READ, **claims) in (None, Code.INVALID_SECRET, Code.INSUFFICIENT_SCOPE)


def test_only_a_genuine_token_gets_the_reason_why_it_is_refused() -> None:
    """A stranger learns nothing; an application's developer learns the reason."""
    expired = jwt({"exp": NOW})
    for token, said in (
        (expired, "expired"),
        (expired[:-1], "not valid"),
        (jwt({"exp": NOW}, secret="x"), "not valid"),
    ):
        with pytest.raises(Refusal, match=said):
            KEYS.admit(Access.CREATE, "", [(b"secret", token)], [], NOW)


# Tokens of ours


def test_a_made_token_says_what_was_asked_for() -> None:
    token = make_token(
        SECRET, NOW, 60, sub="alice", scope="create read", upstream=["https://api.openai.com/**"]
    ).encode()
    payload = json.loads(base64.urlsafe_b64decode(token.split(b".")[1] + b"=="))
    assert payload == {
        "sub": "alice", "scope": "create read", "upstream": ["https://api.openai.com/**"], "iat": NOW, "exp": NOW + 60,
    }  # fmt: skip
    assert KEYS.admit(Access.READ, ID, [], [b"Bearer " + token], NOW).subject == "alice"


@pytest.mark.parametrize(
    "claims",
    [{"sub": ""}, {"sub": "a" * 256}, {"scope": ""}, {"scope": "raed"}, {"scope": "create,read"}, {"scope": "read "},
     {"upstream": ["*"]}, {"upstream": [""]}, {"seconds": 0}, {"seconds": -1}, {"seconds": math.inf},
     {"seconds": math.nan}],
)  # fmt: skip
def test_a_token_that_no_proxy_would_accept_is_not_made(claims: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"token|scope"):
        make_token(SECRET, NOW, **({"seconds": 60} | claims))  # type: ignore[arg-type]  # any of the claims


# Secrets that can be guessed


@pytest.mark.parametrize("secret", ["x", "changeme", "a" * 31, "a" * 64, "ab" * 40, "0123456" * 8])
def test_a_secret_that_can_be_guessed_is_weak(secret: str) -> None:
    assert weakness(secret)


@pytest.mark.parametrize(
    "secret", ["0f" * 4 + "8a1c5d7e" * 3, "0123456789" * 4, "ü" * 4 + "correct horse battery staple"]
)
def test_a_secret_of_32_bytes_is_not_called_weak(secret: str) -> None:
    assert weakness(secret) is None


# Several secrets


def test_the_first_secret_signs_and_all_verify() -> None:
    old, new, both = Keyring(["old"]), Keyring(["new"]), Keyring(["new", "old"])
    assert both.sign(ID, 5) == new.sign(ID, 5) != old.sign(ID, 5)
    for secret, keys in (("old", old), ("new", new)):
        assert service(secret.encode(), keys=both) is None
        assert service(jwt(secret=secret), keys=both) is None
        assert signed(*presigned(keys=keys), keys=both) is None
    assert service(b"old", keys=new) is Code.INVALID_SECRET
    assert service(jwt(secret="old"), keys=new) is Code.INVALID_SECRET
    assert signed(*presigned(keys=old), keys=new) is Code.SIGNATURE_INVALID


PEM = "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----"


@pytest.mark.parametrize("secrets", [["fine", PEM], ['{"kty":"oct","k":"AAAA"}'], ["ssh-rsa AAAA"]])
def test_a_key_of_another_kind_is_refused_as_a_secret(secrets: list[str]) -> None:
    with pytest.raises(ValueError, match="no shared secret") as error:
        Keyring(secrets)
    assert "AAAA" not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize("secrets", [[], [""], ["fine", ""], ["\ud800"]])
def test_no_secret_an_empty_one_and_one_that_is_no_text_are_refused(secrets: list[str]) -> None:
    with pytest.raises(ValueError, match="secret") as error:
        Keyring(secrets)
    assert "fine" not in str(error.value)
    assert not isinstance(error.value, UnicodeError)
    assert "surrogates" not in "".join(traceback.format_exception(error.value))  # the codec's error quotes the text


def test_nothing_that_is_shown_holds_a_secret() -> None:
    keys = Keyring(["first-hidden", "second-hidden"])
    assert "hidden" not in repr(keys) + str(keys) + f"{keys!r}"
    assert not hasattr(keys, "__dict__")
    for attempt in ([b"hidden-guess"], []):
        with pytest.raises(Refusal) as refusal:
            keys.admit(Access.CREATE, "", [(b"secret", value) for value in attempt], [], NOW)
        assert "hidden" not in str(refusal.value) + repr(refusal.value)
