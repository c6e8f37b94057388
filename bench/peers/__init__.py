"""What is measured: our proxy and store, and what a user would otherwise run, each started by one function.

Exports `Peer` and `start`, `Store` and `start_store`. The same load drives every peer and every store.
"""

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.peers.nginx import Missing, start_nginx
from bench.process import PROXY_CORE, Child, free_port

__all__ = ["Missing", "Peer", "Store", "start", "start_store"]

_ROOT = Path(__file__).resolve().parents[2]
_BODY = b'{"model":"none","stream":true,"messages":[{"role":"user","content":"How fast are you, really?"}]}'


@dataclass(frozen=True, slots=True)
class Peer:
    """A running proxy. A relay answers with the upstream's body, the others with 201 and a stream in storage."""

    name: str
    child: Child
    port: int
    secret: str
    upstream_port: int

    @property
    def relay(self) -> bool:
        """It stores nothing."""
        return self.name == "nginx"

    def request(self, path: str) -> bytes:
        """The request that makes the peer fetch `path` of the upstream. Its body is the same for all peers."""
        if self.relay:
            head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
        else:
            head = (
                f"POST /v1/proxy HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nAuthorization: Bearer {self.secret}\r\n"
                f"Upstream-URL: http://127.0.0.1:{self.upstream_port}{path}\r\nUpstream-Method: POST\r\n"
            )
        return f"{head}Content-Type: application/json\r\nContent-Length: {len(_BODY)}\r\n\r\n".encode() + _BODY

    def ask(self, method: str, target: str) -> bytes:
        """A request without a body, authorised by the secret unless the target is signed."""
        proof = "" if "signature=" in target else f"Authorization: Bearer {self.secret}\r\n"
        return f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n{proof}\r\n".encode()


def start(name: str, upstream_port: int, storage_url: str | None, options: Sequence[str] = ()) -> Peer:
    """Starts `proxy`, `nginx` or `obvious` on the proxy's core and waits until it listens.

    `storage_url` None means our embedded store, in a new directory; `options` are for our command line. Raises
    Missing or RuntimeError.
    """
    secret = secrets.token_urlsafe(24)
    if name == "nginx":
        child, port = start_nginx(upstream_port)
        return Peer(name, child, port, secret, upstream_port)
    port = free_port()
    data = Path(tempfile.mkdtemp(prefix="bench-data-"))
    if name == "obvious":
        command = [str(Path(__file__).with_name("obvious.py")), str(port), str(storage_url)]
    else:
        storage = ["--durable-streams-url", storage_url] if storage_url else []
        allow = ["--allow", f"http://127.0.0.1:{upstream_port}/**"]
        command = ["-m", "proxy", "--host", "127.0.0.1", "--port", str(port), "--data-dir", str(data)]
        command += [*allow, *storage, *options]
    child = Child([sys.executable, *command], data, _environment(secret), PROXY_CORE)
    child.wait_for_port(port)
    return Peer(name, child, port, secret, upstream_port)


@dataclass(frozen=True, slots=True)
class Store:
    """A running durable-streams server; streams live under `path`."""

    name: str
    child: Child
    port: int
    path: str = "/v1/streams/"

    @property
    def url(self) -> str:
        """Its origin, without a path."""
        return f"http://127.0.0.1:{self.port}"


def start_store(name: str, core: int = PROXY_CORE) -> Store:
    """Starts `store` (ours) or `npm` with a new data directory and waits until it listens.

    Raises Missing or RuntimeError.
    """
    port = free_port()
    data = Path(tempfile.mkdtemp(prefix="bench-store-"))
    if name == "npm":
        modules = _ROOT / "tests" / "node_modules" / "@durable-streams" / "server"
        if shutil.which("node") is None or not modules.exists():
            raise Missing("the npm server is not installed: ./scripts/setup-js brings it (with Node 20)")
        script = str(Path(__file__).with_name("npm_store.mjs"))
        command = ["node", script, str(modules), str(port), str(data)]
    else:
        command = [sys.executable, "-m", "proxy", "store", "--port", str(port), "--data-dir", str(data)]
    child = Child(command, data, _environment(""), core)
    child.wait_for_port(port)
    return Store(name, child, port)


def _environment(secret: str) -> dict[str, str]:
    """The environment with the secret, and without the user's own settings of the proxy."""
    ours = {name: "" for name in os.environ if name.startswith(("PROXY_", "DURABLE_STREAMS_"))}
    return {**ours, "PROXY_SECRET": secret, "BENCH_SECRET": secret, "PYTHONPATH": str(_ROOT)}
