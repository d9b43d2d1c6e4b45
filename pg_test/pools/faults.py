"""Processes that are ended, by whomever and however: every job's effect is there once, and the pool is back."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable

import psycopg
from cluster import Cluster
from live import Connection, connect, until
from report import Report, expect, expect_equal
from stage import EFFECT, SETTINGS, Stage, scene, stage

SHORT = EFFECT + "PERFORM pg_sleep(random() * 0.02);"


def rounds(report: Report, short: int, long: int) -> int:
    return long if report.long else short


class Load:
    """Jobs that keep a pool busy until the scene is over."""

    def __init__(self, s: Stage) -> None:
        self.s = s
        self.enqueued = 0

    def top_up(self) -> None:
        missing = 100 - self.s.value("SELECT count(*) FROM jobq._job")
        if missing > 0:
            self.s.enqueue_many("k", missing)
            self.enqueued += missing


def seconds(figures: list[float]) -> str:
    figures = sorted(figures)
    return f"median {figures[len(figures) // 2] * 1000:.0f} ms, worst {figures[-1] * 1000:.0f} ms"


def end_again_and_again(server: Cluster, report: Report, what: str, victim: Callable[[Stage], int | None]) -> None:
    """Ends one process after the other under load; the pool is back each time, and in the end each job has one effect."""
    # No job is given up: what is counted is that none is lost.
    with stage(server, "ends", max_crashes=1000, max_attempts=1000) as s:
        s.handler("k", SHORT, returns="void")
        s.start(3)
        load, back = Load(s), []
        for _ in range(rounds(report, 10, 100)):
            load.top_up()
            s.until_running(3)
            pid = until(lambda: victim(s), f"a {what}")
            started = time.monotonic()
            s.root.execute("SELECT pg_terminate_backend(%s)", [pid])
            until(lambda: (now := victim(s)) and now != pid and len(s.pids()) == 3 and pid not in s.pids(), f"{what} and pool are back")
            back.append(time.monotonic() - started)
        s.until_all_over()
        s.expect_each_once(load.enqueued)
        crashes = s.value("SELECT sum(crashes) FROM jobq.jobs WHERE queue = 'ends'")
        report.note(f"{len(back)} times {what}, back after {seconds(back)}; {load.enqueued} jobs, {crashes} crashes counted")


def serving_maintainer(s: Stage) -> int | None:
    """One that has ticked: with others the launcher takes its time."""
    return s.value("""
        SELECT a.pid FROM pg_stat_activity AS a, jobq.diagnose() AS d
        WHERE a.backend_type = 'jobq maintainer' AND a.datname = 'postgres' AND d.check_name = 'background_worker'
          AND substring(d.detail FROM 'last tick ([0-9.]+) s')::float + 0.1 < extract(epoch FROM clock_timestamp() - a.backend_start)""")


@scene("pg_terminate_backend of workers under load: each job has one effect, the pool is back to its size")
def workers(server: Cluster, report: Report) -> None:
    end_again_and_again(server, report, "worker", lambda s: random.choice(s.pids() or [None]))


@scene("pg_terminate_backend of the maintainer under load: each job has one effect, no worker is disturbed")
def maintainer(server: Cluster, report: Report) -> None:
    end_again_and_again(server, report, "maintainer", serving_maintainer)


@scene("pg_terminate_backend of the launcher under load: each job has one effect, no worker is disturbed")
def launcher(server: Cluster, report: Report) -> None:
    end_again_and_again(server, report, "launcher", lambda s: s.value("SELECT pid FROM pg_stat_activity WHERE backend_type = 'jobq launcher'"))


@scene("workers and maintainer terminated at once, as if by a hasty operator: the pool is back")
def all_at_once(server: Cluster, report: Report) -> None:
    with stage(server, "hasty", max_crashes=1000, max_attempts=1000) as s:
        s.handler("k", SHORT, returns="void")
        s.start(3)
        load = Load(s)
        for _ in range(rounds(report, 3, 30)):
            load.top_up()
            s.until_running(3)
            pids = s.pids()
            s.root.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type LIKE 'jobq%'")
            until(lambda: len(s.pids()) == 3 and not set(pids) & set(s.pids()), "three other workers")
        s.until_all_over()
        s.expect_each_once(load.enqueued)


@scene("a maintainer that is terminated between asking for workers and their coming: none is there twice, none is missing")
def resized_and_terminated(server: Cluster, report: Report) -> None:
    with stage(server, "twice") as s:
        s.handler("k", SHORT, returns="void")
        s.start(1)
        for n in range(rounds(report, 8, 80)):
            size = 1 + (n % 2) * 7
            s.root.execute("SELECT jobq.resize_pool('twice', %s)", [size])
            time.sleep(random.random() * 0.02)
            s.root.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'jobq maintainer'")
            s.until_running(size)
            # One that has its seat may not have logged in yet.
            processes = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'jobq pool worker'"
            until(lambda: s.value(processes) == size, f"{size} processes")


@scene("jobs that end their own process end as failed: poison after max_crashes; one after the other, the pool of one worker survives all of them")
def poison(server: Cluster, report: Report) -> None:
    # start_seconds are the default: each crash comes before they are over.
    with stage(server, "poison", max_crashes=2, max_attempts=10) as s:
        s.handler("kills", EFFECT + "PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(10);", returns="void")
        s.handler("commits", EFFECT + "COMMIT; PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(10);", returns=None)
        s.handler("k", SHORT, returns="void")
        s.start(1, start_seconds=1)
        ids = [s.enqueue(kind) for kind in ("kills", "commits", "kills", "kills")]
        for id in ids:
            job = s.until_job(id, lambda job: job["finished_at"], "over")
            expect_equal((job["state"], job["crashes"], job["attempt"]), ("failed", 2, 2), "state, crashes, attempts")
            expect("poison" in job["last_error"], job["last_error"])
        s.run("k")
        expect_equal(s.value("SELECT count(*) FROM poison.effect"), 3, "effects: what `commits` committed twice, and that of `k`")


def killed_in_the_middle(s: Stage, id: str) -> None:
    """kill -9 of the process that runs the job; the server starts anew, and so do we."""
    pid = s.value("SELECT pid FROM jobq.pool_workers WHERE job = %s", [id])
    os.kill(pid, signal.SIGKILL)

    until(lambda: not connected(s.root), "the crash")
    s.root = until(lambda: reconnected(s.server), "the server is back")


def connected(session: Connection) -> bool:
    try:
        session.execute("SELECT 1")
    except psycopg.OperationalError:
        return False
    return True


def reconnected(server: Cluster) -> Connection | None:
    try:
        return connect(server)
    except psycopg.OperationalError:
        return None


@scene("kill -9 of a worker in the middle of a job: the server restarts, nothing is lost, each effect is there once, the crash is counted")
def killed(server: Cluster, report: Report) -> None:
    # A server of its own, that keeps what it has committed; synchronous_commit is off for the role: its claims must be on the disk all the same.
    with Cluster(server.install, "pools-killed", settings={**SETTINGS, "fsync": "on", "jobq.rescue_grace": "0"}) as other:
        other.psql("CREATE EXTENSION jobq")
        with stage(other, "killed", max_crashes=1000, max_attempts=1000) as s:
            s.root.execute("ALTER ROLE killed SET synchronous_commit = off")
            s.handler("k", EFFECT + "PERFORM pg_sleep(0.005);", returns="void")
            s.handler("waits", EFFECT + "IF (job).crashes = 0 THEN PERFORM pg_sleep(600); END IF;", returns="void")
            s.start(2)
            number, back = 0, []
            for _ in range(rounds(report, 3, 50)):
                id = s.enqueue("waits")
                s.enqueue_many("k", 50)
                number += 51
                s.until_busy(id)
                started = time.monotonic()
                killed_in_the_middle(s, id)
                s.until_running(2)
                back.append(time.monotonic() - started)
                expect_equal(s.ends(id, "completed")["crashes"], 1, "crashes of the job in whose middle it was")
            s.until_all_over()
            s.expect_each_once(number)
            report.note(f"{len(back)} times kill -9, all workers run again after {seconds(back)}")


@scene("a handler that kills the server at once, its role with synchronous_commit off, is poison after max_crashes: the claim was on the disk")
def poison_for_the_server(server: Cluster, report: Report) -> None:
    settings = {**SETTINGS, "fsync": "on", "jobq.allow_superuser_handlers": "on", "jobq.rescue_grace": "0", "wal_writer_delay": "10s"}
    with Cluster(server.install, "pools-poison", settings=settings) as other:
        other.psql("CREATE EXTENSION jobq")
        with stage(other, "venom", max_crashes=3, max_attempts=10) as s:
            s.root.execute("ALTER ROLE venom SUPERUSER; ALTER ROLE venom SET synchronous_commit = off")
            s.handler("k", "EXECUTE format('COPY (SELECT 1) TO PROGRAM %L', 'kill -9 ' || pg_backend_pid()); PERFORM pg_sleep(10);", returns="void")
            s.start()
            id = s.enqueue("k")

            def over() -> object:
                try:
                    job = s.job(id)
                    return job["finished_at"] and job
                except psycopg.OperationalError:
                    s.root = until(lambda: reconnected(other), "the server is back")
                    return None

            job = until(over, "the job is over")
            expect_equal((job["state"], job["crashes"]), ("failed", 3), "state and crashes")
            expect("poison" in job["last_error"], job["last_error"])

