"""The browser client: its unit tests under Node's own runner, its types against the SDKs' real ones, its docs."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.client.options import TRANSIENT_STATUSES
from proxy.policy.auth import Keyring
from proxy.policy.caller import Access

_TESTS = Path(__file__).resolve().parent
_PAGE = _TESTS.parent / "docs" / "clients.md"

needs_npm = pytest.mark.skipif(not (_TESTS / "node_modules").exists(), reason="run scripts/setup-js first")


def _run(*command: str) -> None:
    done = subprocess.run(command, cwd=_TESTS, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{done.stdout[-20_000:]}\n{done.stderr[-5_000:]}"


@needs_npm
def test_the_unit_tests_pass() -> None:
    _run("node", "--test", "--test-timeout=30000", "js/unit/")


@needs_npm
def test_the_types_hold_for_ai_6_and_7_and_tanstack_under_strict() -> None:
    _run("node_modules/.bin/tsc", "-p", "js/types")


@pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node")
def test_both_clients_retry_after_the_same_statuses() -> None:
    module = (_TESTS.parent / "proxy" / "static" / "answers.js").as_uri()
    script = f"console.log(JSON.stringify([...(await import('{module}')).TRANSIENT_STATUSES]))"
    command = ["node", "--input-type=module", "--eval", script]
    printed = subprocess.check_output(command, timeout=30)
    assert frozenset(json.loads(printed)) == TRANSIENT_STATUSES


def test_the_page_names_the_statuses_that_are_retried() -> None:
    (line,) = re.findall(r"^- \*\*Statuses\*\* that are retried: ([^`]*)", _PAGE.read_text(), re.MULTILINE)
    named = set[int]()
    for first, last in re.findall(r"(\d{3})(?: to (\d{3}))?", line):
        named.update(range(int(first), int(last or first) + 1))
    assert named == TRANSIENT_STATUSES


def test_the_backends_token_of_the_page_is_one_that_the_proxy_takes() -> None:
    section = _PAGE.read_text().partition("\n## JavaScript\n")[2]
    (example,) = re.findall(r"^```python\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    names: dict[str, Callable[[str], str]] = {}
    exec(example, names)
    token = names["proxy_token"]("a secret of the service")
    keyring = Keyring(["a secret of the service"])
    keyring.admit(Access.CREATE, "", [], [b"Bearer " + token.encode()], time.time())
