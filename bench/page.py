"""The figures in docs/performance.md: written from a run between two marks, so that no number is copied by hand."""

from collections.abc import Mapping
from pathlib import Path

from bench.figures import show
from bench.profile import REST, SPENT_ON
from bench.report import by_case
from bench.results import Outcome, Results
from bench.runner import spread

__all__ = ["figures", "profile", "write_page"]


def write_page(path: Path, what: str, text: str) -> None:
    """Replace the text between the marks of `what` (figures, profile). Raises ValueError when there are no marks."""
    mark, last = f"<!-- {what}: begin -->", f"<!-- {what}: end -->"
    before, begin, rest = path.read_text().partition(mark)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"{path.name} has no place for the {what} ({mark} … {last})")
    path.write_text(f"{before}{mark}\n{text}\n{last}{after}")


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


def profile(conditions: Mapping[str, str], sorted_samples: Mapping[str, Mapping[str, int]]) -> str:
    """A column for each profile of shares in percent, a row for what the time is spent on, as Markdown."""
    names = [*(name for name, _ in SPENT_ON), REST]
    totals = {title: sum(samples.values()) for title, samples in sorted_samples.items()}
    lines = [
        f"At commit {conditions['commit']}; {', '.join(f'{title}: {n:,}' for title, n in totals.items())} samples."
    ]
    lines += ["", f"| % of its CPU spent on | {' | '.join(totals)} |", f"|---|{'---|' * len(totals)}"]
    for name in names:
        shares = [samples.get(name, 0) / totals[title] * 100 for title, samples in sorted_samples.items()]
        if any(shares):
            lines.append(f"| {name} | {' | '.join(f'{share:.1f}' for share in shares)} |")
    return "\n".join(lines)
