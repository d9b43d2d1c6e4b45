"""Named checks: each runs by itself on empty queues and prints `ok - name` or `not ok - name: reason`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

CONTRACT = json.loads((Path(__file__).resolve().parents[1] / "contract.json").read_text())
# Drivers must not make more of a bigint than JavaScript and Go's float64 can hold.
BIGINT_MAX = 2**53 - 1
_CHECKS: list[tuple[str, Callable]] = []


def check(name: str) -> Callable[[Callable], Callable]:
    def add(work: Callable) -> Callable:
        _CHECKS.append((name, work))
        return work

    return add


def run(on_a_connection: Callable[[Callable], None]) -> None:
    """Runs every check with a connection of its own and ends the program."""
    failed = 0
    for name, work in _CHECKS:
        try:
            _empty_the_queues()
            on_a_connection(work)
            print(f"ok - {name}", flush=True)
        except Exception as error:
            failed += 1
            where = traceback.extract_tb(error.__traceback__)
            line = next((f.lineno for f in reversed(where) if f.filename == sys.argv[0]), 0)
            print(f"not ok - {name}: line {line}: {_one_line(error)}", flush=True)
    print(f"{len(_CHECKS) - failed} passed, {failed} failed", flush=True)
    sys.exit(1 if failed or not _CHECKS else 0)


def equal(got: object, wanted: object) -> None:
    if got != wanted or type(got) is not type(wanted):
        raise AssertionError(f"got {got!r}, wanted {wanted!r}")


def true(what: object, explanation: object = "") -> None:
    if what is not True:
        raise AssertionError(f"got {what!r}, wanted True {explanation}".rstrip())


def eventually(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"still not so after {seconds} seconds")
        time.sleep(0.05)


def read_as(types: dict[str, tuple[type, ...]]) -> Callable[[str, dict], None]:
    """A judge of rows: every column of the contract is there and arrives as the type that
    `types` gives for its SQL type; other columns arrive as one of these types at least."""
    plain = tuple({t for each in types.values() for t in each})

    def judge(row_type: str, row: dict) -> None:
        columns = CONTRACT["rows"].get(row_type, {})
        if missing := set(columns) - set(row):
            raise AssertionError(f"{row_type} lacks {sorted(missing)}")
        for name, value in row.items():
            if value is None:
                continue
            wanted = types[columns[name]] if name in columns else plain
            if type(value) not in wanted:
                raise AssertionError(f"{row_type}.{name} arrives as {type(value).__name__}: {value!r}")
            if isinstance(value, int) and abs(value) > BIGINT_MAX:
                raise AssertionError(f"{row_type}.{name} is beyond 2^53: {value}")
            SEEN.add(f"{row_type}.{name}")

    return judge


SEEN: set[str] = set()


def all_seen(*may_be_null: str) -> None:
    """Every column of the contract has been read with a value in it."""
    wanted = {f"{row}.{column}" for row, columns in CONTRACT["rows"].items() for column in columns}
    equal(sorted(wanted - SEEN - set(may_be_null)), [])


def _empty_the_queues() -> None:
    # Running jobs that a check has left behind end when something rescues them. Another connection, not
    # counted: the runner asks afterwards which functions the client called.
    sql = "SET track_functions = none; SELECT jobq.cancel(id) FROM jobq.jobs WHERE finished_at IS NULL"
    subprocess.run(["psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql], check=True, capture_output=True,
                   env={**os.environ, "PGOPTIONS": "-c client_min_messages=warning"})


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".replace("\n", " | ")[:600]
