"""What must never happen, counted; and the figures that are promised."""

import math
from dataclasses import dataclass, field

from bench.fleet.fleet import LEASE_SECONDS

__all__ = ["Findings"]

_COUNTED = ("lost", "duplicated or reordered", "falsely complete", "hung", "called twice", "contradicted")
_ABORT_SECONDS = 0.3
_DEATH_SECONDS = LEASE_SECONDS + 5.0


@dataclass(slots=True)
class Findings:
    """What clients saw. `wrong` maps what must not happen to where it did; times are in seconds."""

    wrong: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in _COUNTED})
    streams: int = 0
    statuses: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, int] = field(default_factory=dict)
    aborts: list[float] = field(default_factory=list)  # elsewhere, in calm, until the upstream was cut
    deaths: list[float] = field(default_factory=list)  # of owners, until readers elsewhere had heard the end
    keys: list[float] = field(default_factory=list)  # deaths, until a key could be used again

    def found(self, name: str, where: str) -> None:
        """Something happened that must not."""
        self.wrong[name].append(where)

    def answered(self, status: str) -> None:
        """A create was answered, or not."""
        self.statuses[status] = self.statuses.get(status, 0) + 1

    def ended(self, outcome: str) -> None:
        """A stream ended so."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def compare(self, number: int, data: bytes, expected: bytes, outcome: str) -> None:
        """What a reader got of an answer, and with which end."""
        if not expected.startswith(data):
            self.found("duplicated or reordered", f"{number}: {len(data)} bytes")
        if outcome == "complete" and len(data) < len(expected):
            self.found("falsely complete", f"{number}: {len(data)} of {len(expected)} bytes")

    def report(self) -> tuple[list[str], bool]:
        """Lines for a reader, and whether everything holds."""
        lines = [
            f"streams {self.streams}, answers to creates {dict(sorted(self.statuses.items()))}",
            f"outcomes {dict(sorted(self.outcomes.items()))}",
        ]
        checks = [(f"{name}: {len(where)}", not where) for name, where in self.wrong.items()]
        for name, seconds, bound in (
            ("abort elsewhere", self.aborts, _ABORT_SECONDS),
            ("death to end", self.deaths, _DEATH_SECONDS),
            ("death to free key", self.keys, _DEATH_SECONDS),
        ):
            p99 = _p99(seconds)
            checks.append((f"{name}: p99 {p99:.2f} s of {len(seconds)} (at most {bound:g} s)", not p99 > bound))
        lines += [f"{'holds ' if holds else 'FAILS '} {text}" for text, holds in checks]
        for name, where in self.wrong.items():
            lines += [f"    {name}: {each}" for each in where[:10]]
        return lines, all(holds for _, holds in checks)


def _p99(seconds: list[float]) -> float:
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, math.ceil(0.99 * len(ordered)) - 1)] if ordered else math.nan
