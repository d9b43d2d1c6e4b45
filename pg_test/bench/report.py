"""Writes what was measured: results.md with one table per workload, results.json with every round, and an SVG per workload."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path

import fetch
import figures
import svg
from book import Book, Page
from machine import REPO, scratch
from peers import BY_NAME
from stage import Stage


def write(stage: Stage, folder: Path, started: datetime) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    stage.book.left_out = {what: without_paths(why) for what, why in stage.book.left_out.items()}
    facts = about(stage, started)
    plots: dict[str, list[str]] = {}
    for page in stage.book.pages:
        plots[page.name] = drawn(page, folder)
    (folder / "results.json").write_text(json.dumps({"about": facts, "left_out": stage.book.left_out,
                                                     "workloads": [asdict(page) for page in stage.book.pages]}, indent=1) + "\n")
    (folder / "results.md").write_text(markdown(stage.book, facts, plots))


def without_paths(text: str) -> str:
    """Results are shown to others: where this machine keeps its files is nobody's business."""
    return text.replace(str(scratch()), "SCRATCH").replace(str(REPO), "REPO")


def about(stage: Stage, started: datetime) -> dict[str, object]:
    """The machine, the server and everybody's version: without them a number means nothing."""
    memory_kb = proc("meminfo", "MemTotal").split()[0]
    model = proc("cpuinfo", "model name")
    plan = asdict(stage.plan)
    names = ("shared_buffers", "max_wal_size", "checkpoint_timeout", "fsync", "synchronous_commit", "full_page_writes", "wal_level",
             "autovacuum", "autovacuum_naptime", "max_connections")
    settings = {name: stage.server.psql(f"SHOW {name}") for name in names}
    ended = datetime.now(timezone.utc)
    return {"started": started.isoformat(timespec="seconds"), "ended": ended.isoformat(timespec="seconds"),
            "machine": platform.machine(), "kernel": platform.release(), "cpu": model, "cpus": os.cpu_count(),
            "memory_gb": round(int(memory_kb) / 2**20, 1), "load_at_end": os.getloadavg()[0],
            "postgres": stage.server.psql("SELECT version()"),
            "jobq_commit": commit(), "settings": settings, "plan": plan, "versions": versions(stage)}


def proc(file: str, name: str) -> str:
    """A value from a file of /proc that has one name and value a line."""
    lines = (line.partition(":") for line in Path(f"/proc/{file}").read_text().splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), "unknown")


def versions(stage: Stage) -> dict[str, str]:
    """Only of those that took part."""
    played = {row.partition(",")[0] for page in stage.book.pages for row in page.rows()}
    known: dict[str, str] = {"python": platform.python_version(), **stage.book.versions}
    for name in stage.plan.peers:
        peer = BY_NAME.get(name)
        if peer and peer.version and name in played:
            known[name] = peer.version(stage)
    return known


def commit() -> str:
    done = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=fetch.HERE, text=True, capture_output=True)
    return done.stdout.strip() or "unknown"


def drawn(page: Page, folder: Path) -> list[str]:
    """The names of the plots of a workload, after writing them."""
    written = []
    values = {row: page.median(row, page.first) for row in page.rows()}
    if values:
        (folder / f"{page.name}.svg").write_text(svg.bars(f"{page.name}: {page.first}", page.first.rsplit(" ", 1)[-1], values))
        written.append(f"{page.name}.svg")
    if page.series:
        unit, step = page.series_unit
        (folder / f"{page.name}-over-time.svg").write_text(svg.lines(f"{page.name} over time", unit, page.series, x_step=step))
        written.append(f"{page.name}-over-time.svg")
    return written


def markdown(book: Book, facts: dict[str, object], plots: dict[str, list[str]]) -> str:
    plan, versions, settings = facts["plan"], facts["versions"], facts["settings"]
    assert isinstance(plan, dict) and isinstance(versions, dict) and isinstance(settings, dict)
    text = ["# Benchmark", "",
            f"{facts['cpus']} x {facts['cpu']}, {facts['memory_gb']} GB, kernel {facts['kernel']}; {facts['postgres']}; "
            f"jobq at {facts['jobq_commit']}; {facts['started']} to {facts['ended']}.", "",
            "Settings: " + ", ".join(f"{name} = {value}" for name, value in settings.items()) + ".", "",
            f"{plan['rounds']} rounds of {plan['seconds']} s, peers in turn; a figure is the median of its rounds, a ratio the median of "
            "the ratios within each round. **jobq is n times better** compares the first figure (n < 1: jobq is worse). Read the ratios: "
            "the figures belong to the machine. Every round and its command: results.json.", "",
            "Versions: " + "; ".join(f"{name}: {version}" for name, version in versions.items()) + ".", ""]
    for page in book.pages:
        text += [f"## {page.name}", "", page.about + ".", "", *table(page), ""]
        text += [f"* {note}" for note in page.notes] + ([""] if page.notes else [])
        text += [f"![{page.name}]({plot})" for plot in plots[page.name]] + [""]
    if book.left_out:
        text += ["## Left out", "", *(f"* {what}: {why}" for what, why in book.left_out.items()), ""]
    return "\n".join(text)


def table(page: Page) -> list[str]:
    names = page.names()
    lines = ["| | " + " | ".join(names) + " | jobq is n times better |", "|---|" + "---:|" * (len(names) + 1)]
    for row in page.rows():
        ratio = "" if row == page.baseline(row) else figures.shown(page.times_better(row))
        cells = [figures.shown(page.median(row, name)) for name in names]
        lines.append(f"| {row} | " + " | ".join(cells) + f" | {ratio} |")
    return lines
