"""What an operator should know at the start of a proxy, one line each."""

import os
from collections.abc import Mapping, Sequence

from proxy.config import Config
from proxy.policy.auth import weakness
from proxy.policy.pattern import compile_pattern

__all__ = ["start_notices"]


_UNUSED = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")


def start_notices(
    config: Config, secrets: Sequence[str], secret_source: str, environment: Mapping[str, str] = os.environ
) -> list[str]:
    """Lines about the service secret, the allowlist and the way to upstreams. They contain no credential."""
    access = config.access
    notices = []
    if not access.secret and not access.secret_file:
        notices.append(f"Service secret in {secret_source}")
    for number, secret in enumerate(secrets, 1):
        if (reason := weakness(secret)) is not None:
            which = f"Service secret {number} of {len(secrets)}" if len(secrets) > 1 else "The service secret"
            notices.append(
                f"{which} is weak: {reason} (anybody with a signed URL can guess it offline;"
                " make one with: openssl rand -hex 32)"
            )
    notices += [f"Allowed upstream: {compile_pattern(pattern)}" for pattern in access.allowlist]
    notices += [f"Allowed at private addresses: {compile_pattern(pattern)}" for pattern in access.allow_private]
    unused = [name for name in _UNUSED if environment.get(name) or environment.get(name.lower())]
    if unused and not config.egress.egress_proxy:
        notices.append(f"{' and '.join(unused)} set but not used: upstreams are called directly without --egress-proxy")
    if not access.allowlist:
        notices.append("No upstream is allowed: give --allow 'https://api.openai.com/**'")
    return notices
