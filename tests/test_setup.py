"""scripts/setup: makes the environment once, makes a broken one again, and says what is missing."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Stands for an interpreter and for the one in the environment that it makes: writes down what was asked of it.
PYTHON = """#!/usr/bin/env bash
echo "$*" >> "$LOG"
case "$*" in
-c*) [ "$OLD" != yes ] ;;
"-m venv "*)
    mkdir -p "$3/bin"
    [ "$NO_VENV" != yes ] || exit 1
    cp "$0" "$3/bin/python"
    ;;
"-m pip --version") [ "$BROKEN" != yes ] ;;
"-m pip install"*) [ "$OFFLINE" != yes ] ;;
esac
"""


class Project:
    """A folder with scripts/setup in it and a Python that can be told to fail."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "scripts").mkdir()
        shutil.copy(ROOT / "scripts" / "setup", folder / "scripts")
        (folder / "pyproject.toml").write_text("")
        self.python = folder / "python"
        self.python.write_text(PYTHON)
        self.python.chmod(0o755)
        self.log = folder / "log"

    def setup(self, *extras: str, **failing: str) -> "subprocess.CompletedProcess[str]":
        self.log.write_text("")
        state = {"OLD": "", "NO_VENV": "", "BROKEN": "", "OFFLINE": ""} | failing
        environment = os.environ | {"PYTHON": str(self.python), "LOG": str(self.log)} | state
        command = [str(self.folder / "scripts" / "setup"), *extras]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=20)

    @property
    def asked(self) -> list[str]:
        """What the last run asked of Python, by its first words."""
        return [" ".join(line.split()[:3]) for line in self.log.read_text().splitlines() if line.startswith("-m")]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_what_is_installed_is_not_installed_again_until_the_project_changes(project: Project) -> None:
    assert project.setup("dev").returncode == 0
    assert project.asked == ["-m venv .venv", "-m pip install"]
    assert project.setup("dev").returncode == 0
    assert project.asked == []
    assert project.setup("bench").returncode == 0
    assert project.asked == ["-m pip --version", "-m pip install"]
    later = (project.folder / ".venv" / ".installed-dev").stat().st_mtime + 10
    os.utime(project.folder / "pyproject.toml", (later, later))
    assert project.setup("dev").returncode == 0
    assert project.asked == ["-m pip --version", "-m pip install"]


def test_an_environment_that_cannot_be_made_leaves_nothing_and_names_the_package(project: Project) -> None:
    done = project.setup(NO_VENV="yes")
    assert done.returncode == 1
    assert "python3-venv" in done.stderr
    assert not (project.folder / ".venv").exists()
    assert project.setup().returncode == 0


def test_a_broken_environment_is_made_again(project: Project) -> None:
    (project.folder / ".venv" / "bin").mkdir(parents=True)
    (project.folder / ".venv" / "bin" / "python").symlink_to("/nowhere/python")
    (project.folder / ".venv" / ".installed-server").touch()
    assert project.setup().returncode == 0
    assert project.asked == ["-m venv .venv", "-m pip install"]
    assert project.setup("dev", BROKEN="yes").returncode == 0
    assert project.asked == ["-m pip --version", "-m venv .venv", "-m pip install"]


def test_an_installation_that_failed_is_tried_again(project: Project) -> None:
    done = project.setup(OFFLINE="yes")
    assert done.returncode == 1
    assert "the installation failed" in done.stderr
    assert project.setup().returncode == 0
    assert project.asked == ["-m pip --version", "-m pip install"]


def test_an_old_python_or_none_is_said(project: Project) -> None:
    assert "older than Python 3.11" in project.setup(OLD="yes").stderr
    project.python.unlink()
    assert "there is no" in project.setup().stderr


def test_the_environment_may_be_elsewhere(project: Project) -> None:
    assert project.setup(VENV=".venv-3.12").returncode == 0
    assert (project.folder / ".venv-3.12" / ".installed-server").exists()
    assert not (project.folder / ".venv").exists()
