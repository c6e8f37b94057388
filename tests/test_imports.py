"""Imports go down only: each room of the house knows the rooms below it, by name, and nothing else."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent / "proxy"

# What each room may import of ours; a dotted name stands for that module alone.
ROOMS: dict[str, set[str]] = {
    "base": set(),
    "wire": {"base"},
    "net": {"base", "wire.events"},
    "http": {"base", "wire", "net"},
    "policy": {"base", "wire"},
    "streams": {"base", "wire", "http"},
    "relay": {"base", "wire", "net", "http", "policy", "streams"},
    "handlers": {"base", "wire", "http", "policy", "streams", "relay"},
    "store": {"base", "wire", "http.body", "http.message", "streams.names"},
    "client": {"streams.names"},
    "static": set(),
}

# What each room may import of others'.
LIBRARIES: dict[str, set[str]] = {
    "base": set(),
    "wire": {"h11", "h2", "hpack", "hyperframe"},
    "net": {"anyio"},
    "http": {"anyio"},
    "policy": set(),
    "streams": {"anyio"},
    "relay": {"anyio"},
    "handlers": {"anyio"},
    "store": {"apsw", "anyio"},
    "client": {"httpx", "httpx2"},
    "static": set(),
}

# wire and policy decide and never wait: what they would need for that is not theirs.
PURE = ("wire", "policy")
IMPURE = {
    "asyncio", "anyio", "time", "datetime", "socket", "select", "selectors", "ssl", "threading", "subprocess",
    "random", "os", "pathlib", "logging",
}  # fmt: skip


def modules(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Every module that `path` imports, also inside functions; `from a import b` is a.b where that is a module."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            assert node.module is not None
            for alias in node.names:
                inner = ROOT.parent.joinpath(*node.module.split("."), alias.name)
                is_module = inner.with_suffix(".py").exists() or inner.is_dir()
                yield f"{node.module}.{alias.name}" if is_module else node.module


def all_imported() -> list[tuple[str, Path, str]]:
    return [(room, path, name) for room in ROOMS for path in modules(room) for name in imported(path)]


def test_every_room_is_in_the_table() -> None:
    rooms = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert rooms <= set(ROOMS)


def test_each_room_imports_only_what_lies_below_it() -> None:
    wrong = []
    for room, path, name in all_imported():
        if name.partition(".")[0] != "proxy":
            continue
        target = name.removeprefix("proxy").removeprefix(".")
        allowed = ROOMS[room] | {room, "version"}
        if not any(target == each or target.startswith(f"{each}.") for each in allowed):
            wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_each_room_uses_only_its_own_libraries() -> None:
    wrong = []
    for room, path, name in all_imported():
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top != "proxy" and top not in LIBRARIES[room]:
            wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


@pytest.mark.parametrize("room", PURE)
def test_rooms_of_pure_decisions_wait_for_nothing_and_read_no_clock(room: str) -> None:
    wrong = [
        f"{path.name} imports {name}"
        for path in modules(room)
        for name in imported(path)
        if name.partition(".")[0] in IMPURE
    ]
    assert not wrong


def test_what_the_client_needs_of_the_streams_room_brings_nothing_with_it() -> None:
    for name in ("__init__", "names"):
        assert {each.partition(".")[0] for each in imported(ROOT / "streams" / f"{name}.py")} <= {"enum"}
    assert set(imported(ROOT / "__init__.py")) == {"proxy.version"}


def test_only_base_tasks_makes_tasks() -> None:
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
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


def test_modules_say_what_they_own_and_stay_small() -> None:
    for path in sorted(ROOT.rglob("*.py")):
        text = path.read_text()
        assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
        assert len(text.splitlines()) <= 500, f"{path} is too long"


def test_this_test_sees_what_it_forbids(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text("import a.b\nfrom c import d\nfrom proxy.streams import names\ndef f():\n    import time\n")
    assert set(imported(path)) == {"a.b", "c", "proxy.streams.names", "time"}
