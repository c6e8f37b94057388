"""The fleet's soak: what its oracle counts, and that a short run of it holds."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.fleet.model import content
from bench.fleet.oracle import Findings

ROOT = Path(__file__).parent.parent
WHOLE = content(7, 3)


@pytest.mark.parametrize(
    ("data", "outcome", "found"),
    [
        (WHOLE, "complete", None),
        (WHOLE[:70], "aborted", None),
        (WHOLE[:70], "complete", "falsely complete"),
        (WHOLE[:64] + WHOLE[:64], "interrupted", "duplicated or reordered"),
        (WHOLE[64:], "interrupted", "duplicated or reordered"),
        (WHOLE + b"x", "complete", "duplicated or reordered"),
        (content(8, 3), "complete", "duplicated or reordered"),
    ],
)
def test_the_oracle_counts_what_must_not_happen(data: bytes, outcome: str, found: str | None) -> None:
    findings = Findings()
    findings.compare(7, data, WHOLE, outcome)
    assert [name for name, where in findings.wrong.items() if where] == ([found] if found else [])
    lines, holds = findings.report()
    assert holds is (found is None)
    assert any(line.startswith("FAILS") for line in lines) is not holds


def test_the_oracle_holds_the_figures_against_their_bounds() -> None:
    findings = Findings(aborts=[0.1] * 99 + [9.0], deaths=[12.0], keys=[14.0])
    failing = [line for line in findings.report()[0] if line.startswith("FAILS")]
    assert failing == ["FAILS  death to free key: p99 14.00 s of 1 (at most 13 s)"]


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["store", "npm"])
def test_a_short_soak_holds(storage: str) -> None:
    command = [sys.executable, "-m", "bench.fleet", "--seconds", "30", "--storage", storage]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
