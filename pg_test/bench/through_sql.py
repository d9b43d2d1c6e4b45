"""Workloads whose calls are SQL, through pgbench with prepared statements. The peers take turns, round by round."""

from __future__ import annotations

from dataclasses import replace

import figures
from book import Figures, Page
from peers import BY_NAME
from stage import BATCH, Stage, large_payload
from workloads import workload

DELETING = ("jobq", "jobq-fused", "hand", "pgmq", "graphile", "procrastinate", "pgq", "floor")
KEEPING = ("jobq-keep", "hand-keep", "pgmq-keep", "procrastinate-keep")
CLAIMING = ("jobq", "hand", "pgmq", "graphile", "procrastinate")
CLAIMS = 1000  # claims of one job each that a percentile is taken from


def cycle(stage: Stage, page: Page, what: str, clients: int, payload: str = "", label: str = "") -> None:
    """Rounds of enqueue, claim, complete in a loop."""
    per_script = BATCH if what == "batch" else 1
    able = tuple(name for name in DELETING if stage.can(name, what))
    with stage.databases(able, payload=payload) as databases:
        for name, database in databases.items():
            stage.pgbench(name, database, what, clients=clients, seconds=1, payload=payload)
        for number in range(1, stage.plan.rounds + 1):
            for name, database in databases.items():
                run = stage.pgbench(name, database, what, clients=clients, seconds=stage.plan.seconds, log="transactions", payload=payload)
                page.add(name + label, number, {"jobs/s": run.tps * per_script, "p50 ms": figures.percentile(run.latencies_ms, 50),
                                                "p99 ms": figures.percentile(run.latencies_ms, 99)}, run.command)


@workload("single-1", "one job at a time: enqueue, claim, complete; 1 client", quick=False)
def single_1(stage: Stage, page: Page) -> None:
    cycle(stage, page, "single", 1)


@workload("single-8", "one job at a time: enqueue, claim, complete; 8 clients")
def single_8(stage: Stage, page: Page) -> None:
    cycle(stage, page, "single", 8)


@workload("single-32", "one job at a time: enqueue, claim, complete; 32 clients", quick=False)
def single_32(stage: Stage, page: Page) -> None:
    cycle(stage, page, "single", 32)


@workload("batch-1", "batches of 100: enqueue, claim, complete; 1 client (and so also for PgQ, whose consumer is one)", quick=False)
def batch_1(stage: Stage, page: Page) -> None:
    cycle(stage, page, "batch", 1)


@workload("batch-8", "batches of 100: enqueue, claim, complete; 8 clients")
def batch_8(stage: Stage, page: Page) -> None:
    # PgQ hands all clients of one consumer the same batch.
    cycle(without(stage, "pgq"), page, "batch", 8)


@workload("payload-1k", "single jobs and batches with 1 KB instead of 100 B; 8 clients", quick=False)
def payload_1k(stage: Stage, page: Page) -> None:
    cycle(stage, page, "single", 8, large_payload(), ", single")
    cycle(without(stage, "pgq"), page, "batch", 8, large_payload(), ", batch")


def without(stage: Stage, *names: str) -> Stage:
    return replace(stage, plan=replace(stage.plan, peers=tuple(p for p in stage.plan.peers if p not in names)))


@workload("wal", "WAL bytes per job, 1 client, after a warm-up; deleting queues, then those that keep history")
def wal(stage: Stage, page: Page) -> None:
    singles, batches = (300, 20) if stage.plan.quick else (3000, 200)
    for what, transactions in (("single", singles), ("batch", batches)):
        able = tuple(name for name in DELETING + KEEPING if stage.can(name, what))
        # Pages that are made after it need no full image, so that checkpoints do not decide who looks thrifty.
        stage.server.psql("CHECKPOINT")
        with stage.databases(able) as databases:
            for name, database in databases.items():
                stage.pgbench(name, database, what, clients=1, transactions=transactions // 4)
            for number in range(1, stage.plan.rounds + 1):
                for name, database in databases.items():
                    page.add(f"{name}, {what}", number, wal_of(stage, name, database, what, transactions))
    page.note("rows of queues that keep history are compared with jobq-keep; full pages are those written because of a checkpoint")


def wal_of(stage: Stage, name: str, database: str, what: str, transactions: int) -> Figures:
    before, images = stage.server.psql("SELECT pg_current_wal_insert_lsn(), wal_fpi FROM pg_stat_wal").split("|")
    stage.pgbench(name, database, what, clients=1, transactions=transactions)
    written, images_after = stage.server.psql(f"SELECT pg_current_wal_insert_lsn() - '{before}', wal_fpi FROM pg_stat_wal").split("|")
    jobs = transactions * (BATCH if what == "batch" else 1)
    return {"WAL B/job": float(written) / jobs, "full pages/1000 jobs": 1000 * (int(images_after) - int(images)) / jobs}


@workload("in-flight", "single jobs while many others are claimed and not finished; 8 clients; then claims alone by one client")
def in_flight(stage: Stage, page: Page) -> None:
    able = tuple(name for name in CLAIMING if stage.can(name, "hold"))
    for held in (0, stage.plan.in_flight):
        with stage.databases(able, fill=0) as databases:
            for name, database in databases.items():
                peer = BY_NAME[name]
                stage.repeat(peer, "fill", database, held)
                stage.repeat(peer, "hold", database, held)
                stage.repeat(peer, "fill", database, 2 * CLAIMS)
            loops_then_claims(stage, page, databases, CLAIMS, f", {held} in flight")


@workload("pending", "single jobs while so many wait; 8 clients; then claims alone by one client")
def pending(stage: Stage, page: Page) -> None:
    for waiting in stage.plan.pending:
        # Its trigger sends two notifications for each job: ten million would take hours.
        fits = stage if waiting <= 1_000_000 else without(stage, "procrastinate")
        with fits.databases(CLAIMING, fill=waiting) as databases:
            loops_then_claims(stage, page, databases, min(CLAIMS, waiting // 2), f", {waiting} pending")


def loops_then_claims(stage: Stage, page: Page, databases: dict[str, str], claims: int, circumstance: str) -> None:
    """The rounds leave the queues as they were; the claims, which stay unfinished, come after them.

    A round that is not measured comes first: the first change of each page after a checkpoint logs the whole page.
    """
    for name, database in databases.items():
        stage.server.psql("VACUUM (ANALYZE)", database)
        stage.pgbench(name, database, "single", clients=8, seconds=stage.plan.seconds)
    for number in range(1, stage.plan.rounds + 1):
        for name, database in databases.items():
            run = stage.pgbench(name, database, "single", clients=8, seconds=stage.plan.seconds, log="transactions")
            page.add(name + circumstance, number, {"jobs/s": run.tps, "loop p50 ms": figures.percentile(run.latencies_ms, 50),
                                                   "loop p99 ms": figures.percentile(run.latencies_ms, 99)}, run.command)
    for name, database in databases.items():
        run = stage.pgbench(name, database, "claim", clients=1, transactions=claims, log="transactions")
        page.add(name + circumstance, stage.plan.rounds + 1, {"claim p50 ms": figures.percentile(run.latencies_ms, 50),
                                                              "claim p99 ms": figures.percentile(run.latencies_ms, 99)}, run.command)
