"""The public conformance suite of the protocol, whole, against the store over TCP."""

import os
import re
import subprocess
from pathlib import Path

from tests.store.process import StoreProcess
from tests.store.serve import LONG_POLL_SECONDS

JAVASCRIPT = Path(__file__).parents[1]
PASSING = 332  # of 338: the other six belong to an option that is off
SECONDS = 180


def test_every_test_of_the_public_suite_passes(tmp_path: Path) -> None:
    with StoreProcess(tmp_path) as store:
        environment = {
            **os.environ,
            "STORE_URL": f"http://127.0.0.1:{store.port}",
            "STORE_LONG_POLL_MS": str(int(LONG_POLL_SECONDS * 1000)),
            "NO_COLOR": "1",
        }
        done = subprocess.run(
            ["node", "node_modules/vitest/vitest.mjs", "run", "--maxConcurrency=20", "js/store-conformance.test.js"],
            cwd=JAVASCRIPT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        store.stop()
    failures = "\n".join(done.stdout.splitlines()[-200:])
    assert done.returncode == 0, failures
    passed = re.search(r"Tests\s+(\d+) passed", done.stdout)
    assert passed is not None, failures
    assert int(passed[1]) >= PASSING, failures
