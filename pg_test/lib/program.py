"""The frame of a test program: its arguments, its Python packages, the installation it tests."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import build
from machine import SetupError, prepare_process
from report import Report
from toolchain import Install, venv

REQUIREMENTS = ["psycopg[binary]==3.3.9"]


def main(description: str, tests: Callable[[Install, Report], None]) -> int:
    """Runs `tests` in a Python that has psycopg; returns the exit code."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pg", type=int, choices=(15, 18), required=True, help="Postgres version")
    parser.add_argument("--pg-config", type=Path, metavar="PATH",
                        help="test the jobq that is installed there, instead of building and installing this checkout")
    parser.add_argument("--match", metavar="REGEX", help="only the checks whose line matches")
    parser.add_argument("--long", action="store_true", help="more rounds, in suites that have a long form")
    chosen = parser.parse_args()
    prepare_process()
    try:
        _run_in_venv()
        install = Install(chosen.pg, chosen.pg_config) if chosen.pg_config else build.install(chosen.pg)
        report = Report(chosen.match, chosen.long)
        start = time.monotonic()
        tests(install, report)
        report.note(f"took {time.monotonic() - start:.0f} s")
        return report.close()
    except SetupError as error:
        print(f"{Path(sys.argv[0]).parent.name}: {error}", file=sys.stderr)
        return 1


def _run_in_venv() -> None:
    python = venv("psycopg", REQUIREMENTS)
    if Path(sys.prefix) != python.parent.parent:
        os.execv(python, [str(python), *sys.argv])
