"""Commands that run no server: `check-url` asks the allowlist, `token` makes a token, `store verify` reads a store."""

import argparse
import time

from proxy.config import Config, ConfigError, data_path, found_secrets
from proxy.config.setting import Setting, parsed_number
from proxy.policy.addresses import Reach
from proxy.policy.allowlist import Allowlist
from proxy.policy.tokens import make_token
from proxy.store import StoreUnusable, verify_store
from proxy.wire.url import UrlError, parse_url

__all__ = ["TOKEN_LIFETIME", "check_url", "token", "verify"]

TOKEN_LIFETIME = Setting("seconds", 3600.0, "Lifetime of the token", unit="s", minimum=1)

_WHERE = {
    Reach.PUBLIC: "at public addresses",
    Reach.PRIVATE: "at public and private addresses",
    Reach.LITERAL: "at this address",
}


def verify(config: Config, _options: argparse.Namespace) -> int:
    """Print what is wrong with the store in the data directory, and how far the check has come; 0: nothing, 1: some.

    Raises ConfigError when there is no store that can be checked.
    """
    try:
        return 1 if verify_store(data_path(config.place), lambda line: print(line, flush=True)) else 0
    except StoreUnusable as error:
        raise ConfigError(f"--data-dir: {error}") from None


def check_url(config: Config, options: argparse.Namespace) -> int:
    """Print whether the proxy may call `options.url`, and by which pattern or why not; 0: it may, 1: it may not.

    Nothing is resolved and nothing is called.
    """
    allowlist = Allowlist(config.access.allowlist, config.access.allow_private)
    try:
        url = parse_url(options.url.encode())
    except UrlError as error:
        print(f"refused: {error.reason}")
        return 1
    match = allowlist.match(url)
    if match is None:
        print(f"refused: {allowlist.why_not(url)}")
        return 1
    print(f"allowed by {match.pattern!r}, {_WHERE[match.reach]}")
    return 0


def token(config: Config, options: argparse.Namespace) -> int:
    """Print a token that `options` describe, signed with the first service secret. Raises ConfigError."""
    seconds = parsed_number(TOKEN_LIFETIME, options.seconds, "--seconds")
    TOKEN_LIFETIME.check(seconds)
    secrets, _ = found_secrets(config.access, config.place)
    claims = {"sub": options.sub, "scope": options.scope, "upstream": options.upstream}
    try:
        made = make_token(secrets[0], time.time(), seconds, **claims)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    print(made)
    return 0
