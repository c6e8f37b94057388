"""Bar charts as inline SVG: one bar for each contender, with a whisker from the lowest to the highest repeat."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from bench.figures import Metric, Series, show

__all__ = ["Bar", "bars"]

_WIDTH = 720
_LABEL = 210
_VALUE = 150
_ROW = 26
_GAP = 12


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar. Bars of one `case` are drawn together. `ours` has the accent colour."""

    case: str
    peer: str
    series: Series
    ours: bool


def bars(metric: Metric, rows: Sequence[Bar]) -> str:
    """The chart of one metric, from zero, so that lengths compare."""
    most = max(row.series.high for row in rows) or 1.0
    scale = (_WIDTH - _LABEL - _VALUE) / most
    pieces: list[str] = []
    y, case = 0, None
    for row in rows:
        if row.case != case:
            case = row.case
            y += _GAP if pieces else 0
            pieces.append(f'<text class="case" x="0" y="{y + 14}">{escape(case)}</text>')
            y += 20
        pieces.append(_bar(row, y, scale))
        y += _ROW
    hint = {"lower": "less is better", "higher": "more is better"}.get(metric.better, "")
    title = f"{metric.title}{', ' + metric.unit if metric.unit else ''}"
    return (
        f"<figure><figcaption>{escape(title)} <small>{hint}</small></figcaption>"
        f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {_WIDTH} {y + 2}">{"".join(pieces)}</svg></figure>'
    )


def _bar(row: Bar, y: int, scale: float) -> str:
    middle = y + _ROW / 2
    width = max(1.0, row.series.median * scale)
    low, high = _LABEL + row.series.low * scale, _LABEL + row.series.high * scale
    whisker = ""
    if len(row.series.values) > 1:
        whisker = (
            f'<path class="range" d="M{low:.1f} {middle:.1f}H{high:.1f}'
            f'M{low:.1f} {middle - 4:.1f}v8M{high:.1f} {middle - 4:.1f}v8"/>'
        )
    return (
        f'<text class="peer" x="{_LABEL - 8}" y="{middle + 4:.1f}">{escape(row.peer)}</text>'
        f'<rect class="{"ours" if row.ours else "other"}" x="{_LABEL}" y="{y + 4}" width="{width:.1f}"'
        f' height="{_ROW - 8}" rx="2"/>{whisker}'
        f'<text class="value" x="{max(high, _LABEL + width) + 8:.1f}" y="{middle + 4:.1f}">'
        f"{show(row.series.median)}</text>"
    )
