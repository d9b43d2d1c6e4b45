"""Test results as lines: `ok N - what`, `not ok N - what: reason`, and the closing counts."""

from __future__ import annotations

import contextlib
import re
import threading
import time
import traceback
from collections.abc import Iterator

# Enough of a reason to act on; an error may quote a megabyte.
REASON_CHARS = 600
SLOW_SECONDS = 10


class Failed(Exception):
    """What a check expected and what it got."""


class Skipped(Exception):
    """Why a check cannot be made on this machine."""


class Report:
    def __init__(self, match: str | None = None, long: bool = False) -> None:
        self._match = re.compile(match) if match else None
        self.long = long
        self.passed = self.failed = self.skipped = 0
        self._lock = threading.Lock()

    def wants(self, what: str) -> bool:
        """Is this check one of those asked for?"""
        return self._match is None or bool(self._match.search(what))

    def ok(self, what: str) -> None:
        with self._lock:
            self.passed += 1
            print(f"ok {self._number()} - {_line(what)}", flush=True)

    def not_ok(self, what: str, reason: str) -> None:
        with self._lock:
            self.failed += 1
            print(f"not ok {self._number()} - {_line(what)}: {_line(reason)[:REASON_CHARS]}", flush=True)

    def skip(self, what: str, reason: str) -> None:
        with self._lock:
            self.skipped += 1
            print(f"ok {self._number()} # skip {_line(what)}: {_line(reason)}", flush=True)

    def note(self, text: str) -> None:
        """A measured figure or a remark."""
        with self._lock:
            print(f"# {_line(text)}", flush=True)

    @contextlib.contextmanager
    def check(self, what: str) -> Iterator[None]:
        """Whatever the block raises is a failure of this check and of no other."""
        start = time.monotonic()
        try:
            yield
        except Skipped as reason:
            self.skip(what, str(reason))
        except Failed as reason:
            self.not_ok(what, str(reason))
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            self.not_ok(what, f"{type(error).__name__}: {error} ({where.name}, line {where.lineno})")
        else:
            self.ok(what)
        finally:
            if (seconds := time.monotonic() - start) > SLOW_SECONDS:
                self.note(f"that took {seconds:.0f} s")

    def close(self) -> int:
        """Prints the closing line; the exit code. A run without tests is a failure."""
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        print(f"{self.passed} passed, {self.failed} failed{skipped}", flush=True)
        return 1 if self.failed or not self.passed else 0

    def _number(self) -> int:
        return self.passed + self.failed + self.skipped


def _line(text: str) -> str:
    return " ".join(text.split())


def expect(condition: object, reason: str) -> None:
    if not condition:
        raise Failed(reason)


def expect_equal(got: object, wanted: object, what: str) -> None:
    if got != wanted:
        raise Failed(f"{what}: expected {wanted!r}, got {got!r}")
