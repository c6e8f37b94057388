"""What README.md and docs/ show runs as it stands there, and what their tables and links say is so."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import httpx
import pytest

from proxy.base.errors import Code
from proxy.client import command
from proxy.config import SETTINGS
from proxy.policy.allowlist import Allowlist
from proxy.streams.names import Outcome
from proxy.wire.url import parse_url
from tests.doc_tables import PAGES, ROOT, modules, with_tables
from tests.kit.proxy_process import ProxyProcess

README = (ROOT / "README.md").read_text()
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text()
DESIGN = (ROOT / "docs" / "design.md").read_text()
OPERATING = (ROOT / "docs" / "operating.md").read_text()
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()
DOCUMENTS = [*sorted(ROOT.glob("*.md")), ROOT / "tests" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

PYTHON = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
SCRIPT = re.findall(r"^```js\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
SESSION = re.findall(r"^```sh\n(.*?)^```\n\n```text\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^(?:\w+=\S+ )*\./scripts/run .*", README, re.MULTILINE)

# A word a second in the README. Here it is quick, but for a request without a body, which the session aborts: that one
# never says its second word, so that no abort comes too late.
PACE = "time.sleep(0.1 if int(self.headers.get('Content-Length', 0)) else 60)"


def section(page: str, title: str) -> str:
    """What stands under a heading, up to the next one of its level."""
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,2}} |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found is not None, title
    return found[2]


def rows(text: str, columns: int) -> list[list[str]]:
    """The cells of the tables in `text`, their heads left out."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line] for line in lines if len(line) == columns]
    return [line for at, line in enumerate(cells) if "---" not in line[0] and "---" not in (*cells, [""])[at + 1][0]]


# The session


class Model:
    """`model.py` of the README on a free port and at another pace."""

    def __init__(self) -> None:
        start = 'http.server.ThreadingHTTPServer(("localhost", 8000), Model).serve_forever()'
        code = PYTHON[0].replace("time.sleep(1)", PACE).replace(
            start, start.replace("8000", "0").replace("http.", "server = http.", 1).replace(".serve_forever()", "")
            + "\nprint(server.server_port, flush=True)\nserver.serve_forever()",
        )  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


class Shell:
    """One bash for the whole session, as the reader has one."""

    def __init__(self, env: dict[str, str], cwd: Path) -> None:
        self._process = subprocess.Popen(
            ["bash"],
            env=os.environ | env,
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._watchdog = threading.Timer(30, self._process.kill)
        self._watchdog.start()

    def run(self, block: str) -> str:
        """What the block writes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{block}\necho; echo '=== end'\n")
        self._process.stdin.flush()
        written = ""
        for line in self._process.stdout:
            if line == "=== end\n":
                return written.replace("\r", "").removesuffix("\n")
            written += line
        raise AssertionError(f"bash ended: {written}")

    def stop(self) -> None:
        self._watchdog.cancel()
        self._process.kill()
        self._process.communicate()


def exported() -> dict[str, str]:
    """The variables that the README sets before its session."""
    found = re.search(r"^export (.*)$", README, re.MULTILINE)
    assert found is not None
    return dict(item.split("=", 1) for item in shlex.split(found[1]))


def arguments(line: str) -> tuple[dict[str, str], list[str]]:
    """The environment and the arguments of a `./scripts/run` line."""
    before, _, after = line.partition("./scripts/run")
    return dict(item.split("=", 1) for item in shlex.split(before)), shlex.split(after)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    model = Model()
    yield model
    model.stop()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The proxy's data directory."""
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def proxy(model: Model, data: Path) -> Iterator[ProxyProcess]:
    """The proxy as the session starts it, on free ports and with a data directory of its own."""
    line = next(line for line in COMMANDS if "localhost:8000" in line)
    env, args = arguments(line.replace("8000", str(model.port)))
    assert env["PROXY_SECRET"] == exported()["PROXY_SECRET"]
    with ProxyProcess(args, env=env | {"PROXY_DATA_DIR": str(data)}) as proxy:
        yield proxy
        assert "Traceback" not in proxy.output


@pytest.fixture(scope="module")
def environment(model: Model, proxy: ProxyProcess) -> dict[str, str]:
    """What the README exports, with this test's ports."""
    return {
        name: value.replace("8000", str(model.port)).replace("http://localhost:4440", proxy.url)
        for name, value in exported().items()
    }


def shown(text: str) -> re.Pattern[str]:
    """Outputs that may be shown as `text`: … stands for anything; ids, times and signatures for their like."""
    parts = []
    for line in text.splitlines(keepends=True):
        if line == "…\n":
            parts.append(r"(?:.*\n)*?")
            continue
        pattern = re.escape(line.rstrip("\n").removesuffix("…"))
        pattern = re.sub(r"[0-9a-f]{8}\\-(?:[0-9a-f]{4}\\-){3}[0-9a-f]{12}", r"[0-9a-f-]{36}", pattern)
        pattern = re.sub(r"expires=\d+", r"expires=\\d+", pattern)
        pattern = re.sub(r"signature=(?:[\w]|\\-)+", r"signature=[\\w-]{43}", pattern)
        pattern = re.sub(r"next\\-offset: \d{16}_\d{16}", r"next-offset: \\d{16}_\\d{16}", pattern)
        parts.append(pattern + (".*" if line.endswith("…\n") else "") + r"\n")
    return re.compile("".join(parts))


def test_the_session_runs_as_it_stands_and_shows_what_it_says(environment: dict[str, str], tmp_path: Path) -> None:
    assert len(SESSION) == 5
    shell = Shell(environment, tmp_path)
    try:
        for block, output in SESSION:
            pattern = shown(output)
            until = time.monotonic() + 10
            written = shell.run(block)
            while not pattern.search(written) and "Upstream-" not in block and time.monotonic() < until:
                written = shell.run(block)  # the model had not said its first word yet
            assert pattern.search(written), f"{block}\n{pattern.pattern}\n{written}"
    finally:
        shell.stop()


def test_every_variable_of_the_session_is_set_in_it() -> None:
    used = set(re.findall(r"\$\{?([A-Z_]+)", "".join(block for block, _ in SESSION)))
    assigned = set(re.findall(r"^([A-Z_]+)=", "".join(block for block, _ in SESSION), re.MULTILINE))
    assert used <= assigned | set(exported())


# The other examples


def run_python(code: str, env: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | env | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def said() -> str:
    """All that the model says."""
    found = re.search(r'in "(.*?)"\.split', PYTHON[0])
    assert found is not None
    return "".join(f"data: {word}\n\n" for word in found[1].split())


def test_the_python_client_prints_the_answer(environment: dict[str, str]) -> None:
    assert run_python(PYTHON[1], environment) == said()


def test_the_server_runs_inside_a_python_program(tmp_path: Path) -> None:
    assert "port=4440" in PYTHON[2]
    assert "asyncio.Event().wait()" in PYTHON[2]
    program = PYTHON[2].replace("port=4440", "port=0").replace("asyncio.Event().wait()", "asyncio.sleep(0)")
    printed = run_python(program, {"HOME": str(tmp_path)})
    assert re.fullmatch(r"Proxy running at http://localhost:\d+\n", printed)
    assert len(PYTHON) == 3


def test_the_module_that_the_proxy_serves_prints_the_answer(
    proxy: ProxyProcess, model: Model, environment: dict[str, str], tmp_path: Path
) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("there is no Node")
    (code,) = SCRIPT
    source = re.search(r"from '(.*)'", code)
    assert source is not None
    served = source[1].replace("http://localhost:4440", proxy.url)
    for name in (path.name for path in (ROOT / "proxy" / "static").glob("*.js")):
        answer = httpx.get(served.replace("client.js", name))
        assert answer.headers["content-type"] == "text/javascript; charset=utf-8"
        (tmp_path / name).write_bytes(answer.content)
    code = code.replace(source[1], "./client.js")
    code = code.replace("http://localhost:4440", proxy.url).replace("8000", str(model.port))
    backend = (
        "const network = globalThis.fetch\n"
        "globalThis.fetch = (url, init) =>\n"
        "  url === '/api/proxy-token' ? Promise.resolve(new Response(process.env.PROXY_SECRET)) : network(url, init)\n"
    )
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "page.js").write_text(backend + code)
    done = subprocess.run(
        [node, "page.js"],
        cwd=tmp_path,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.stdout, done.stderr) == (said() + "\n", "")


def test_the_store_alone_serves_the_fleets_proxies(model: Model, tmp_path: Path) -> None:
    store_line, fleet_line = (
        next(line for line in COMMANDS if each in line) for each in (" store", "--durable-streams-url")
    )
    secrets = tmp_path / "secrets"
    secrets.touch(mode=0o600)
    secrets.write_text("one\n")
    _, store_args = arguments(store_line.replace("4437", "0").replace("/var/lib/streams", str(tmp_path / "data")))
    process = subprocess.Popen(
        [sys.executable, "-m", "proxy", *store_args],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = next(line.split()[-1] for line in process.stdout if "Store running at" in line)
        _, args = arguments(
            fleet_line.replace("http://localhost:4437", url).replace("/etc/durable-proxy/secrets", str(secrets))
        )
        args += ["--allow", f"http://localhost:{model.port}/**"]
        with ProxyProcess(args) as one, ProxyProcess(args) as other:
            upstream = {"Upstream-URL": f"http://localhost:{model.port}/", "Upstream-Method": "POST"}
            created = httpx.post(f"{one.url}/v1/proxy", headers=upstream | {"Authorization": "Bearer one"})
            live = f"{other.url}{created.headers['location']}&offset=-1&live=long-poll"
            assert httpx.get(live).text.startswith("data: once\n\n")
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.mark.usefixtures("proxy")
def test_the_backup_is_a_store_while_the_proxy_runs(data: Path) -> None:
    found = re.search(r"^```sh\n(.*?)^```", OPERATING, re.MULTILINE | re.DOTALL)
    assert found is not None
    line = found[1].replace(".venv/bin/python", shlex.quote(sys.executable))
    subprocess.run(["bash", "-ec", line], env=os.environ | {"DATA": str(data)}, check=True, timeout=20)
    copy = apsw.Connection(str(data / "backup.db"))
    assert copy.pragma("integrity_check") == "ok"
    copy.close()


# Tables


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_the_tables_are_those_that_the_code_gives(path: Path) -> None:
    page = path.read_text()
    assert with_tables(page) == page, "run python -m tests.doc_tables"


def test_the_log_lines_that_are_explained_are_those_of_the_code() -> None:
    code = "".join(path.read_text() for path in (ROOT / "proxy").rglob("*.py"))
    told = [row[0].strip("`") for row in rows(section(OPERATING, "Logs"), 2)]
    assert len(told) > 5
    for line in told:
        for phrase in line.split("…"):
            assert phrase.strip(" :,") in code, line


def test_every_setting_is_in_the_configuration_once() -> None:
    told = [row[1].strip("`") for row in rows(CONFIGURATION, 5)]
    assert told == [setting.env for setting in SETTINGS]


def test_the_errors_are_those_of_the_code() -> None:
    told = [(int(status), code.strip("`")) for status, code, _ in rows(section(README, "Errors"), 3)]
    assert told == [(code.status, code.value) for code in Code]


def test_the_outcomes_are_those_of_the_code() -> None:
    told = [row[0].strip("`") for row in rows(section(PROTOCOL, "How a stream ends"), 2)]
    assert told == [outcome.value for outcome in Outcome]


@pytest.mark.parametrize("row", rows(section(PROTOCOL, "The allowlist"), 3), ids=lambda row: row[0])
def test_a_pattern_allows_and_refuses_what_the_table_says(row: list[str]) -> None:
    pattern, allowed, refused = (re.findall(r"`(.*?)`", cell) for cell in row)
    allowlist = Allowlist(pattern)
    assert [allowlist.match(parse_url(url.encode())) is not None for url in allowed + refused] == (
        [True] * len(allowed) + [False] * len(refused)
    )
    assert allowed
    assert refused


def test_every_folder_of_the_package_has_its_modules_in_the_design() -> None:
    folders = {path.parent for path in (ROOT / "proxy").rglob("*.py")} - {ROOT / "proxy"}
    told = re.findall(r"<!-- modules: ([\w.]+) -->", DESIGN)
    names = (".".join(folder.relative_to(ROOT / "proxy").parts) for folder in folders)
    assert sorted(told) == sorted(name for name in ["proxy", *names] if modules(name))
    # The words come from the modules themselves: each has some.
    assert all(row[1] for row in rows(DESIGN.partition("\n## Modules\n")[2], 2))


# Names and links


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_option_and_variable_that_is_named_exists(path: Path) -> None:
    page = path.read_text()
    flags = {setting.flag for setting in SETTINGS} | {"--help", "--version", "--allow"}
    of_fetch = set(re.findall(r"\"(--[a-z-]+)\"", Path(command.__file__).read_text()))
    # Those of pip, npm, pytest and the bench are in other places than code spans of one word.
    named = set(re.findall(r"`(--[a-z-]*[a-z])(?: [^`]*)?`", page))
    assert named <= flags | of_fetch | {"--strict", "--loop"}
    variables = {setting.env for setting in SETTINGS} | {"PROXY_URL", "PROXY_SECRET"}
    of_tests = {"PROXY_CONFORMANCE_URL", "PROXY_CONFORMANCE_SECRET"}
    assert set(re.findall(r"`((?:PROXY|DURABLE_STREAMS)_[A-Z_]+)", page)) <= variables | of_tests


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(path: Path) -> None:
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", path.read_text()):
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), target
        if anchor:
            titles = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles], anchor


def test_the_scripts_that_are_named_can_be_run() -> None:
    for name in set(re.findall(r"\./scripts/([\w-]+)", "".join(path.read_text() for path in DOCUMENTS))):
        assert os.access(ROOT / "scripts" / name, os.X_OK), name


def test_numbers_in_the_text_are_the_defaults() -> None:
    """Those that operating.md gives behind an option."""
    units = {"": 1, "KiB": 1024, "MiB": 1024 * 1024}
    defaults = {setting.flag: setting.default for setting in SETTINGS}
    told = re.findall(r"`(--[a-z-]+)` \(([\d,]+) ?(KiB|MiB|)\)", OPERATING)
    assert len(told) >= 7
    for flag, number, unit in told:
        assert defaults[flag] == int(number.replace(",", "")) * units[unit], flag
