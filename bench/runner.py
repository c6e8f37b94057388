"""Runs a scenario: its trials in turn, forwards and backwards alternately. Prints progress, and goals at the end."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from bench.figures import Key, Series, show
from bench.goals import Reached, evaluate
from bench.peers import Missing
from bench.results import Outcome
from bench.rig.http import BrokenRun
from bench.scenarios import Scenario
from bench.scenarios.plan import Trial

__all__ = ["Options", "goal_lines", "outcome_lines", "run_scenario"]

Say = Callable[[str], None]

_BUDGET_SECONDS = 110.0


@dataclass(frozen=True, slots=True)
class Options:
    """How to run: `repeats` 0 is the scenario's own number; `only` names the contenders, none: all."""

    repeats: int = 0
    quick: bool = False
    only: tuple[str, ...] = ()


async def run_scenario(scenario: Scenario, options: Options, say: Say) -> Outcome:
    """Raises BrokenRun when any stream of any trial was wrong. A peer that is not installed is left out.

    Trials take turns, because neighbours in time are compared. Every other repeat runs them backwards, so that a
    machine that warms up or slows down favours no contender. Repeats stop before two minutes are exceeded.
    """
    begun = time.monotonic()
    repeats = options.repeats or scenario.repeats
    values: dict[Key, list[float]] = {}
    missing: set[str] = set()
    notes = list(scenario.notes)
    done = 0
    for repeat in range(repeats):
        if repeat and (time.monotonic() - begun) * (repeat + 1) / repeat > _BUDGET_SECONDS:
            notes.append(
                f"Stopped after {repeat} of {repeats} repeats: two minutes are the most that a scenario takes."
            )
            break
        trials = [trial for trial in scenario.plan(options.quick) if not options.only or trial.peer in options.only]
        for trial in reversed(trials) if repeat % 2 else trials:
            if trial.peer in missing or (trial.once and repeat):
                continue
            label = f"{scenario.name} {repeat + 1}/{repeats}  {trial.case:<12} {trial.peer:<16}"
            try:
                figures = await _measure(trial)
            except Missing as error:
                missing.add(trial.peer)
                notes.append(f"Without {trial.peer}: {error}.")
                say(f"{label} left out: {error}")
                continue
            for name, value in figures.items():
                values.setdefault(Key(trial.case, trial.peer, name), []).append(value)
            say(label + _brief(scenario, figures))
        done += 1
    table = {key: Series(tuple(measured)) for key, measured in values.items()}
    goals = [evaluate(goal, table) for goal in scenario.goals]
    return Outcome(
        scenario.name,
        scenario.summary,
        list(scenario.metrics),
        done,
        time.monotonic() - begun,
        table,
        goals,
        notes,
        options.quick,
    )


async def _measure(trial: Trial) -> dict[str, float]:
    """Run a trial. An error in a callback of the loop, which no caller sees, also voids it."""
    loop = asyncio.get_running_loop()
    task: asyncio.Task[dict[str, float]] = loop.create_task(_coroutine(trial))
    unseen: list[BaseException] = []

    def void(_: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        error = context.get("exception")
        unseen.append(error if isinstance(error, BaseException) else BrokenRun(str(context.get("message"))))
        task.cancel()

    loop.set_exception_handler(void)
    try:
        return await task
    except (BaseExceptionGroup, BrokenRun, TimeoutError, asyncio.CancelledError) as error:
        cause = _first(unseen[0] if unseen else error)
        if isinstance(cause, TimeoutError):
            cause = BrokenRun("it did not end in time")
        if isinstance(cause, BrokenRun):
            raise BrokenRun(f"{trial.case}, {trial.peer}: {cause}") from cause
        raise cause from None
    finally:
        loop.set_exception_handler(None)


async def _coroutine(trial: Trial) -> dict[str, float]:
    return await trial.measure()


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _brief(scenario: Scenario, figures: dict[str, float]) -> str:
    shown = [f"{metric.title} {show(figures[metric.name])} {metric.unit}".strip()
             for metric in scenario.metrics if metric.name in figures]  # fmt: skip
    return ", ".join(shown[:4])


def outcome_lines(outcome: Outcome) -> list[str]:
    """The figures as text: a block for each metric, a line for each contender."""
    lines = [f"\n{outcome.scenario}: {outcome.summary}"]
    for metric in outcome.metrics:
        rows = [(key, series) for key, series in outcome.table.items() if key.metric == metric.name]
        if rows:
            lines.append(f"  {metric.title}" + (f" ({metric.unit})" if metric.unit else ""))
        lines += [f"    {key.case:<14} {key.peer:<18} {spread(series)}" for key, series in rows]
    return lines + goal_lines(outcome.goals) + [f"  note: {note}" for note in outcome.notes]


def goal_lines(goals: list[Reached]) -> list[str]:
    """Each goal with what was measured, the ratio to the bound, and the word."""
    lines = []
    for goal in goals:
        if goal.measured is None:
            lines.append(f"  {goal.word:<12} {goal.text}: {goal.bound}")
        else:
            ratio = f" ({goal.ratio:.2f} of the bound)" if goal.ratio is not None else ""
            lines.append(
                f"  {goal.word:<12} {goal.text}: {goal.bound}, measured {spread(goal.measured)} {goal.unit}{ratio}"
            )
    return lines


def spread(series: Series) -> str:
    """Median and range."""
    if len(series.values) == 1:
        return f"{show(series.median)} (once)"
    return f"{show(series.median)} ({show(series.low)} – {show(series.high)})"
