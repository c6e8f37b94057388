"""How many file descriptors the process may open. Each connection, client's or upstream's, is one."""

import errno
import os
from contextlib import suppress

__all__ = ["SHORTAGES", "are_descriptors_scarce", "descriptor_limit", "raise_descriptor_limit"]

SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""What a system call fails with when there is no descriptor, or no memory, for another socket."""

_UNKNOWN = 8192  # a guess for a system that does not say
_MOST = 1 << 20  # as many as are ever used: some systems allow a thousand times more, and tables grow with the number


def descriptor_limit() -> int:
    """The number of file descriptors that this process may open, the soft limit (getrlimit(2))."""
    try:
        import resource  # noqa: PLC0415  # absent on Windows
    except ImportError:
        return _UNKNOWN
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _MOST if soft == resource.RLIM_INFINITY else min(soft, _MOST)


def are_descriptors_scarce() -> bool:
    """Whether no descriptor is free at this moment.

    To be asked after something failed: libraries that resolve a name or try several addresses do not say so.
    """
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in SHORTAGES
    return False


def raise_descriptor_limit() -> None:
    """Raise the soft limit to the hard limit, which every process may do for itself.

    Systems keep the soft limit low, often at 1,024, for the sake of programs that call select(2). For a process of our
    own only: that of an embedding program stays as it is.
    """
    try:
        import resource  # noqa: PLC0415  # absent on Windows
    except ImportError:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    with suppress(OSError, ValueError):  # macOS has a lower limit of its own
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
