"""nginx as a plain relay, which stores nothing: what is possible in C. Owns its configuration and its installation."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from bench.process import PROXY_CORE, Child, free_port

__all__ = ["Missing", "start_nginx", "start_nginx_tls"]

_CONFIG = Path(__file__).with_name("nginx.conf")
_TLS_CONFIG = Path(__file__).with_name("nginx_tls.conf")


class Missing(Exception):
    """A peer is not installed. The message says how to install it."""


def find_nginx() -> str:
    """The path of nginx, installed from Debian when this is root. Raises Missing."""
    path = os.environ.get("PATH", "") + ":/usr/sbin"
    found = shutil.which("nginx", path=path)
    if found is None and os.geteuid() == 0 and shutil.which("apt-get") is not None:
        print("nginx is not here: installing Debian's nginx-light for the comparison", flush=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # 1: no service is started
        for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", "nginx-light"]):
            subprocess.run(["apt-get", *command], env=environment, check=False, capture_output=True)
        found = shutil.which("nginx", path=path)
    if found is None:
        raise Missing("nginx is not installed: `apt-get install nginx-light` (as root) brings it")
    return found


def start_nginx(upstream_port: int) -> tuple[Child, int]:
    """One worker that relays to 127.0.0.1:`upstream_port`; the process and its port."""
    directory = Path(tempfile.mkdtemp(prefix="bench-nginx-"))
    return _started(directory, _CONFIG.read_text().replace("UPSTREAM", str(upstream_port)))


def start_nginx_tls(directory: Path, certificate: Path, key: Path) -> tuple[Child, int]:
    """One worker that serves the files of `directory` over TLS; the process and its port."""
    config = _TLS_CONFIG.read_text().replace("CERT", str(certificate)).replace("KEY", str(key))
    return _started(directory, config.replace("ROOT", str(directory)))


def _started(directory: Path, config: str) -> tuple[Child, int]:
    nginx = find_nginx()
    port = free_port()
    (directory / "nginx.conf").write_text(config.replace("LISTEN", str(port)))
    child = Child([nginx, "-p", f"{directory}/", "-e", "stderr", "-c", "nginx.conf"], directory, {}, PROXY_CORE)
    child.wait_for_port(port)
    return child, port
