"""The pages of docs/internals name what exists: modules, classes, methods, settings, outcomes and states."""

import ast
import importlib
import re
from enum import Enum
from pathlib import Path

import pytest

from proxy.config import SETTINGS
from proxy.streams.names import Outcome
from tests.doc_tables import ROOT

PAGES = sorted((ROOT / "docs" / "internals").glob("*.md"))
SUBJECTS = [page for page in PAGES if page.name != "README.md"]

# Words in backticks that are no names of ours: the protocol's, SQL's, the system's.
FOREIGN = re.compile(
    r"[A-Z][A-Za-z]*(-[A-Za-z]+)+"  # header fields
    r"|GET|HEAD|POST|PUT|PATCH|DELETE|BEGIN( … COMMIT)?|COMMIT|SIG[A-Z]+"
    r"|[0-9 ]+|/v1/\S+|\{id\}\S*|_proxy/\S+"
)


def _names(tree: ast.AST) -> set[str]:
    """Every name that a module defines: classes, functions, arguments, attributes, constants, enum values."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 40:
            found.add(node.value)
        elif isinstance(node, ast.Constant) and isinstance(node.value, bytes) and len(node.value) < 40:
            found.add(node.value.decode("latin-1"))
    return found


def _defined() -> set[str]:
    found: set[str] = {setting.flag for setting in SETTINGS if setting.flag}
    found |= {setting.env for setting in SETTINGS} | {outcome.value for outcome in Outcome}
    for path in sorted((ROOT / "proxy").rglob("*.py")):
        module = path.relative_to(ROOT / "proxy").with_suffix("")
        found |= {module.name, ".".join(module.parts), "/".join(module.parts), path.name, f"{module.parent}/"}
        found |= _names(ast.parse(path.read_bytes()))
    return found


DEFINED = _defined()


def unknown(text: str) -> list[str]:
    """The words in backticks that name nothing in the package."""
    words = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    wrong = []
    for word in words:
        name = re.sub(r"\(.*\)$", "", word)
        parts = name.split(".")
        if FOREIGN.fullmatch(name) or name in DEFINED or all(part in DEFINED for part in parts):
            continue
        if name.startswith("./scripts/") and (ROOT / name.split()[0]).exists():
            continue
        wrong.append(word)
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_name_in_the_page_exists(page: Path) -> None:
    assert not unknown(page.read_text())


@pytest.mark.parametrize("page", SUBJECTS, ids=lambda page: page.name)
def test_every_page_has_a_picture_and_stands_in_the_list(page: Path) -> None:
    assert "```mermaid\n" in page.read_text()
    assert f"({page.name})" in (ROOT / "docs" / "internals" / "README.md").read_text()


DIAGRAMS = [
    (page.name, states, diagram)
    for page in SUBJECTS
    for states, diagram in re.findall(
        r"<!-- states: ([\w.]+) -->\n+```mermaid\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL
    )
]


@pytest.mark.parametrize(("page", "states", "diagram"), DIAGRAMS, ids=lambda value: str(value)[:40])
def test_a_state_diagram_has_the_states_of_the_code(page: str, states: str, diagram: str) -> None:
    module, _, name = states.rpartition(".")
    members = getattr(importlib.import_module(module), name)
    assert issubclass(members, Enum)
    drawn = set(re.findall(r"^\s*(\w+) --> |--> (\w+)", diagram, re.MULTILINE))
    assert {each for pair in drawn for each in pair if each} == {member.name for member in members}, page


def test_this_test_sees_a_name_that_is_gone() -> None:
    text = "`Pipe.feed`, `Pipe.no_such_method`, `--max-waiting-bytes`, `./scripts/soak fleet`, `./scripts/none`"
    assert unknown(text) == ["Pipe.no_such_method", "./scripts/none"]
