"""Plots as SVG text: horizontal bars, and lines over time. Plain shapes and words, for light and dark pages alike."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import figures

COLORS = ("#2563eb", "#dc2626", "#16a34a", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f", "#57534e", "#0f766e")
WIDTH = 760
STYLE = ("<style>text{font:13px system-ui,sans-serif;fill:#334155}.title{font-weight:600;font-size:15px}"
         ".axis{stroke:#94a3b8;stroke-width:1}</style>")


def bars(title: str, unit: str, values: Mapping[str, float]) -> str:
    """One bar a row, in the order given."""
    left, top, height, gap = 210, 44, 22, 6
    largest = max(values.values(), default=1) or 1
    parts = [text(12, 24, title, "title")]
    for number, (row, value) in enumerate(values.items()):
        y = top + number * (height + gap)
        length = (WIDTH - left - 90) * value / largest
        color = COLORS[0] if row.startswith("jobq") else "#94a3b8"
        parts += [text(left - 8, y + 16, row, anchor="end"),
                  f'<rect x="{left}" y="{y}" width="{max(length, 1):.1f}" height="{height}" rx="3" fill="{color}"/>',
                  text(left + length + 6, y + 16, f"{figures.shown(value)} {unit}")]
    return document(top + len(values) * (height + gap) + 12, title, parts)


def lines(title: str, unit: str, series: Mapping[str, list[float]], x_unit: str = "s", x_step: float = 1.0) -> str:
    """One line a row over time; long series are drawn as the mean of neighbours."""
    left, top, height, width = 70, 44, 300, WIDTH - 100
    longest = max((len(points) for points in series.values()), default=1)
    largest = max((max(points, default=0) for points in series.values()), default=1) or 1
    parts = [text(12, 24, f"{title}, {unit}", "title")]
    for share in (0, 0.25, 0.5, 0.75, 1):
        y = top + height * (1 - share)
        parts += [f'<line class="axis" x1="{left}" x2="{left + width}" y1="{y:.1f}" y2="{y:.1f}" opacity="{0.9 if share == 0 else 0.3}"/>',
                  text(left - 6, y + 4, figures.shown(largest * share), anchor="end")]
        parts.append(text(left + width * share, top + height + 18, f"{figures.shown(longest * x_step * share)} {x_unit}", anchor="middle"))
    for number, (row, points) in enumerate(series.items()):
        color = COLORS[number % len(COLORS)]
        thin = thinned(points, 180)
        step = len(points) / max(len(thin), 1)
        across = [left + width * (i + 0.5) * step / longest for i in range(len(thin))]
        path = " ".join(f"{x:.1f},{top + height * (1 - value / largest):.1f}" for x, value in zip(across, thin, strict=True))
        column, line = number % 4, number // 4
        x, y = left + column * 165, top + height + 44 + 20 * line
        parts += [f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>',
                  f'<rect x="{x}" y="{y - 10}" width="14" height="10" fill="{color}"/>', text(x + 20, y, row)]
    return document(top + height + 60 + 20 * ((len(series) + 3) // 4), title, parts)


def thinned(points: list[float], most: int) -> list[float]:
    size = max(1, -(-len(points) // most))
    groups = [points[start:start + size] for start in range(0, len(points), size)]
    return [sum(group) / len(group) for group in groups]


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    css = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{css}>{escape(words)}</text>'


def document(height: float, title: str, parts: list[str]) -> str:
    body = "\n".join(parts)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" role="img" '
            f'aria-label="{escape(title)}">\n{STYLE}\n<rect width="100%" height="100%" fill="#ffffff"/>\n{body}\n</svg>\n')
