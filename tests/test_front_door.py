"""What a contributor and CI meet first: licence, metadata, workflow, hooks, and what a distribution holds."""

import json
import os
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.dist_contents import ROOT, faults, tracked
from tests.kit.event_loops import LOOPS

yaml = pytest.importorskip("yaml")

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SCRIPTS = json.loads((ROOT / "tests" / "package.json").read_text())["devDependencies"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
PYTHONS = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", name)]


def jobs(path: Path) -> dict[str, dict[str, object]]:
    """The jobs of a workflow, by name."""
    return cast(dict[str, dict[str, object]], yaml.safe_load(path.read_text())["jobs"])


def steps(path: Path) -> Iterator[dict[str, str]]:
    """Every step of every job."""
    for job in jobs(path).values():
        yield from cast(list[dict[str, str]], job["steps"])


def is_program(name: str) -> bool:
    return os.access(ROOT / name, os.X_OK)


def test_there_is_a_workflow() -> None:
    assert WORKFLOWS


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_every_step_of_a_workflow_is_a_script_of_ours_or_a_pinned_action(path: Path) -> None:
    for step in steps(path):
        if "run" in step:
            assert re.fullmatch(r"\./scripts/[\w-]+( [^\n;&|]*)?", step["run"]), step
            assert is_program(step["run"].split()[0]), step
        else:
            assert re.fullmatch(r"actions/[\w-]+@v\d+", step["uses"]), step


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_ends_in_time_and_may_change_nothing(path: Path) -> None:
    assert yaml.safe_load(path.read_text())["permissions"] == {"contents": "read"}
    for name, job in jobs(path).items():
        assert isinstance(job["timeout-minutes"], int), name


def test_the_tests_run_on_every_python_that_the_metadata_names_and_on_each_loop() -> None:
    matrix = cast(dict[str, dict[str, list[str]]], jobs(ROOT / ".github" / "workflows" / "ci.yml")["test"]["strategy"])
    assert matrix["matrix"]["python"] == PYTHONS
    assert matrix["matrix"]["loop"] == list(LOOPS)
    assert f"for version in {' '.join(PYTHONS)};" in (ROOT / "scripts" / "test-pythons").read_text()


def test_hooks_are_local_and_their_programs_are_in_the_environment_of_development() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    ours = [re.split(r"[>=]", each)[0] for each in PROJECT["optional-dependencies"]["dev"]]
    for hook in repository["hooks"]:
        program = hook["entry"].split()[0]
        if program.startswith(".venv/bin/"):
            assert program.removeprefix(".venv/bin/") in [*ours, "python"], hook["id"]
        elif program.startswith("tests/node_modules/.bin/"):
            assert f"@{hook['id']}js/{hook['id']}" in SCRIPTS, hook["id"]
        else:
            assert is_program(program), hook["id"]


def test_the_licence_is_the_one_that_the_metadata_names() -> None:
    assert PROJECT["license"] == "MIT"
    (name,) = PROJECT["license-files"]
    text = (ROOT / name).read_text()
    assert text.startswith("MIT License\n")
    assert PROJECT["authors"][0]["name"] in text


def test_what_a_distribution_lacks_or_has_too_much_is_found() -> None:
    files = {"LICENSE", "proxy/a.py"}
    metadata = ["x-1.dist-info/METADATA", "x-1.dist-info/licenses/LICENSE"]
    assert faults(files, ["PKG-INFO", *files], ["proxy/a.py", *metadata]) == []
    assert faults(files, ["LICENSE", "old.py"], ["proxy/b.py", "x-1.dist-info/METADATA"]) == [
        "the sdist lacks proxy/a.py",
        "the sdist has old.py",
        "the wheel lacks proxy/a.py",
        "the wheel has proxy/b.py",
        "the wheel lacks its licenses/LICENSE",
    ]


def test_every_file_of_the_repository_lies_where_the_manifest_includes_it() -> None:
    text = (ROOT / "MANIFEST.in").read_text()
    folders = set(re.findall(r"^(?:graft|recursive-include) (\S+)", text, re.MULTILINE))
    files = {"LICENSE", "MANIFEST.in", "README.md", "pyproject.toml"}  # setuptools takes these by itself
    files |= {name for line in re.findall(r"^include (.*)", text, re.MULTILINE) for name in line.split()}
    left = {name for name in tracked() if name not in files and name.partition("/")[0] not in {"proxy", *folders}}
    assert not left


def test_the_page_about_tests_names_every_kit_and_no_other() -> None:
    kits = {path.stem for path in (ROOT / "tests" / "kit").glob("*.py") if not path.name.startswith(("_", "test_"))}
    assert set(re.findall(r"`kit\.(?!py`)(\w+)", (ROOT / "tests" / "README.md").read_text())) == kits


def test_no_text_has_a_word_that_the_style_excludes() -> None:
    line = re.search(r"Not: ((?:`[^`]+`,?\s*)+)\.", (ROOT / "CONTRIBUTING.md").read_text())
    assert line is not None
    words = re.findall(r"`([^`]+)`", line[1])
    assert len(words) > 3
    excluded = re.compile(rf"(?<![a-z])(?:{'|'.join(words).replace(' ', '[ _]')})(?![a-z])", re.IGNORECASE)
    for name in tracked():
        if name.endswith((".py", ".md", ".js", ".ts")) and (ROOT / name).exists():
            text = (ROOT / name).read_text().replace(line[0], "")
            found = excluded.search(text)
            assert found is None, f"{name}: {found[0]}"
