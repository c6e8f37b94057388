"""What a scenario is: trials that a run repeats in turn, the figures they give, and the goals for those."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from bench.figures import Key, Metric
from bench.goals import Goal

__all__ = ["SHARES", "Figures", "Scenario", "Trial", "key"]

Figures = dict[str, float]

SHARES = (
    Metric("core", "its core used", "%", ""),
    Metric("rig", "the other core used by load, upstream and storage", "%", ""),
)
"""What limits wall times and rates: the contender, or the load."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One contender in one case: `measure` starts it, drives it, checks its output and returns its figures.

    `once` trials are long or slow: they are not repeated.
    """

    case: str
    peer: str
    measure: Callable[[], Awaitable[Figures]]
    once: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """`plan(quick)` gives the trials of one repeat, in order."""

    name: str
    summary: str
    metrics: Sequence[Metric]
    goals: Sequence[Goal]
    plan: Callable[[bool], list[Trial]]
    notes: Sequence[str] = ()
    repeats: int = 5


def key(case: str, metric: str, peer: str = "proxy") -> Key:
    """A figure of ours, unless another contender is named."""
    return Key(case, peer, metric)
