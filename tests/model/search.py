"""Every state that the model can come to, breadth first, and whether each of them can come to rest.

A step's name may begin with a mark: `!` is a fault, `?` is a reader's step, which may be repeated for ever. A state is
at rest when no other step leads on from it.
"""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.model.state import State

__all__ = ["Found", "Step", "Wrong", "search"]

Step = tuple[str, State]
_MARKS = "!?"


class Wrong(Exception):
    """A step breaks an invariant."""


@dataclass(frozen=True)
class Found:
    """How many states there are, which steps were taken, and what was wrong on which way, if anything was."""

    states: int
    steps: frozenset[str]
    wrong: str = ""
    way: tuple[str, ...] = ()


class _Graph:
    """The states found so far, by number in the order of their discovery."""

    def __init__(self, first: State) -> None:
        self.numbers = {first: 0}
        self.reached: list[tuple[int, str]] = [(-1, "")]  # from which state, by which step
        self.before: list[list[int]] = [[]]  # from which states steps lead here that are no faults
        self.steps: set[str] = set()

    def number(self, state: State, origin: int, name: str) -> tuple[int, bool]:
        """The number of a state, and whether it is new."""
        known = self.numbers.get(state)
        if known is not None:
            return known, False
        self.numbers[state] = len(self.reached)
        self.reached.append((origin, name))
        self.before.append([])
        return len(self.reached) - 1, True

    def found(self, wrong: str = "", at: int = 0) -> Found:
        """The result; with the way to state `at` when something is `wrong` there."""
        way = []
        while wrong and at:
            at, name = self.reached[at]
            way.append(name)
        return Found(len(self.reached), frozenset(self.steps), wrong, tuple(way[::-1]))


def search(first: State, steps: Callable[[State], Iterator[Step]], at_rest: Callable[[State], str]) -> Found:
    """Look at every state from `first` on, by `steps`, which raises Wrong.

    `at_rest` says what is wrong with a state at rest. Every state must be able to come to rest without another fault:
    so whatever waits has its end, as long as each step that is possible is taken some time.
    """
    graph = _Graph(first)
    waiting = deque([first])
    resting: list[int] = []
    while waiting:
        state = waiting.popleft()
        origin = graph.numbers[state]
        moves = False
        try:
            for name, following in steps(state):
                graph.steps.add(name)
                number, is_new = graph.number(following, origin, name)
                if is_new:
                    waiting.append(following)
                if name[0] not in _MARKS and number != origin:
                    moves = True
                    graph.before[number].append(origin)
            if not moves:
                resting.append(origin)
                if text := at_rest(state):
                    return graph.found(text, origin)
        except Wrong as wrong:
            return graph.found(str(wrong), origin)
    restless = set(range(len(graph.reached))) - _leading_to(resting, graph.before)
    return graph.found("I4: it goes on for ever", min(restless)) if restless else graph.found()


def _leading_to(ends: list[int], before: list[list[int]]) -> set[int]:
    """The states from which one of `ends` can be reached."""
    seen, waiting = set(ends), deque(ends)
    while waiting:
        for number in before[waiting.popleft()]:
            if number not in seen:
                seen.add(number)
                waiting.append(number)
    return seen
