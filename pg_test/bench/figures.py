"""Small statistics: medians, percentiles, ratios, and which direction of a figure is the better one."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

# A figure whose name ends like this is better when it is larger; every other one is better when it is smaller.
LARGER_IS_BETTER = ("/s", "% kept")


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else math.nan


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest-rank percentile: a value that occurred, never one between two."""
    if not values:
        return math.nan
    ranked = sorted(values)
    return ranked[max(0, math.ceil(percent / 100 * len(ranked)) - 1)]


def larger_is_better(figure: str) -> bool:
    return figure.endswith(LARGER_IS_BETTER)


def times_better(figure: str, ours: Sequence[float], theirs: Sequence[float]) -> float:
    """How many times better ours is: the median of the ratios within each round, as rounds share the machine's moods."""
    pairs = zip(ours, theirs)
    ratios = [a / b if larger_is_better(figure) else b / a for a, b in pairs if a > 0 and b > 0]
    return median(ratios)


def shown(value: float) -> str:
    """Three or four digits that mean something."""
    if math.isnan(value):
        return "-"
    if abs(value) >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.3g}"
