"""The client stands alone: nothing of the server's is imported, and no HTTP library before it is used."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.client.scripted_proxy import ScriptedProxy

ROOT = Path(__file__).resolve().parent.parent.parent

# An import of any of these is an error, as it would be where they are not installed.
BLOCK = """
import sys
BLOCKED = {"apsw", "h2", "uvloop"}
OURS = {"proxy", "proxy.version", "proxy.streams", "proxy.streams.names"}
class Block:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        server = top == "proxy" and name not in OURS and not (name + ".").startswith("proxy.client.")
        if top in BLOCKED or server:
            raise ModuleNotFoundError(f"{name} is not for the client")
sys.meta_path.insert(0, Block())
"""

IMPORT = """
import proxy.client, proxy.client.command
lazy = {"httpx", "httpx2", "httpcore", "httpcore2", "h11", "anyio", "sniffio", "certifi"}
print(sorted(name for name in lazy if name in sys.modules))
"""

USE = """
import asyncio, importlib
from proxy.client import create_async_durable_fetch, create_durable_fetch
url, secret, upstream = sys.argv[1:]
with create_durable_fetch(url, proxy_authorization=secret) as fetch:
    print(fetch(upstream).read().decode())
async def main():
    async with create_async_durable_fetch(url, proxy_authorization=secret) as fetch:
        print((await (await fetch(upstream)).read()).decode())
asyncio.run(main())
for name in ("httpx", "httpx2"):
    try:
        library = importlib.import_module(name)
    except ImportError:
        continue
    transport = importlib.import_module(f"proxy.client.{name}").DurableTransport(url, proxy_authorization=secret)
    with library.Client(transport=transport) as client:
        print(client.post(upstream).text)
"""

OWN_IMPORTS = """
import ast, pathlib
for file in sorted(pathlib.Path(proxy.client.__file__).parent.glob("*.py")):
    for node in ast.walk(ast.parse(file.read_text())):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        for name in names:
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names and not name.startswith("proxy.client"):
                print(file.name, name)
"""


def python(script: str, *args: str, interpreter: str = sys.executable) -> str:
    """Run it away from this folder, with nothing but the project's root on the path."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    ran = subprocess.run(
        [interpreter, "-c", script, *args],
        env=environment | {"PYTHONPATH": str(ROOT)},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_importing_the_client_imports_no_http_library_and_nothing_of_the_servers() -> None:
    assert python(BLOCK + IMPORT) == "[]\n"


def test_every_import_of_the_clients_own_files_is_the_standard_librarys_or_allowed() -> None:
    allowed = {"httpx.py httpx", "httpx2.py httpx2"}
    found = set(python("import sys, proxy.client\n" + OWN_IMPORTS).splitlines())
    assert {line for line in found if not line.endswith("proxy.streams.names")} == allowed


def test_the_client_works_where_the_servers_modules_cannot_be_imported(proxy: ScriptedProxy) -> None:
    for _ in range(4):
        proxy.stream(b"hello")
    assert python(BLOCK + USE, proxy.url, proxy.secret, "http://upstream.test/") == "hello\n" * 4


def test_without_a_library_the_first_use_says_what_to_install() -> None:
    use = (
        "BLOCKED |= {'httpx', 'httpx2'}\n"
        "from proxy.client import create_durable_fetch\n"
        "try:\n"
        "    create_durable_fetch('http://localhost', proxy_authorization='x')('http://upstream.test/')\n"
        "except ModuleNotFoundError as error:\n"
        "    print(error.name, error)\n"
    )
    told = python(BLOCK + use)
    assert told.startswith("httpx ")
    assert ".[client]" in told


def test_without_a_library_the_command_says_so_in_one_line() -> None:
    use = (
        "from proxy.cli import main\n"
        "class Missing(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('httpx', 'httpx2'):\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "os.environ['PROXY_SECRET'] = 'x'\n"
        "sys.stderr = sys.stdout\n"
        "try:\n"
        "    main(['fetch', 'http://upstream.test/', '--state-dir', 'none'])\n"
        "except SystemExit as error:\n"
        "    print(error.code)\n"
    )
    told = python("import importlib.abc, os, sys\n" + use).splitlines()
    assert (len(told), told[-1], "httpx" in told[0]) == (2, "2", True)


@pytest.mark.slow
@pytest.mark.parametrize("library", ["httpx", "httpx2"])
def test_the_client_works_with_only_one_library_installed(proxy: ScriptedProxy, tmp_path: Path, library: str) -> None:
    venv.create(tmp_path / "bare", with_pip=True)
    interpreter = str(tmp_path / "bare" / "bin" / "python")
    subprocess.run([interpreter, "-m", "pip", "install", "--quiet", library], check=True, timeout=300)
    for _ in range(3):
        proxy.stream(b"hello")
    used = python("import sys\n" + USE, proxy.url, proxy.secret, "http://upstream.test/", interpreter=interpreter)
    assert used == "hello\n" * 3
