"""The figures in docs/performance.md: written from a result between two marks, so that no number is copied by hand."""

from pathlib import Path

from bench.figures import show
from bench.report import by_case
from bench.results import Outcome, Results
from bench.runner import spread

__all__ = ["figures", "write_page"]

_BEGIN = "<!-- figures: begin -->"
_END = "<!-- figures: end -->"


def write_page(results: Results, path: Path) -> None:
    """Replaces what stands between the marks. Raises ValueError when the page has none."""
    before, begin, rest = path.read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    if not begin or not end:
        raise ValueError(f"{path.name} has no place for the figures ({_BEGIN} … {_END})")
    path.write_text(f"{before}{_BEGIN}\n{figures(results)}\n{_END}{after}")


def figures(results: Results) -> str:
    """Conditions, then each scenario's goals and figures, as Markdown."""
    lines = [f"Run of {results.begun}.", "", "| Condition | |", "|---|---|"]
    lines += [f"| {name} | {text} |" for name, text in results.conditions.items()]
    for outcome in results.outcomes:
        lines += _section(outcome)
    return "\n".join(lines)


def _section(outcome: Outcome) -> list[str]:
    lines = ["", f"### {outcome.scenario}", "", f"{outcome.summary[0].upper()}{outcome.summary[1:]}.", ""]
    lines.append(
        f"{outcome.repeats} repeats{', a quick run' if outcome.quick else ''}. {' '.join(outcome.notes)}".strip()
    )
    lines += ["", "| Goal | Bound | Measured | Ratio | |", "|---|---|---|---|---|"]
    for goal in outcome.goals:
        measured = f"{spread(goal.measured)} {goal.unit}" if goal.measured else "–"
        ratio = "–" if goal.ratio is None else show(goal.ratio)
        lines.append(f"| {goal.text} | {goal.bound} | {measured} | {ratio} | {goal.word} |")
    lines += ["", "| Case | Who | Figure | Median (range) |", "|---|---|---|---|"]
    metrics = {metric.name: metric for metric in outcome.metrics}
    for key, series in by_case(outcome.table).items():
        if (metric := metrics.get(key.metric)) is not None:
            lines.append(
                f"| {key.case} | {key.peer} | {metric.title} | {spread(series)} {metric.unit} |".replace("  ", " ")
            )
    return lines
