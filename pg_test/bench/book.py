"""What was measured: one entry per workload, row and round, kept in the order in which it happened."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

import figures

Figures = dict[str, float]


@dataclass
class Round:
    row: str  # a peer, or a peer and a circumstance: "pgmq, 50000 in flight"
    number: int
    figures: Figures
    command: str = ""


@dataclass
class Page:
    """One workload. `first` is the figure that is compared and drawn; rows are compared with `ours` or their own namesake of ours."""

    name: str
    about: str
    first: str = ""
    rounds: list[Round] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    # Over time: row -> figure per second since the start.
    series: dict[str, list[float]] = field(default_factory=dict)
    # What a point of a series is, and how many seconds lie between two.
    series_unit: tuple[str, float] = ("jobs/s", 1.0)

    def add(self, row: str, number: int, measured: Figures, command: str = "") -> None:
        self.rounds.append(Round(row, number, measured, command))
        self.first = self.first or next(iter(measured))
        text = "  ".join(f"{name} {figures.shown(value)}" for name, value in measured.items())
        print(f"  {self.name}: {row:32} round {number}:  {text}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        self.notes.append(text)
        print(f"  {self.name}: {text}", file=sys.stderr, flush=True)

    def rows(self) -> list[str]:
        return list(dict.fromkeys(r.row for r in self.rounds))

    def names(self) -> list[str]:
        return list(dict.fromkeys(name for r in self.rounds for name in r.figures))

    def values(self, row: str, figure: str) -> list[float]:
        return [r.figures[figure] for r in sorted(self.rounds, key=lambda r: r.number) if r.row == row and figure in r.figures]

    def median(self, row: str, figure: str) -> float:
        return figures.median(self.values(row, figure))

    def baseline(self, row: str) -> str:
        """jobq's row under the same circumstance: "pgmq, 1000 pending" has "jobq, 1000 pending", "pgmq-keep" has "jobq-keep"."""
        name, comma, circumstance = row.partition(",")
        ours = "jobq-keep" if name.endswith("-keep") else "jobq"
        wanted = f"{ours}{comma}{circumstance}"
        # A client in a language that jobq was not measured in.
        return wanted if wanted in self.rows() else next((row for row in self.rows() if row.partition(",")[0] == ours), wanted)

    def times_better(self, row: str) -> float:
        ours = self.baseline(row)
        return figures.times_better(self.first, self.values(ours, self.first), self.values(row, self.first))


@dataclass
class Book:
    pages: list[Page] = field(default_factory=list)
    # Of peers that have a client only; the others are asked.
    versions: dict[str, str] = field(default_factory=dict)
    # Peer or workload -> why it was not measured.
    left_out: dict[str, str] = field(default_factory=dict)

    def page(self, name: str, about: str) -> Page:
        page = Page(name, about)
        self.pages.append(page)
        print(f"{name}: {about}", file=sys.stderr, flush=True)
        return page

    def leave_out(self, what: str, why: str) -> None:
        self.left_out[what] = why
        print(f"  left out: {what}: {why}", file=sys.stderr, flush=True)
