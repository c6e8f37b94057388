"""What `docs/clients.md` shows for Python runs as it stands there, and what its tables say is so."""

import inspect
import re
import shlex
from pathlib import Path

import pytest

from proxy import client
from proxy.client import command
from tests.client.scripted_proxy import ScriptedProxy
from tests.client.test_command import Shell
from tests.client.test_isolation import python
from tests.client.wire_formats import anthropic_events, openai_completion, openai_events

PAGE = (Path(__file__).resolve().parent.parent.parent / "docs" / "clients.md").read_text()
SECTION = re.split(r"^## (?!#)", PAGE.partition("\n## Python\n")[2], flags=re.MULTILINE)[0]
EXAMPLES = re.findall(r"^```python\n(.*?)^```", SECTION, re.MULTILINE | re.DOTALL)
LINES = re.findall(r"^python -m proxy (fetch .*?)(?: +# .*)?$", SECTION, re.MULTILINE)

ANSWERS = {
    "AsyncAnthropic": (anthropic_events("Hel", "lo"), "Hello"),
    "durable_request": ([openai_completion("Hello")], "Hello\n"),
    "OpenAI(": (openai_events("Hel", "lo"), "Hello"),
    "IncompleteStream": ([b"data: Hello\n\n"], "data: Hello\n\n"),
    "async_durable_fetch": ([b"Hello"], "5 bytes\n"),
}


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_every_example_runs_as_it_stands(
    proxy: ScriptedProxy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, example: str
) -> None:
    for name, value in {
        "PROXY_URL": proxy.url,
        "PROXY_SECRET": proxy.secret,
        "OPENAI_API_KEY": "sk-1",
        "ANTHROPIC_API_KEY": "sk-2",
    }.items():
        monkeypatch.setenv(name, value)
    appends, printed = next(answer for mark, answer in ANSWERS.items() if mark in example)
    proxy.stream(*appends, content_type="application/json" if len(appends) == 1 else "text/event-stream")
    here = f"import os\nos.chdir({str(tmp_path)!r})\n"
    assert python(here + example) == printed
    assert len(proxy.creates) == 1


def test_there_are_as_many_examples_as_are_run() -> None:
    assert (len(EXAMPLES), len(LINES)) == (len(ANSWERS), 4)


def test_the_shell_session_does_what_its_comments_say(proxy: ScriptedProxy, tmp_path: Path) -> None:
    shell = Shell(proxy.url, proxy.secret, tmp_path)
    ask, again, rest, abort = (shlex.split(line)[1:] for line in LINES)
    for arguments, written in ((again, [b"one two"]), (rest, [b"one two", b"two"])):
        stream = proxy.stream(b"one ", outcome=None)
        process = shell.start(*ask)
        assert process.stdout is not None
        with process:
            assert process.stdout.read(4) == b"one "
            process.terminate()
        proxy.close(stream, "complete", b"two")
        code, out, _ = shell.run(*arguments)
        assert (code, out in written) == (0, True)  # whether the last piece was noted before the end is a race
    proxy.stream(b"one ", outcome=None)
    process = shell.start(*ask)
    assert process.stdout is not None
    with process:
        assert process.stdout.read(4) == b"one "
        assert shell.run(*abort)[0] == 0
        process.wait(30)
    assert len(proxy.creates) == 3


def rows(heading: str) -> list[list[str]]:
    """The cells of the table under a heading, without its head."""
    part = SECTION.partition(f"### {heading}\n")[2].partition("\n### ")[0]
    table = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[2:]]


@pytest.mark.parametrize("make", [client.create_durable_fetch, client.create_async_durable_fetch])
def test_the_table_of_options_is_the_signature(make: object) -> None:
    parameters = inspect.signature(make).parameters  # type: ignore[arg-type]  # a function, of two types
    told = [(name.strip("`"), default.strip("`")) for name, default, _ in rows("Options")]
    empty = inspect.Parameter.empty
    defaults = ["" if each.default is empty else repr(each.default).replace("'", '"') for each in parameters.values()]
    assert told == list(zip(parameters, defaults, strict=True))


def test_the_table_of_errors_names_what_there_is() -> None:
    for name, _, attributes in rows("Errors"):
        error = getattr(client, name.strip("`"))
        assert issubclass(error, client.DurableError)
        taken = inspect.signature(error.__init__).parameters
        assert all(attribute in taken for attribute in re.findall(r"`(\w+)`", attributes))


def test_the_exit_codes_are_those_of_the_help() -> None:
    told = re.findall(r"(\d+) ([a-z ]+)", SECTION.partition("Exit codes: ")[2].replace("\n", " "))
    for code, meaning in told:
        assert f"{code} {meaning.strip()}" in " ".join(command.EPILOG.split())
    assert len(told) == 8
