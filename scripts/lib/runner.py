"""Running test programs: their output into a log, their own closing lines into numbers."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from machine import REPO, as_server_user

# No command of any suite takes half as long; a test that hangs must not hold up the rest.
COMMAND_SECONDS_MAX = 900


@dataclass(frozen=True)
class Outcome:
    passed: int
    failed: int
    skipped: int = 0

    def __add__(self, other: Outcome) -> Outcome:
        return Outcome(self.passed + other.passed, self.failed + other.failed, self.skipped + other.skipped)

    def __str__(self) -> str:
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed, {self.failed} failed{skipped}"


class TestFailure(Exception):
    """A suite could not do its work: missing files, a program that would not start."""


class Log:
    """A suite's log file. Commands run through it leave their output there."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.file = path.open("w")

    def write(self, text: str) -> None:
        self.file.write(text.rstrip("\n") + "\n")
        self.file.flush()

    def run(self, command: Sequence[str | Path], *, env: Mapping[str, str] | None = None, cwd: Path = REPO,
            as_server: bool = False, timeout: int = COMMAND_SECONDS_MAX) -> tuple[int, str]:
        """Exit code and output. With `as_server` it runs as the user that servers run as."""
        words = [str(c) for c in command]
        options = as_server_user(env) if as_server else {"env": env}
        options["cwd"] = cwd
        self.write("$ " + " ".join(words))
        start = self.file.tell()
        # A session of its own, so that at a timeout the command goes with all its children.
        child = subprocess.Popen(words, stdout=self.file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                 start_new_session=True, **options)
        _running.add(child)
        try:
            code = child.wait(timeout)
        except BaseException as reason:
            _end_group(child)
            if not isinstance(reason, subprocess.TimeoutExpired):
                raise
            self.write(f"ended: took longer than {timeout} seconds")
            code = 124
        finally:
            _running.discard(child)
        with self.path.open(errors="replace") as written:
            written.seek(start)
            output = written.read()
        # The child wrote through its own copy of the file's offset.
        self.file.seek(0, os.SEEK_END)
        return code, output

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.path.read_text(errors="replace").splitlines()[-lines:])


# Every command that runs now, in whichever thread.
_running: set[subprocess.Popen] = set()


def end_all() -> None:
    """For a run that is broken off: no command, and so no server, is left behind."""
    for child in list(_running):
        _end_group(child)


def _end_group(child: subprocess.Popen) -> None:
    """Asks politely first: the programs stop their servers on SIGTERM."""
    for sign, seconds in ((signal.SIGTERM, 30), (signal.SIGKILL, 5)):
        try:
            os.killpg(child.pid, sign)
            child.wait(seconds)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue


def judged(code: int, counted: Outcome) -> Outcome:
    """A runner that ended badly, or ran nothing, has failed whatever it counted."""
    if code != 0 and counted.failed == 0:
        return counted + Outcome(0, 1)
    if counted.passed + counted.failed == 0:
        return Outcome(0, 1, counted.skipped)
    return counted


def plain_counts(output: str) -> Outcome:
    """The last line `N passed, N failed[, N skipped]`."""
    found = re.findall(r"^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$", output, re.MULTILINE)
    return Outcome(*(int(n or 0) for n in found[-1])) if found else Outcome(0, 0)


def cargo_counts(output: str) -> Outcome:
    """Every `test result:` line: one for each test program."""
    found = re.findall(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored", output, re.MULTILINE)
    return Outcome(*(sum(int(row[i]) for row in found) for i in range(3)))


def pg_regress_counts(output: str) -> Outcome:
    if all_passed := re.search(r"All (\d+) tests passed", output):
        return Outcome(int(all_passed[1]), 0)
    if some_failed := re.search(r"(\d+) of (\d+) tests failed", output):
        return Outcome(int(some_failed[2]) - int(some_failed[1]), int(some_failed[1]))
    return Outcome(0, 0)


def tap_counts(output: str) -> Outcome:
    """`prove --verbose`: top-level lines of the test anything protocol."""
    passed = failed = skipped = 0
    for line in output.splitlines():
        if re.match(r"ok \d+ # skip", line, re.IGNORECASE) or re.match(r"1\.\.0 # skip", line, re.IGNORECASE):
            skipped += 1
        elif re.match(r"(not )?ok \d+.*# TODO", line, re.IGNORECASE):
            skipped += 1
        elif re.match(r"ok \d+", line):
            passed += 1
        elif re.match(r"not ok \d+", line):
            failed += 1
    return Outcome(passed, failed, skipped)


def timed(work: Callable[[], Outcome]) -> tuple[Outcome, float]:
    start = time.monotonic()
    return work(), time.monotonic() - start
