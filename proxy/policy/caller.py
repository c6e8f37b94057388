"""Who calls, and what that caller may do (protocol: Authentication): values that the credential check hands out."""

from dataclasses import dataclass
from enum import Enum, auto

from proxy.policy.allowlist import Allowlist
from proxy.wire.url import Url

__all__ = ["Access", "Caller", "Credential", "Right"]


class Right(Enum):
    """What a token's `scope` grants, in its words."""

    CREATE = "create"
    READ = "read"
    DELETE = "delete"
    ADMIN = "admin"


class Access(Enum):
    """What an operation asks of its caller: nothing, a right, a pre-signed URL, or one of the two."""

    ANYONE = None, False
    CREATE = Right.CREATE, False
    READ = Right.READ, True
    METADATA = Right.READ, False
    ABORT = None, True
    DELETE = Right.DELETE, False
    ADMIN = Right.ADMIN, False

    def __init__(self, right: Right | None, takes_signature: bool) -> None:
        self.right = right
        """The right that a service credential must have; None: no service credential is looked at."""
        self.takes_signature = takes_signature
        """Whether a pre-signed URL of the stream is accepted."""


class Credential(Enum):
    """What a caller showed: the service secret, a token signed with it, a stream's pre-signed URL, or nothing."""

    NONE = auto()
    SECRET = auto()
    TOKEN = auto()
    SIGNATURE = auto()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request, as far as the operation asked for it.

    `subject`: the token's `sub`; None without one. Streams that it creates belong to this subject.
    `upstream`: patterns of the token that narrow the server's allowlist; None: they do not.
    """

    credential: Credential
    subject: str | None = None
    upstream: Allowlist | None = None

    @property
    def is_service(self) -> bool:
        """Whether the caller has the secret itself, which opens everything."""
        return self.credential is Credential.SECRET

    @property
    def is_signed(self) -> bool:
        """Whether the caller came with the stream's own pre-signed URL, so that all readers of it see the same."""
        return self.credential is Credential.SIGNATURE

    def may_open(self, owner: str | None) -> bool:
        """Whether the caller may read, see or delete a stream of the subject `owner` (None: of nobody).

        The answer to a caller who may not is the one for a stream that does not exist.
        """
        if self.credential is Credential.TOKEN:
            return self.subject == owner
        return self.credential is not Credential.NONE

    def may_call(self, url: Url) -> bool:
        """Whether the caller's own patterns allow `url`, which the server's allowlist must allow as well."""
        return self.upstream is None or self.upstream.match(url) is not None
