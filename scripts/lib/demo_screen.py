"""What the demo shows while it runs: a screen that is drawn over itself, or lines when nobody looks at a terminal."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

BAR_WIDTH = 30
EVENTS_SHOWN = 12
LINE_EVERY_SECONDS = 1.0
REDRAW_EVERY_SECONDS = 0.2


@dataclass(frozen=True)
class View:
    """One look at the queue."""

    pending: int
    scheduled: int
    running: int
    failed: int
    done: int
    expected: int                             # how many jobs there will be in all
    completed_by: Mapping[str, int]           # worker name: jobs
    running_by: Mapping[str, str]             # worker name: what it does now


class Screen:
    """`with Screen() as screen:` hides the cursor and always shows it again."""

    def __init__(self) -> None:
        self.live = sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.began = self.drawn_at = time.monotonic()
        self.drawn_lines = 0
        self.events: deque[str] = deque(maxlen=EVENTS_SHOWN)
        self.done_before: deque[tuple[float, int]] = deque(maxlen=10)

    def __enter__(self) -> Screen:
        if self.live:
            sys.stdout.write("\033[?25l")
        return self

    def __exit__(self, *_: object) -> None:
        if self.live:
            sys.stdout.write("\033[?25h")
        sys.stdout.flush()

    def event(self, text: str) -> None:
        line = f"{time.monotonic() - self.began:5.1f} s  {text}"
        self.events.append(line)
        if not self.live:
            print(line, flush=True)

    def due(self) -> bool:
        return time.monotonic() - self.drawn_at >= (REDRAW_EVERY_SECONDS if self.live else LINE_EVERY_SECONDS)

    def show(self, view: View, workers: Sequence[str]) -> None:
        now = self.drawn_at = time.monotonic()
        self.done_before.append((now, view.done))
        if self.live:
            self._draw(self._picture(view, workers, now - self.began))
        else:
            print(f"{now - self.began:5.1f} s  {_counts(view)}", flush=True)

    def _picture(self, view: View, workers: Sequence[str], seconds: float) -> list[str]:
        finished = view.done + view.failed
        share = min(finished / max(view.expected, 1), 1.0)
        bar = "█" * int(share * BAR_WIDTH) + "░" * (BAR_WIDTH - int(share * BAR_WIDTH))
        rate = finished / max(seconds, 1) if share == 1 else self._rate()
        lines = [f"  {bar} {share:4.0%}   {seconds:3.0f} s   {rate:,.0f} jobs/s", f"  {_counts(view)}", ""]
        for name in workers:
            completed = sum(n for who, n in view.completed_by.items() if who.split(".")[0] == name.split(".")[0])
            lines.append(f"  {name:<12} {completed:>6,} done   {view.running_by.get(name, 'idle')}")
        return [*lines, "", *(f"  {event}" for event in self.events)]

    def _rate(self) -> float:
        (t0, done0), (t1, done1) = self.done_before[0], self.done_before[-1]
        return (done1 - done0) / (t1 - t0) if t1 > t0 else 0.0

    def _draw(self, lines: list[str]) -> None:
        width, height = shutil.get_terminal_size()
        # A line that wraps, or a picture higher than the window, could not be drawn over.
        lines = [line[:width - 1] for line in lines[:height - 1]]
        up = f"\033[{self.drawn_lines}F" if self.drawn_lines else ""
        sys.stdout.write(up + "".join(f"\033[K{line}\n" for line in lines) + "\033[J")
        sys.stdout.flush()
        self.drawn_lines = len(lines)


def _counts(view: View) -> str:
    return (f"ready {view.pending:,}   scheduled {view.scheduled:,}   running {view.running:,}"
            f"   done {view.done:,}   failed {view.failed:,}")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Left-aligned first column, right-aligned numbers."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:]))]).rstrip()
             for row in [head, *rows]]
    return "\n".join([lines[0], "-" * len(lines[0].ljust(sum(widths) + 2 * len(widths) - 2)), *lines[1:]])


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:,.0f} ms" if seconds < 1 else f"{seconds:,.1f} s"
