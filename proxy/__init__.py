"""A durable proxy for AI streaming APIs.

A request for an upstream goes in, a pre-signed URL comes out, and the answer's body flows into a durable
stream that can be read, and read again, from any point.
"""

from proxy.version import __version__

__all__ = ["__version__"]
