"""Workloads in which time counts, not throughput: idle waiters that are woken, and jobs that are due later."""

from __future__ import annotations

import json
import subprocess

import figures
from book import Page
from machine import SetupError
from stage import Stage
from workloads import workload

# Those that a session can wait for through SQL, each in its best way: claim_wait, LISTEN/NOTIFY, read_with_poll.
WAITABLE = ("jobq", "hand", "pgmq")
SCHEDULING = ("jobq", "hand", "pgmq", "procrastinate")
MIXED_RATE = 300
MIXED_WORKERS = 3


@workload("waiting", "idle sessions wait, one job every 20 ms: from the call that enqueues until a waiter has the job; what waiting costs")
def waiting(stage: Stage, page: Page) -> None:
    jobs, idle = (40, 2) if stage.plan.quick else (300, 10)
    for waiters in stage.plan.waiters:
        with stage.databases(WAITABLE, fill=0) as databases:
            for number in range(1, stage.plan.rounds + 1):
                for name, database in databases.items():
                    order = {"style": name, "waiters": waiters, "jobs": jobs, "gap_ms": 20, "idle_seconds": idle}
                    told = program(stage, "waiters.py", database, order)
                    latencies = told["latencies_ms"]
                    page.add(f"{name}, {waiters} waiting", number,
                             {"p50 ms": figures.percentile(latencies, 50), "p99 ms": figures.percentile(latencies, 99),
                              "inside p50 ms": figures.percentile(told["inside_ms"], 50),
                              "inside p99 ms": figures.percentile(told["inside_ms"], 99),
                              "call p50 ms": figures.percentile(told["calls_ms"], 50), "sleeps per job": told["sleeps_per_job"],
                              "idle CPU ms a second": told["cpu_ms_per_s"], "holding a snapshot": told["holding_snapshot"]},
                             f"waiters.py, {jobs} jobs")
    page.note("jobq: claim_wait; hand: LISTEN, every session is told and tries; pgmq: read_with_poll with its defaults (looks every "
              "100 ms); one loop plays all the clients")
    page.note("inside: by the server's clock, from the begin of the call that enqueues to the claim; call: how long the producer's call "
              "takes, its commit included; sleeps: how often the waiting backends together went to sleep again, for each job")
    page.note("idle CPU: processor milliseconds per second of all waiting backends together, while nothing happens")


@workload("mixed", f"{MIXED_RATE} jobs a second, 10 % scheduled for 2 s later, 10 % failing once and retried 1 s later: "
          "how late those start", quick=False)
def mixed(stage: Stage, page: Page) -> None:
    seconds = max(4, stage.plan.seconds * 2)
    with stage.databases(SCHEDULING, fill=0) as databases:
        for number in range(1, stage.plan.rounds + 1):
            for name, database in databases.items():
                order = {"style": name, "rate": MIXED_RATE, "seconds": seconds, "workers": MIXED_WORKERS}
                told = program(stage, "mixed.py", database, order)
                late = told["scheduled_ms"] + told["retried_ms"]
                page.add(name, number, {"late p50 ms": figures.percentile(late, 50), "late p99 ms": figures.percentile(late, 99),
                                        "retried late p99 ms": figures.percentile(told["retried_ms"], 99),
                                        "sent jobs/s": told["sent_per_s"], "not done": told["jobs"] - told["done"]})
    page.note(f"{MIXED_WORKERS} workers through psycopg; jobq waits in claim_wait, pgmq in read_with_poll, the others look every 100 ms")


def program(stage: Stage, name: str, database: str, order: dict[str, object]) -> dict:
    """Runs a Python program of clients/ to its end; it prints one JSON line."""
    env = {**stage.server.env(database), "BENCH": json.dumps(order)}
    stage.alone()
    done = subprocess.run(stage.client_python(name), env=env, text=True, capture_output=True, timeout=900)
    if done.returncode != 0:
        raise SetupError(f"{name} {order['style']} failed: {done.stderr.strip()[-1000:]}")
    return json.loads(done.stdout)
