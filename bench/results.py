"""A run as it is saved: a JSON file with everything that was measured and the conditions it was measured under.

Owns the file's format. A newer or broken file is refused with a ValueError.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from bench.figures import Key, Metric, Series, Table
from bench.goals import Reached

__all__ = ["Outcome", "Results", "load", "save"]

_FORMAT = 1


@dataclass(slots=True)
class Outcome:
    """One scenario's run."""

    scenario: str
    summary: str
    metrics: list[Metric]
    repeats: int
    seconds: float
    table: Table
    goals: list[Reached]
    notes: list[str] = field(default_factory=list)
    quick: bool = False


@dataclass(slots=True)
class Results:
    """Scenarios that were run together, `conditions` as name and text, `begun` as ISO 8601 in UTC."""

    begun: str
    conditions: dict[str, str]
    outcomes: list[Outcome]


def save(results: Results, path: Path) -> None:
    """Writes the file."""
    scenarios = []
    for outcome in results.outcomes:
        plain = asdict(replace(outcome, table={}))
        plain["table"] = [{**asdict(key), "values": series.values} for key, series in outcome.table.items()]
        scenarios.append(plain)
    whole = {"format": _FORMAT, "begun": results.begun, "conditions": results.conditions, "scenarios": scenarios}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")


def load(path: Path) -> Results:
    """Reads a file that `save` wrote. Raises ValueError."""
    try:
        whole = json.loads(path.read_text())
        if whole["format"] != _FORMAT:
            raise ValueError(f"format {whole['format']} is not {_FORMAT}")
        return Results(whole["begun"], dict(whole["conditions"]), [_outcome(plain) for plain in whole["scenarios"]])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no result of this harness: {error}") from error


def _outcome(plain: dict[str, object]) -> Outcome:
    rows, goals, metrics = plain["table"], plain["goals"], plain["metrics"]
    assert isinstance(rows, list)
    assert isinstance(goals, list)
    assert isinstance(metrics, list)
    return Outcome(
        scenario=str(plain["scenario"]),
        summary=str(plain["summary"]),
        metrics=[Metric(**metric) for metric in metrics],
        repeats=int(str(plain["repeats"])),
        seconds=float(str(plain["seconds"])),
        table={Key(row["case"], row["peer"], row["metric"]): Series(tuple(map(float, row["values"]))) for row in rows},
        goals=[Reached(**{**goal, "measured": _series(goal["measured"])}) for goal in goals],
        notes=[str(note) for note in plain["notes"]] if isinstance(plain["notes"], list) else [],
        quick=bool(plain["quick"]),
    )


def _series(plain: dict[str, list[float]] | None) -> Series | None:
    return None if plain is None else Series(tuple(plain["values"]))
