"""The conditions of a run, which a reader needs to judge it: machine, versions, pinning, other load."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
from pathlib import Path

from bench.process import CORES, LOAD_CORE, PROXY_CORE

__all__ = ["conditions"]

_PACKAGES = ("h11", "uvloop", "apsw", "httpx", "starlette", "uvicorn", "httptools")


def conditions(pinned: bool) -> dict[str, str]:
    """Name and text of each condition, at this moment."""
    return {
        "machine": f"{_processor()}, {len(CORES)} cores, {_memory()}",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join(f"{name} {version}" for name in _PACKAGES if (version := _version(name))),
        "commit": _output("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"),
        "nginx": _output("nginx", "-v").removeprefix("nginx version: "),
        "node": _output("node", "--version"),
        "pinning": (
            f"the process under test on core {PROXY_CORE}; load, upstream and storage on core {LOAD_CORE}"
            if pinned
            else "none: this machine has one core only"
        ),
        "load before": " ".join(f"{load:.2f}" for load in os.getloadavg()) + " (1, 5, 15 minutes)",
        "network": "loopback, HTTP/1.1, no TLS",
    }


def _processor() -> str:
    try:
        match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        match = None
    return match[1] if match else platform.machine()


def _memory() -> str:
    try:
        match = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    except OSError:
        match = None
    return f"{int(match[1]) / 1_048_576:.0f} GiB" if match else "unknown memory"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _output(*command: str) -> str:
    path = shutil.which(command[0], path=os.environ.get("PATH", "") + ":/usr/sbin")
    if path is None:
        return "not installed"
    done = subprocess.run([path, *command[1:]], capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).strip().splitlines()[0] if done.stdout or done.stderr else "unknown"
