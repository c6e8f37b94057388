"""The browser tests: real chat hooks in Chromium against a real proxy process. See tests/js/browser/harness.js."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_TESTS = Path(__file__).resolve().parent

pytestmark = [
    pytest.mark.skipif(not (_TESTS / "node_modules").exists(), reason="run scripts/setup-js first"),
    pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no Chromium, see scripts/setup-js"),
]


@pytest.mark.parametrize("file", sorted(path.name for path in (_TESTS / "js" / "browser").glob("*.test.js")))
def test_browser(file: str, tmp_path: Path) -> None:
    command = ["node", "--test", "--test-reporter=spec", "--test-timeout=120000", f"js/browser/{file}"]
    environment = {**os.environ, "SCREENSHOTS": str(tmp_path)}
    done = subprocess.run(
        command, cwd=_TESTS, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, f"{done.stdout[-20_000:]}\n{done.stderr[-10_000:]}"
