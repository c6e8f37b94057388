"""Imported by the proxy's interpreter at its start: the system's resolver, with name servers that never answer.

A name below `silent.test` blocks its look-up for as long as getaddrinfo blocks for unreachable servers.
"""

import socket
import time
from typing import Any

_SECONDS = 20.0
_resolve = socket.getaddrinfo


def _getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
    if isinstance(host, str) and host.endswith(".silent.test"):
        time.sleep(_SECONDS)
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
    return _resolve(host, *arguments, **options)


socket.getaddrinfo = _getaddrinfo
