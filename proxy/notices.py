"""What an operator should know at the start of a proxy, one line each."""

from collections.abc import Sequence

from proxy.config import Config
from proxy.policy.auth import weakness
from proxy.policy.pattern import compile_pattern

__all__ = ["start_notices"]


def start_notices(config: Config, secrets: Sequence[str], secret_source: str) -> list[str]:
    """Lines about the service secret and the allowlist. No secret stands in them."""
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
    if not access.allowlist:
        notices.append("No upstream is allowed: give --allow 'https://api.openai.com/**'")
    return notices
