"""Jobs that run inside: a pool of four beside four sessions outside that do the same, and beside a connection for each run."""

from __future__ import annotations

import time
from pathlib import Path

import pgbench
from book import Page
from machine import SetupError
from stage import Stage
from workloads import workload

WORKERS = 4
SCRIPT = Path(__file__).resolve().parent / "sql" / "pool" / "worker.sql"
CHUNK = 10_000
PATIENCE_SECONDS = 600
SET_UP = f"""
CREATE EXTENSION jobq;
CREATE SCHEMA app AUTHORIZATION bench_app;
CREATE TABLE app.effects (id uuid, attempt int);
ALTER TABLE app.effects OWNER TO bench_app;
CREATE FUNCTION app.short(job jobq.claimed_job) RETURNS void LANGUAGE plpgsql AS
    $$BEGIN INSERT INTO app.effects VALUES (job.id, job.attempt); END$$;
SELECT jobq.create_queue('pool', keep_completed => false);
SELECT jobq.create_handler('short', 'app.short(jobq.claimed_job)', 'bench_app');
SELECT jobq.create_pool('bench', 'pool', {WORKERS}, 'bench_app');
SELECT jobq.stop_pool('bench');
"""
LEFT = "SELECT count(*) FROM jobq._job"


@workload("pool", f"short PL/pgSQL jobs by a pool of {WORKERS}, by as many sessions outside, and by one connection for each run", quick=False)
def pool(stage: Stage, page: Page) -> None:
    server = stage.server
    server.psql("DROP ROLE IF EXISTS bench_app; CREATE ROLE bench_app LOGIN; DROP DATABASE IF EXISTS bench_pool; CREATE DATABASE bench_pool")
    try:
        server.psql(SET_UP, "bench_pool")
        for number in range(1, stage.plan.rounds + 1):
            jobs = fill(stage)
            page.add("jobq", number, {"jobs/s": jobs / inside(stage)}, f"jobq.start_pool with {jobs} jobs waiting, until none is left")
            check(stage, jobs)
            for row, more in (("pgbench", ()), ("a connection each", ("-C",))):
                jobs = fill(stage)
                # A connection for each takes long: a tenth of the jobs.
                transactions = jobs // WORKERS // (10 if more else 1)
                load = pgbench.Load(SCRIPT, WORKERS, transactions=transactions, more=more)
                run = pgbench.run(stage.install, server.env("bench_pool"), load, {})
                page.add(row, number, {"jobs/s": run.tps}, run.command)
                check(stage, transactions * WORKERS)
                server.psql("DELETE FROM jobq._job; SELECT * FROM jobq.claim('pool')", "bench_pool")
        page.note("pgbench: claim in one transaction, handler and complete in another; a connection each: the same with -C")
    finally:
        server.psql("DROP DATABASE IF EXISTS bench_pool WITH (FORCE); DROP ROLE bench_app")


def fill(stage: Stage) -> int:
    chunks = max(1, min(stage.plan.jobs, 100_000) // CHUNK)
    enqueue = f"SELECT count(*) FROM jobq.enqueue_many('short', (SELECT jsonb_agg('{{}}'::jsonb) FROM generate_series(1, {CHUNK})), 'pool');\n"
    stage.server.psql("TRUNCATE app.effects;\n" + enqueue * chunks + "CHECKPOINT", "bench_pool")
    return chunks * CHUNK


def inside(stage: Stage) -> float:
    """Seconds from the start of the pool until every job is done."""
    begun = time.monotonic()
    stage.server.psql("SELECT jobq.start_pool('bench')", "bench_pool")
    while stage.server.psql(LEFT, "bench_pool") != "0":
        if time.monotonic() - begun > PATIENCE_SECONDS:
            raise SetupError("the pool does not come to an end: " + stage.server.psql("SELECT * FROM jobq.pool_workers", "bench_pool"))
        time.sleep(0.05)
    took = time.monotonic() - begun
    stage.server.psql("SELECT jobq.stop_pool('bench')", "bench_pool")
    while stage.server.psql("SELECT count(pid) FROM jobq.pool_workers", "bench_pool") != "0":
        time.sleep(0.05)
    return took


def check(stage: Stage, jobs: int) -> None:
    done = stage.server.psql("SELECT count(*) || ' ' || count(DISTINCT id) FROM app.effects", "bench_pool")
    if done != f"{jobs} {jobs}":
        raise SetupError(f"{done} effects (and different ones) of {jobs} jobs")
