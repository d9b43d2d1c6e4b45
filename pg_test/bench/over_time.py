"""Workloads that need time: an open snapshot that pins xmin, and the memory of a backend after very many calls."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import figures
from book import Page
from cluster import Cluster
from stage import Stage
from workloads import workload

PINNED = ("jobq", "hand", "pgmq", "graphile", "procrastinate", "floor")
REMEMBERED = ("jobq", "jobq-fused", "hand", "pgmq")


@workload("pinned", "single jobs at full speed, 8 clients, while a REPEATABLE READ transaction stays open: throughput over time")
def pinned(stage: Stage, page: Page) -> None:
    seconds = stage.plan.pin_seconds
    minute = min(60, max(seconds // 4, 2))
    # The floor shows how the machine itself changes meanwhile; a quick run has no time for that.
    for name in PINNED[:-1] if stage.plan.quick else PINNED:
        # One after the other: each needs the whole time at a stretch.
        with stage.databases((name,)) as databases:
            for database in databases.values():
                with snapshot(stage.server, database):
                    run = stage.pgbench(name, database, "single", clients=8, seconds=seconds, log="seconds")
                    dead = stage.server.psql("""SELECT coalesce(sum(n_dead_tup), 0), pg_database_size(current_database())
                                                FROM pg_stat_user_tables""", database).split("|")
                page.series[name] = run.per_second
                first, last = (figures.median(part) for part in (run.per_second[:minute], run.per_second[-minute:]))
                page.add(name, 1, {"last jobs/s": last, "first jobs/s": first, "% kept": 100 * last / first if first else 0,
                                   "dead rows": float(dead[0]), "database MB": float(dead[1]) / 2**20}, run.command)
    page.note(f"{seconds} s each; first and last: the median second of the first and the last {minute} s")


@contextmanager
def snapshot(server: Cluster, database: str) -> Iterator[None]:
    """A session that holds a snapshot of this database as long as the block lasts."""
    session = subprocess.Popen([server.install.program("psql"), "-XAtq"], env=server.env(database), text=True, stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert session.stdin and session.stdout
    try:
        session.stdin.write("BEGIN ISOLATION LEVEL REPEATABLE READ;\nSELECT 'pinned ' || txid_snapshot_xmin(txid_current_snapshot());\n")
        session.stdin.flush()
        if not (line := session.stdout.readline()).startswith("pinned "):
            raise RuntimeError(f"the snapshot is not held: {line}")
        yield
    finally:
        session.stdin.close()
        session.wait(30)


@workload("memory", "private memory of one backend over very many calls", quick=False)
def memory(stage: Stage, page: Page) -> None:
    page.series_unit = ("MB", 0.5)
    for name in REMEMBERED:
        with stage.databases((name,)) as databases:
            for database in databases.values():
                with watched(stage.server, database) as sizes_kb:
                    run = stage.pgbench(name, database, "single", clients=1, transactions=stage.plan.calls // 3)
                # The first tenth fills caches.
                early = sizes_kb[max(1, len(sizes_kb) // 10)] if len(sizes_kb) > 1 else 0
                page.series[name] = [size / 1024 for size in sizes_kb]
                late = sizes_kb[-1] if sizes_kb else 0
                page.add(name, 1, {"end MB": late / 1024, "growth kB": float(late - early), "jobs/s": run.tps}, run.command)
    page.note(f"{stage.plan.calls} calls each (RssAnon, sampled twice a second); growth: from a tenth of the run to its end")


@contextmanager
def watched(server: Cluster, database: str) -> Iterator[list[int]]:
    """The private memory of pgbench's one backend, twice a second."""
    sizes: list[int] = []
    over = threading.Event()

    def watch() -> None:
        pid = ""
        while not over.wait(0.5):
            if not pid:
                pid = server.psql("""SELECT pid FROM pg_stat_activity
                                     WHERE application_name = 'pgbench' AND datname = current_database() LIMIT 1""", database)
            if pid and (size := private_kb(int(pid))):
                sizes.append(size)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield sizes
    finally:
        over.set()
        thread.join()


def private_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon:")), 0)
