"""The browser client: its unit tests under Node's own runner, and its types against the SDKs' real ones."""

import subprocess
from pathlib import Path

import pytest

_TESTS = Path(__file__).resolve().parent

pytestmark = pytest.mark.skipif(not (_TESTS / "node_modules").exists(), reason="run scripts/setup-js first")


def _run(*command: str) -> None:
    done = subprocess.run(command, cwd=_TESTS, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{done.stdout[-20_000:]}\n{done.stderr[-5_000:]}"


def test_the_unit_tests_of_client_and_transports_pass() -> None:
    _run("node", "--test", "js/unit/")


def test_the_types_hold_for_ai_6_and_7_and_tanstack_under_strict() -> None:
    _run("node_modules/.bin/tsc", "-p", "js/types")
