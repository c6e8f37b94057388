"""`--loop` reaches the tests and the processes that they start."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kit.event_loops import LOOPS, chosen_loop

_ROOT = Path(__file__).resolve().parents[2]


async def test_a_test_runs_on_the_loop_that_was_asked_for(request: pytest.FixtureRequest) -> None:
    name = chosen_loop(request.config) or "asyncio"
    example = LOOPS[name]()
    assert type(asyncio.get_running_loop()) is type(example)
    example.close()


@pytest.mark.parametrize("name", LOOPS)
def test_a_process_that_a_test_starts_finds_uvloop_unless_asyncio_was_asked_for(name: str, tmp_path: Path) -> None:
    inner = tmp_path / "test_inner.py"
    inner.write_text(
        "import os, subprocess, sys\n"
        "from tests.kit.event_loops import python_path\n"
        "def test_it():\n"
        "    environment = os.environ | {'PYTHONPATH': python_path()}\n"
        "    done = subprocess.run([sys.executable, '-c', 'import uvloop'], env=environment)\n"
        f"    assert (done.returncode == 0) is {name == 'uvloop'}\n"
    )
    options = ["-p", "tests.conftest", "-p", "no:cacheprovider", "--loop", name]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(inner)],
        cwd=_ROOT,
        env={each: value for each, value in os.environ.items() if each != "PYTHONPATH"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout
