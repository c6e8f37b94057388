"""A result as one HTML file that loads nothing else: no script, no font, no picture."""

from html import escape

from bench.charts import Bar, bars
from bench.figures import Table, show
from bench.goals import Reached
from bench.results import Outcome, Results
from bench.runner import spread

__all__ = ["html"]

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #626b76; --line: #d9dee4; --page: #fff; --ours: #1f6feb;
  --other: #a8b3bf; --good: #1a7f37; --bad: #b42318; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ec; --soft: #97a1ac; --line: #333a42; --page: #14171a;
  --ours: #5b9dff; --other: #56616d; --good: #4fbf6b; --bad: #ff7b6b; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 760px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; margin: 3rem 0 .2rem; } h2 + p { margin-top: 0; }
p, small, .note, dt { color: var(--soft); } figure { margin: 1.4rem 0; } figcaption { font-weight: 600; }
svg { width: 100%; height: auto; font: 13px system-ui, sans-serif; fill: var(--ink); }
.case { font-weight: 600; fill: var(--soft); } .peer { text-anchor: end; } .ours { fill: var(--ours); }
.other { fill: var(--other); } .range { stroke: var(--ink); fill: none; opacity: .6; }
.value, td.n { font-variant-numeric: tabular-nums; } td.n { text-align: right; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; padding: .3rem .6rem .3rem 0; border-bottom: 1px solid var(--line); }
.yes { color: var(--good); font-weight: 600; } .no { color: var(--bad); font-weight: 600; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; } dd { margin: 0; }
summary { cursor: pointer; color: var(--soft); }
"""


def html(results: Results) -> str:
    """The whole page."""
    conditions = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in results.conditions.items())
    goals = [goal for outcome in results.outcomes for goal in outcome.goals]
    reached = sum(goal.reached is True for goal in goals)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Performance</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body><h1>Performance</h1>"
        f"<p>{escape(results.begun)}. {reached} of {len(goals)} goals reached. Bars are medians, whiskers the"
        f" lowest and the highest repeat. Every stream of every run was checked byte by byte.</p><dl>{conditions}</dl>"
        + "".join(map(_section, results.outcomes))
        + "</body></html>\n"
    )


def _section(outcome: Outcome) -> str:
    charts = []
    for metric in outcome.metrics:
        rows = [
            Bar(key.case, key.peer, series, key.peer.startswith(("proxy", "store")))
            for key, series in by_case(outcome.table).items()
            if key.metric == metric.name
        ]
        if rows and metric.better:
            charts.append(bars(metric, rows))
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in outcome.notes)
    quick = " A quick run: it shows that it works, not how fast it is." if outcome.quick else ""
    return (
        f"<h2>{escape(outcome.scenario)}</h2><p>{escape(outcome.summary)}. {outcome.repeats}"
        f" repeat{'s' * (outcome.repeats != 1)} in {outcome.seconds:.0f} s.{quick}</p>"
        f"{_goals(outcome.goals)}{''.join(charts)}{notes}"
        f'<details><summary>All figures</summary><div class="scroll">{_figures(outcome)}</div></details>'
    )


def _goals(goals: list[Reached]) -> str:
    rows = []
    for goal in goals:
        measured = f"{spread(goal.measured)} {escape(goal.unit)}" if goal.measured else "–"
        state = {True: "yes", False: "no", None: ""}[goal.reached]
        ratio = "–" if goal.ratio is None else show(goal.ratio)
        rows.append(
            f"<tr><td>{escape(goal.text)}</td><td>{escape(goal.bound)}</td><td>{measured}</td>"
            f'<td class="n">{ratio}</td><td class="{state}">{goal.word}</td></tr>'
        )
    head = "<tr><th>Goal</th><th>Bound</th><th>Measured</th><th>Ratio</th><th></th></tr>"
    return f'<div class="scroll"><table>{head}{"".join(rows)}</table></div>' if rows else ""


def _figures(outcome: Outcome) -> str:
    metrics = {metric.name: metric for metric in outcome.metrics}
    rows = [
        f"<tr><td>{escape(key.case)}</td><td>{escape(key.peer)}</td><td>{escape(metrics[key.metric].title)}</td>"
        f'<td class="n">{spread(series)}</td><td>{escape(metrics[key.metric].unit)}</td></tr>'
        for key, series in by_case(outcome.table).items()
        if key.metric in metrics
    ]
    return f"<table>{''.join(rows)}</table>"


def by_case(table: Table) -> Table:
    """The table with the contenders of a case together, cases and contenders in the order in which they first ran."""
    cases = list(dict.fromkeys(key.case for key in table))
    return dict(sorted(table.items(), key=lambda item: cases.index(item[0].case)))
