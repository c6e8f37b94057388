"""nginx as a process in front of a proxy or as its upstream; `apt-get install nginx-light` brings it."""

import os
import shutil
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.kit.ports import free_port
from tests.kit.waiting import until_blocking

__all__ = ["Nginx", "needs_nginx"]

_COMMAND = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")

needs_nginx = pytest.mark.skipif(_COMMAND is None, reason="there is no nginx")

_CONFIG = """
daemon off;
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    keepalive_requests 3;
    server {{
        listen 127.0.0.1:{port} {listen};
        {server}
    }}
}}
"""


class Nginx:
    """A server of nginx over TLS on a free port, each of whose connections carries 3 requests.

    `server` is what its block holds besides; `http2`: it speaks HTTP/2, too. Files are made in `directory`.
    """

    def __init__(self, directory: Path, server: str, *, http2: bool = False) -> None:
        assert _COMMAND is not None
        self.port = free_port()
        self.url = f"https://localhost:{self.port}"
        listen = "ssl http2" if http2 else "ssl"
        (directory / "nginx.conf").write_text(_CONFIG.format(port=self.port, listen=listen, server=server))
        self._process = subprocess.Popen(
            [_COMMAND, "-p", f"{directory}/", "-e", "stderr", "-c", "nginx.conf"], stdin=subprocess.DEVNULL
        )
        until_blocking((directory / "nginx.pid").exists)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait(20)
