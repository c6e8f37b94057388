"""The public conformance suite of the protocol as a run of vitest: which of its cases passed, failed or were left out.

Owns the command and its report; what must hold is for the tests that call it.
"""

import json
import os
import re
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

__all__ = ["Case", "described", "run_public_suite"]

_JAVASCRIPT = Path(__file__).parents[1]
_SECONDS = 180


class Case(NamedTuple):
    """One case: `group` is the titles around it, outermost first, joined by ` > `; `message` says why it failed."""

    group: str
    title: str
    status: str
    message: str


def run_public_suite(
    file: str, environment: Mapping[str, str], directory: Path, *, groups: Collection[str] = ()
) -> list[Case]:
    """Every case of the suite as `tests/js/{file}` runs it; those outside `groups`, if any are given, are skipped.

    The report is left in `directory`. Raises AssertionError with vitest's output when there is none, for instance
    because the file does not load.
    """
    report = directory / "report.json"
    command = ["node", "node_modules/vitest/vitest.mjs", "run", "--maxConcurrency=20"]
    command += ["--reporter=json", f"--outputFile={report}", f"js/{file}"]
    if groups:
        # A case's whole name is its titles joined by spaces: a group may let in another that begins as it does.
        names = "|".join(re.escape(group.replace(" > ", " ")) for group in groups)
        command += ["--testNamePattern", f"^\\s*(?:{names}) "]
    done = subprocess.run(
        command,
        cwd=_JAVASCRIPT,
        env={**os.environ, "NO_COLOR": "1"} | dict(environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    assert report.exists(), done.stdout
    (result,) = json.loads(report.read_text())["testResults"]
    cases = [
        Case(" > ".join(case["ancestorTitles"]), case["title"], case["status"], "\n".join(case["failureMessages"]))
        for case in result["assertionResults"]
    ]
    assert cases, done.stdout
    # What vitest itself holds against the run, such as a rejection that nobody handled, stands in no case.
    assert done.returncode == (1 if any(case.status == "failed" for case in cases) else 0), done.stdout
    return cases


def described(cases: Collection[Case]) -> str:
    """The cases for a person: what a failed assertion shows."""
    return "\n".join(f"{case.status}: {case.group} > {case.title}\n    {case.message}" for case in cases)
