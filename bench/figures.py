"""Measured values and what is computed from them: medians, percentiles, ranges, ratios, and what is noise.

Owns statistics only; knows no process and no clock.
"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Better", "Key", "Metric", "Series", "Table", "Verdict", "judge", "percentile", "ratio", "show"]

Better = str  # "lower", "higher" or "" for a figure that only describes


@dataclass(frozen=True, slots=True)
class Metric:
    """What a number is: `title`, `unit`, and which direction is good."""

    name: str
    title: str
    unit: str
    better: Better = "lower"


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Which number: of which case of a scenario, of which contender."""

    case: str
    peer: str
    metric: str


@dataclass(frozen=True, slots=True)
class Series:
    """One number measured several times. Never empty."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median."""
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """The smallest."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The largest."""
        return max(self.values)


Table = dict[Key, Series]


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: a value that really occurred. Raises ValueError for no values."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    rank = max(1, -(-len(ordered) * percent // 100))
    return ordered[int(rank) - 1]


def ratio(of: Series, to: Series) -> Series:
    """`of` over `to`. With the same number of repeats, each is divided by its neighbour in time: they share noise."""
    if len(of.values) == len(to.values):
        pairs = list(zip(of.values, to.values, strict=True))
    else:
        pairs = [(of.median, to.median)]
    return Series(tuple(a / b if b else float("inf") for a, b in pairs))


@dataclass(frozen=True, slots=True)
class Verdict:
    """A later series compared with an earlier one: the ratio of their medians, and what that means in one word."""

    ratio: float
    word: str


_FEW = 3  # with fewer repeats there is no range to compare a difference with
_SAME = 0.02  # medians closer than this count as the same even if no value overlaps: clocks and caches differ so much


def judge(before: Series, after: Series, better: Better) -> Verdict:
    """`within noise` when the ranges of the two overlap, else `better`, `worse` or (no direction) `changed`."""
    factor = after.median / before.median if before.median else (1.0 if after.median == before.median else float("inf"))
    if min(len(before.values), len(after.values)) < _FEW:
        return Verdict(factor, "too few repeats to tell")
    apart = before.high < after.low or after.high < before.low
    if not apart or abs(factor - 1) < _SAME:
        return Verdict(factor, "within noise")
    if better == "":
        return Verdict(factor, "changed")
    return Verdict(factor, "better" if (factor < 1) == (better == "lower") else "worse")


def show(value: float) -> str:
    """A number with three significant digits."""
    if value == float("inf"):
        return "∞"
    size = abs(value)
    if size >= 1000 or value == int(value):
        return f"{value:,.0f}"
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if size >= 1 else f"{value:.3g}"
