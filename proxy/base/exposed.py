"""Files that hold a secret: what other users of the machine may do with them."""

import stat

__all__ = ["exposure"]


def exposure(mode: int) -> str:
    """What everybody may do with a file of this mode, as a verb: `read`, else `write`, else the empty string."""
    if mode & stat.S_IROTH:
        return "read"
    return "write" if mode & stat.S_IWOTH else ""
