"""What the values of several settings say together, and values that another room parses. Raises ConfigError."""

import os
import re
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

from proxy.config.setting import ConfigError, Value
from proxy.net.client_tls import origin_and_file
from proxy.net.egress import Bypass
from proxy.net.tls import TLS_VERSIONS, TlsError
from proxy.policy.allowlist import Allowlist
from proxy.policy.auth import Keyring
from proxy.policy.cors import Cors
from proxy.policy.forwarding import ForwardedHeaders, PassedHeaders

__all__ = ["check"]

_LONGEST_SOCKET = 107  # bytes of a Unix socket's path on Linux


def check(values: Mapping[str, Value]) -> None:
    """Raise ConfigError for the first setting that cannot be used, with its name and the reason in one line."""
    _check_parsed(values)
    if not values["host"]:
        raise ConfigError("--host must name at least one host")
    _check_tls(values)
    storage = str(values["durable_streams_url"])
    if storage.startswith("unix:"):
        _check_socket("--durable-streams-url", storage.removeprefix("unix:"))
    else:
        _check_url("--durable-streams-url", storage)
    _check_engine(values)
    _check_url("--public-url", str(values["public_url"]))
    _check_url("--egress-proxy", str(values["egress_proxy"]))
    if values["egress_proxy"] and not re.fullmatch(r"http://[^/]+/?", str(values["egress_proxy"])):
        raise ConfigError("--egress-proxy must be http://HOST:PORT")
    if values["upstream_http"] not in ("auto", "1.1"):
        raise ConfigError(f"--upstream-http must be auto or 1.1, not {values['upstream_http']!r}")
    _check_sizes(values)
    _check_times(values)


def _check_parsed(values: Mapping[str, Value]) -> None:
    checks: tuple[tuple[str, str, Callable[[tuple[str, ...]], object]], ...] = (
        ("allowlist", "--allow", Allowlist),
        ("allow_private", "--allow-private", Allowlist),
        ("no_proxy", "--no-proxy", Bypass if values["egress_proxy"] else tuple),
        ("cors_origin", "--cors-origin", lambda origins: Cors(origins, max_age=0)),
        ("pass_header", "--pass-header", lambda names: PassedHeaders(names, max_bytes=0)),
        ("forward_header", "--forward-header", ForwardedHeaders),
        ("secret", "PROXY_SECRET", lambda secrets: Keyring(secrets or ("none",))),
    )
    for name, spelled, parse in checks:
        given = values[name]
        try:
            parse(given if isinstance(given, tuple) else ())
        except ValueError as error:
            raise ConfigError(f"{spelled}: {error}") from None


def _check_sizes(values: Mapping[str, Value]) -> None:
    each, total = values["max_request_bytes"], values["max_request_bytes_total"]
    if _number(total) < _number(each):
        raise ConfigError(
            f"--max-request-bytes-total ({total}) must be at least --max-request-bytes ({each}):"
            " a body of that size could never be received"
        )


def _check_times(values: Mapping[str, Value]) -> None:
    lifetime = _number(values["stream_ttl_seconds"])
    longest = max(_number(values["inactivity_timeout_seconds"]), _number(values["max_transfer_seconds"]))
    if lifetime <= longest:
        raise ConfigError(
            f"--stream-ttl-seconds ({lifetime:g}) must be longer than a transfer can last"
            f" (--max-transfer-seconds and --inactivity-timeout-seconds: {longest:g}):"
            " a stream could expire while it is written"
        )


def _number(value: Value) -> float:
    if isinstance(value, int | float):
        return value
    raise TypeError(value)


def _check_tls(values: Mapping[str, Value]) -> None:
    origins = values["upstream_cert"]
    try:
        for text in origins if isinstance(origins, tuple) else ():
            origin_and_file(text)
    except TlsError as error:
        raise ConfigError(f"--upstream-cert: {error}") from None
    certificates, keys = values["tls_cert"], values["tls_key"]
    if not isinstance(certificates, tuple) or not isinstance(keys, tuple):
        raise TypeError(certificates)
    if len(certificates) != len(keys):
        raise ConfigError(f"--tls-cert and --tls-key come in pairs: {len(certificates)} and {len(keys)} were given")
    if values["tls_min_version"] not in TLS_VERSIONS:
        raise ConfigError(f"--tls-min-version must be {' or '.join(TLS_VERSIONS)}, not {values['tls_min_version']!r}")
    if values["tls_client_ca"] and not certificates:
        raise ConfigError("--tls-client-ca needs --tls-cert and --tls-key beside it")
    if values["uds"] and certificates:
        raise ConfigError("--tls-cert is for TCP: a Unix socket (--uds) is read on this machine only, without TLS")


def _check_url(flag: str, text: str) -> None:
    if not text:
        return
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError as error:
        raise ConfigError(f"{flag} is not a URL: {error}") from None
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigError(f"{flag} must be an http or https URL with a host")
    if url.username is not None or url.query or url.fragment:
        raise ConfigError(f"{flag} must have no user, query or fragment")
    if port == 0 or not re.fullmatch(r"[!-~]+", text):
        raise ConfigError(f"{flag} has a port or characters that a URL cannot have")


def _check_engine(values: Mapping[str, Value]) -> None:
    url, file = str(values["store_url"]), str(values["store_url_file"])
    if url and file:
        raise ConfigError("--store-url and --store-url-file exclude each other")
    if values["durable_streams_url"] and (url or file):
        raise ConfigError("--durable-streams-url and --store-url exclude each other")
    if re.match(r"[^/]*//[^/@]*:[^/]*@", url):
        raise ConfigError("--store-url must have no password: PROXY_STORE_PASSWORD or --store-url-file holds it")
    if not re.fullmatch(r"[A-Za-z0-9:._-]{1,64}", str(values["store_prefix"])):
        raise ConfigError("--store-prefix must have 1 to 64 letters, digits, or one of : . _ -")


def _check_socket(flag: str, path: str) -> None:
    if not path.startswith("/") or "\0" in path or len(os.fsencode(path)) > _LONGEST_SOCKET:
        raise ConfigError(f"{flag} must be unix: and an absolute path of at most {_LONGEST_SOCKET} bytes")
