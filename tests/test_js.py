"""The browser client: its unit tests under Node's own runner, its types against the SDKs' real ones, its docs."""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.base.errors import Refusal
from proxy.client.options import TRANSIENT_STATUSES
from proxy.policy.auth import Keyring
from proxy.policy.caller import Access
from proxy.wire.url import parse_url

_TESTS = Path(__file__).resolve().parent
_PAGE = _TESTS.parent / "docs" / "clients.md"

needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="there is no Node")
needs_npm = pytest.mark.skipif(not (_TESTS / "node_modules").exists(), reason="run scripts/setup-js first")


def _run(*command: str) -> None:
    done = subprocess.run(command, cwd=_TESTS, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{done.stdout[-20_000:]}\n{done.stderr[-5_000:]}"


def _evaluated(script: str) -> str:
    return subprocess.check_output(["node", "--input-type=module", "--eval", script], text=True, timeout=30)


@needs_npm
def test_the_unit_tests_pass() -> None:
    _run("node", "--test", "--test-timeout=30000", "js/unit/")


@needs_npm
def test_the_types_hold_for_ai_6_and_7_and_tanstack_under_strict() -> None:
    _run("node_modules/.bin/tsc", "-p", "js/types")


@needs_node
def test_both_clients_retry_after_the_same_statuses() -> None:
    module = (_TESTS.parent / "proxy" / "static" / "answers.js").as_uri()
    script = f"console.log(JSON.stringify([...(await import('{module}')).TRANSIENT_STATUSES]))"
    assert frozenset(json.loads(_evaluated(script))) == TRANSIENT_STATUSES


def test_the_page_names_the_statuses_that_are_retried() -> None:
    (line,) = re.findall(r"^- \*\*Statuses\*\* that are retried: ([^`]*)", _PAGE.read_text(), re.MULTILINE)
    named = set[int]()
    for first, last in re.findall(r"(\d{3})(?: to (\d{3}))?", line):
        named.update(range(int(first), int(last or first) + 1))
    assert named == TRANSIENT_STATUSES


_SECRET = "a secret of the service that is long enough"
_CLAIMS = {"sub": "user-1", "scope": "create", "upstream": ["https://api.example.com/chat"]}


def _example(language: str) -> str:
    section = _PAGE.read_text().partition("\n### Who may call the proxy from a page\n")[2].partition("\n### ")[0]
    (example,) = re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    assert isinstance(example, str)
    return example


def _assert_token(token: str) -> None:
    """`token` may create streams of user-1 at one upstream, and nothing else."""
    authorization = [b"Bearer " + token.encode()]
    keyring = Keyring([_SECRET])
    caller = keyring.admit(Access.CREATE, "", [], authorization, time.time())
    assert caller.subject == "user-1"
    assert caller.may_call(parse_url(b"https://api.example.com/chat"))
    assert not caller.may_call(parse_url(b"https://api.example.com/other"))
    for access, later in ((Access.DELETE, 0), (Access.CREATE, 62)):
        with pytest.raises(Refusal):
            keyring.admit(access, "", [], authorization, time.time() + later)


def test_a_python_backend_makes_a_token_that_the_proxy_takes() -> None:
    names: dict[str, Callable[[str, dict[str, object]], str]] = {}
    exec(_example("python"), names)
    _assert_token(names["proxy_token"](_SECRET, dict(_CLAIMS)))


@needs_node
def test_a_node_backend_makes_a_token_that_the_proxy_takes() -> None:
    script = f"{_example('js')}\nconsole.log(proxyToken({json.dumps(_SECRET)}, {json.dumps(_CLAIMS)}))"
    _assert_token(_evaluated(script).strip())
