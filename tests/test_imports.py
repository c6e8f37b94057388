"""Imports go down only, by the table in docs/design.md; modules and functions stay small; a name means one thing."""

import ast
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "proxy"
DESIGN = (ROOT.parent / "docs" / "design.md").read_text()

MODULE_LINES = 500
FUNCTION_LINES = 50

# wire and policy decide and never wait: what they would need for that is not theirs.
PURE = ("wire", "policy")
IMPURE = {
    "asyncio", "anyio", "time", "datetime", "socket", "select", "selectors", "ssl", "threading", "subprocess",
    "random", "os", "pathlib", "logging",
}  # fmt: skip


def _table() -> dict[str, tuple[set[str], set[str]]]:
    """By folder: what of ours it may import (a dotted name stands for that module alone), and which libraries."""
    _, _, text = DESIGN.partition("\n## Who may import whom\n")
    rows = [line.split("|")[1:-1] for line in text.partition("\n## ")[0].splitlines() if line.startswith("| `")]
    return {
        name.strip(" `"): (set(re.findall(r"`([\w.]+)`", ours)), set(re.findall(r"`([\w.]+)`", libraries)))
        for name, ours, libraries in rows
    }


TABLE = _table()


def name_of(path: Path, root: Path = ROOT) -> str:
    """The dotted name of a module: `proxy.wire.h1`, and `proxy.wire` for the folder's `__init__`."""
    parts = path.relative_to(root.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules_in(folder: Path) -> dict[str, Path]:
    """Every module below `folder`, by its dotted name."""
    return {name_of(path): path for path in sorted(folder.rglob("*.py"))}


MODULES = modules_in(ROOT)


def imported(path: Path, known: Iterable[str] = MODULES) -> Iterator[str]:
    """Every module that `path` imports, wherever in it; `from a import b` is a.b where `known` has such a module."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module


def top(name: str) -> str:
    """The first part of a dotted name."""
    return name.partition(".")[0]


def is_within(name: str, folders: Iterable[str]) -> bool:
    """Whether a module is one of `folders` or lies in one."""
    return any(name == each or name.startswith(f"{each}.") for each in folders)


def row_of(module: str) -> str:
    """The folder whose row in the table is a module's: `store.sqlite` for `proxy.store.sqlite.lock`."""
    own = module.removeprefix("proxy.")
    return max((folder for folder in TABLE if is_within(own, [folder])), key=len, default="")


def may_import(folder: str, module: str) -> bool:
    """Whether the table allows it. A name in a row stands for a folder without the folders in it, or for one module."""
    ours, _ = TABLE[folder]
    row = row_of(module)
    return (
        row in {folder, *ours}
        or is_within(row, [folder])
        or is_within(module.removeprefix("proxy."), ours - TABLE.keys())
    )


def circle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """The names along one circle, or none when there is no circle."""
    done: set[str] = set()

    def visit(name: str, above: list[str]) -> list[str]:
        if name in above:
            return [*above[above.index(name) :], name]
        if name not in done:
            for each in sorted(graph.get(name, ())):
                if found := visit(each, [*above, name]):
                    return found
            done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := visit(name, []))), [])


def imports_among(modules: Mapping[str, Path]) -> dict[str, set[str]]:
    """Which of the modules each of them imports."""
    return {name: set(imported(path, modules)) & modules.keys() - {name} for name, path in modules.items()}


def test_every_folder_has_its_row_and_the_rows_themselves_go_down_only() -> None:
    folders = {name_of(path.parent / "__init__.py").removeprefix("proxy.") for path in ROOT.rglob("*.py")} - {"proxy"}
    assert set(TABLE) == folders
    assert not circle({folder: {top(each) for each in ours} for folder, (ours, _) in TABLE.items()})


@pytest.mark.parametrize("folder", TABLE)
def test_a_folder_imports_what_the_table_allows_and_no_more(folder: str) -> None:
    _, libraries = TABLE[folder]
    wrong = []
    for module, path in MODULES.items():
        if row_of(module) != folder:
            continue
        for name in imported(path):
            is_fine = may_import(folder, name) if top(name) == "proxy" else top(name) in libraries
            if top(name) not in sys.stdlib_module_names and not is_fine:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_no_imports_form_a_circle() -> None:
    assert not circle(imports_among(MODULES))


def test_no_module_imports_the_front_of_its_own_folder() -> None:
    wrong = [name for name, found in imports_among(MODULES).items() if name.rpartition(".")[0] in found]
    assert not wrong


@pytest.mark.parametrize("folder", PURE)
def test_folders_of_pure_decisions_wait_for_nothing_and_read_no_clock(folder: str) -> None:
    wrong = [
        f"{path.name} imports {name}"
        for path in modules_in(ROOT / folder).values()
        for name in imported(path)
        if top(name) in IMPURE
    ]
    assert not wrong


def test_what_the_client_needs_of_the_streams_folder_brings_nothing_with_it() -> None:
    for name in ("__init__", "names"):
        assert {top(each) for each in imported(ROOT / "streams" / f"{name}.py")} <= {"enum"}
    assert set(imported(ROOT / "__init__.py")) == {"proxy.version"}


def test_only_base_tasks_makes_tasks() -> None:
    wrong = []
    for path in MODULES.values():
        if path == ROOT / "base" / "tasks.py" or path.is_relative_to(ROOT / "client"):
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Attribute) and node.attr in (
                "create_task",
                "ensure_future",
                "run_coroutine_threadsafe",
            ):
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert not wrong


def dynamic_imports(path: Path) -> list[int]:
    """The lines on which a module may import another one by a computed name, which `imported` does not see."""
    names = {"importlib", "import_module", "__import__"}
    tree = ast.parse(path.read_bytes())
    return sorted(
        node.lineno
        for node in ast.walk(tree)
        if (isinstance(node, ast.Name) and node.id in names)
        or (isinstance(node, ast.Attribute) and node.attr in names)
        or (isinstance(node, ast.alias) and node.name in names)
    )


def test_no_import_is_hidden_from_these_tests() -> None:
    # The client's library at the border is chosen by the caller: httpx or httpx2, neither of which is a module of ours.
    wrong = {name: lines for name, path in MODULES.items() if (lines := dynamic_imports(path))}
    assert set(wrong) <= {"proxy.client.library"}


def sources() -> Iterator[Path]:
    """Every module that is kept small: the program, its benchmarks, the test kits, and the browser's modules."""
    yield from MODULES.values()
    yield from (ROOT.parent / "bench").rglob("*.py")
    yield from (ROOT.parent / "tests" / "kit").glob("*.py")
    yield from (ROOT / "static").rglob("*.js")


def long_functions(path: Path) -> list[str]:
    """The functions of a Python module that are too long, decorators not counted."""
    return [
        f"{path.relative_to(ROOT.parent)}:{node.lineno} {node.name}"
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= FUNCTION_LINES
    ]


def test_modules_say_what_they_own() -> None:
    assert not [name for name, path in MODULES.items() if not ast.get_docstring(ast.parse(path.read_text()))]


def test_modules_and_functions_stay_small() -> None:
    for path in sources():
        assert len(path.read_text().splitlines()) <= MODULE_LINES, f"{path} is too long"
        if path.suffix == ".py":
            assert not long_functions(path)


def classes(modules: Mapping[str, Path]) -> dict[str, list[str]]:
    """The modules that define a class of each name at their top level."""
    found: dict[str, list[str]] = {}
    for name, path in modules.items():
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found.setdefault(node.name, []).append(name)
    return found


def test_no_two_classes_have_the_same_name_except_generated_twins() -> None:
    # httpx.py is generated from httpx2.py: the same classes for another library, under the same names.
    twins = ["proxy.client.httpx", "proxy.client.httpx2"]
    assert [each for each in classes(MODULES).values() if len(each) > 1 and each != twins] == []


# These tests see what they forbid


def test_an_import_is_seen_wherever_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "import a.b\nfrom c import d\nfrom proxy.streams import names\n"
        "if TYPE_CHECKING:\n    from e import F\n"
        "def f():\n    import time\n"
    )
    assert set(imported(path)) == {"a.b", "c", "proxy.streams.names", "e", "time"}


def test_a_hidden_import_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        "from importlib.resources import files\nimport importlib\nimportlib.import_module('x')\n__import__('y')\n"
    )
    assert dynamic_imports(path) == [2, 3, 3, 4]


def test_a_name_that_is_used_twice_is_seen(tmp_path: Path) -> None:
    first, second = tmp_path / "a.py", tmp_path / "b.py"
    first.write_text("class Same: pass\nclass _Own: pass\n")
    second.write_text("class Same: pass\nclass _Own: pass\n")
    assert classes({"a": first, "b": second}) == {"Same": ["a", "b"]}


@pytest.mark.parametrize(
    ("graph", "found"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": {}}, []),
        ({"a": {"b"}, "b": {"c"}, "c": {"b"}}, ["b", "c", "b"]),
        ({"a": {"a"}}, ["a", "a"]),
    ],
)
def test_a_circle_is_found(graph: Mapping[str, Iterable[str]], found: list[str]) -> None:
    assert circle(graph) == found
