"""Compares two result files: the ratio of each figure that both have, and whether it is more than noise."""

from bench.figures import judge, show
from bench.results import Results

__all__ = ["compare"]


def compare(before: Results, after: Results) -> list[str]:
    """Lines to print. Figures that only one of the two has are named at the end."""
    lines = [f"A: {before.begun}   B: {after.begun}"]
    for name in sorted(set(before.conditions) | set(after.conditions)):
        a, b = before.conditions.get(name, "–"), after.conditions.get(name, "–")
        if a != b:
            lines.append(f"  other conditions: {name}: {a} → {b}")
    earlier = {outcome.scenario: outcome for outcome in before.outcomes}
    words: dict[str, int] = {}
    for outcome in after.outcomes:
        if outcome.scenario not in earlier:
            lines.append(f"\n{outcome.scenario}: only in B")
            continue
        first = earlier.pop(outcome.scenario)
        lines.append(
            f"\n{outcome.scenario}" + ("  (one of the two is a quick run)" if outcome.quick != first.quick else "")
        )
        metrics = {metric.name: metric for metric in outcome.metrics}
        for key, series in outcome.table.items():
            known = first.table.get(key)
            metric = metrics.get(key.metric)
            if known is None or metric is None:
                continue
            verdict = judge(known, series, metric.better)
            words[verdict.word] = words.get(verdict.word, 0) + 1
            label = f"{key.case} · {key.peer} · {metric.title}"
            change = f"{show(known.median)} → {show(series.median)} {metric.unit}"
            lines.append(f"  {label:<58} {change:<34} × {verdict.ratio:.2f}  {verdict.word}")
        missing = set(first.table) ^ set(outcome.table)
        if missing:
            lines.append(
                f"  in one of the two only: {', '.join(sorted({f'{key.case} · {key.peer}' for key in missing}))}"
            )
    lines += [f"\n{name}: only in A" for name in earlier]
    lines.append("\n" + (", ".join(f"{count} {word}" for word, count in sorted(words.items())) or "nothing in common"))
    return lines
