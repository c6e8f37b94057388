"""The public conformance suite of the protocol, whole, against the store over TCP."""

from pathlib import Path

from tests.store.process import StoreProcess
from tests.store.public_suite import described, run_public_suite
from tests.store.serve import LONG_POLL_SECONDS

PASSING = 332  # of 338: the other six belong to an option that is off
OPTIONAL = "Reserved subscription APIs"


def test_every_test_of_the_public_suite_passes(tmp_path: Path) -> None:
    with StoreProcess(tmp_path / "store") as store:
        environment = {
            "STORE_URL": f"http://127.0.0.1:{store.port}",
            "STORE_LONG_POLL_MS": str(int(LONG_POLL_SECONDS * 1000)),
        }
        cases = run_public_suite("store-conformance.test.js", environment, tmp_path)
        store.stop()
    others = [case for case in cases if case.status != "passed" and case.group != OPTIONAL]
    assert not others, described(others)
    assert sum(case.status == "passed" for case in cases) >= PASSING
