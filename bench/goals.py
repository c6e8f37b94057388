"""A goal: a bound on one figure, absolute or as a ratio to another figure of the same run, and whether it holds."""

from dataclasses import dataclass

from bench.figures import Key, Series, Table, ratio, show

__all__ = ["Goal", "Reached", "evaluate"]


@dataclass(frozen=True, slots=True)
class Goal:
    """`of` (divided by `against`, if given) must be at most `at_most`, or at least `at_least`."""

    text: str
    of: Key
    at_most: float | None = None
    at_least: float | None = None
    against: Key | None = None
    unit: str = ""

    @property
    def bound(self) -> str:
        """The bound in words."""
        sign, number = ("≤", self.at_most) if self.at_most is not None else ("≥", self.at_least)
        return f"{sign} {show(number or 0.0)}{' ×' if self.against else ''}{' ' + self.unit if self.unit else ''}"


@dataclass(frozen=True, slots=True)
class Reached:
    """A goal compared with a run. `measured` None: a figure is missing, because a peer was not installed."""

    text: str
    bound: str
    unit: str
    measured: Series | None
    ratio: float | None
    reached: bool | None

    @property
    def word(self) -> str:
        """reached, NOT reached or not measured."""
        return {True: "reached", False: "NOT reached", None: "not measured"}[self.reached]


def evaluate(goal: Goal, table: Table) -> Reached:
    """The goal's state: decided by the median; `ratio` is measured over bound."""
    of, against = table.get(goal.of), table.get(goal.against) if goal.against else None
    unit = "×" if goal.against else goal.unit
    if of is None or (goal.against is not None and against is None):
        return Reached(goal.text, goal.bound, unit, None, None, None)
    measured = of if against is None else ratio(of, against)
    if goal.at_most is not None:
        reached, bound = measured.median <= goal.at_most, goal.at_most
    else:
        bound = goal.at_least or 0.0
        reached = measured.median >= bound
    return Reached(goal.text, goal.bound, unit, measured, measured.median / bound if bound else None, reached)
