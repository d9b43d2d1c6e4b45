"""Runs pgbench and reads what it measured: transactions a second, the latency of each, and both over time."""

from __future__ import annotations

import re
import shlex
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from machine import SetupError
from toolchain import Install

THREADS = 2


@dataclass
class Run:
    tps: float
    transactions: int
    command: str
    latencies_ms: list[float] = field(default_factory=list)
    per_second: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Load:
    """`seconds` or `transactions` (per client) bound the run."""

    script: Path
    clients: int
    seconds: int = 0
    transactions: int = 0
    # A line per transaction costs little over seconds and too much over minutes; then one per second is enough.
    log: str = ""  # "", "transactions" or "seconds"
    more: tuple[str, ...] = ()


def command(install: Install, load: Load, variables: Mapping[str, str], log_prefix: Path | None) -> list[str]:
    words = [install.program("pgbench"), "-n", "-M", "prepared", "-c", str(load.clients), "-j", str(min(THREADS, load.clients))]
    words += ["-T", str(load.seconds)] if load.seconds else ["-t", str(load.transactions)]
    words += load.more
    if load.log and log_prefix:
        words += ["-l", f"--log-prefix={log_prefix}"] + (["--aggregate-interval=1"] if load.log == "seconds" else [])
    for name, value in variables.items():
        words += ["-D", f"{name}={value}"]
    return [*words, "-f", str(load.script)]


def run(install: Install, env: Mapping[str, str], load: Load, variables: Mapping[str, str]) -> Run:
    with tempfile.TemporaryDirectory() as folder:
        words = command(install, load, variables, Path(folder) / "log")
        done = subprocess.run(words, env=dict(env), text=True, capture_output=True)
        measured = parsed(load.script, done)
        measured.command = readable(words, variables)
        logs = sorted(Path(folder).glob("log*"))
        if load.log == "transactions":
            measured.latencies_ms = [int(line.split()[2]) / 1000 for log in logs for line in log.read_text().splitlines()]
        elif load.log == "seconds":
            measured.per_second = per_second(logs)
        return measured


def parsed(script: Path, done: subprocess.CompletedProcess[str]) -> Run:
    tps = re.search(r"^tps = ([0-9.]+)", done.stdout, re.M)
    count = re.search(r"transactions actually processed: (\d+)", done.stdout)
    if done.returncode != 0 or tps is None or count is None:
        raise SetupError(f"pgbench {script} failed:\n{done.stdout}{done.stderr[-4000:]}")
    return Run(float(tps[1]), int(count[1]), "")


def per_second(logs: list[Path]) -> list[float]:
    """Each thread writes its own log: epoch second, transactions, sums of latencies."""
    counts: dict[int, float] = defaultdict(float)
    for log in logs:
        for line in log.read_text().splitlines():
            second, transactions, *_ = line.split()
            counts[int(second)] += float(transactions)
    if not counts:
        return []
    # The first and the last second are cut off by the start and the end.
    return [counts[second] for second in range(min(counts) + 1, max(counts))]


def readable(words: list[str], variables: Mapping[str, str]) -> str:
    """The command as somebody else could type it: no private paths, no long payloads."""
    hidden = {f"{name}={value}": f"{name}=..." for name, value in variables.items()}
    shown = [hidden.get(word, word) for word in words if not word.startswith("--log-prefix")]
    shown[0] = "pgbench"
    shown[-1] = "/".join(Path(shown[-1]).parts[-3:])
    return shlex.join(shown)
