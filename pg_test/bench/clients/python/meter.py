"""What every client program reports: one JSON line when it is ready, one when it has done its jobs."""

from __future__ import annotations

import json
import math
import os
import threading
import time

ORDER = json.loads(os.environ["BENCH"])  # jobs, batch, gap_ms, payload


def say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def payload() -> dict[str, object]:
    """A job's payload; it carries the time at which it was handed to the library."""
    return {**ORDER["payload"], "sent": time.time()}


def chunks() -> list[int]:
    """The sizes of the calls that enqueue all jobs."""
    jobs, batch = ORDER["jobs"], ORDER["batch"]
    return [min(batch, jobs - start) for start in range(0, jobs, batch)]


def pause() -> None:
    time.sleep(ORDER["gap_ms"] / 1000)


class Meter:
    """Counts jobs as they start and as they are done; `full` is set when all are."""

    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.done = 0
        self.first = 0.0
        self.full = threading.Event()
        self._lock = threading.Lock()

    def started(self, sent: float) -> None:
        self.first = self.first or time.time()
        self.latencies.append(1000 * (time.time() - sent))

    def finished(self, count: int = 1) -> bool:
        """True for the call that finishes the last job."""
        with self._lock:
            before, self.done = self.done, self.done + count
            if before < ORDER["jobs"] <= self.done:
                ranked = sorted(self.latencies)
                at = {f"p{p}": ranked[max(0, math.ceil(p / 100 * len(ranked)) - 1)] for p in (50, 99)}
                say(jobs=self.done, first=self.first, last=time.time(), latency_ms=at)
                self.full.set()
                return True
        return False
