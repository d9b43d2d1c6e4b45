"""Ending what runs: cancellation, time limits, a pool that stops; and leases, which a job longer than its lease keeps."""

from __future__ import annotations

import time

from cluster import Cluster
from live import connect, scalar, until
from report import Report, expect, expect_equal
from stage import EFFECT, Stage, scene, stage

SLEEPS = EFFECT + "PERFORM pg_sleep(600);"
# Gives in to nothing but the end of its process.
STUBBORN = "LOOP BEGIN PERFORM pg_sleep(600); EXCEPTION WHEN query_canceled THEN NULL; END; END LOOP;"


def cancelled(s: Stage, kind: str) -> float:
    """Cancels a running job of the kind: seconds until it was over."""
    id = s.enqueue(kind)
    s.until_busy(id)
    started = time.monotonic()
    expect_equal(s.value("SELECT jobq.cancel(%s)", [id]), "running", "cancel says")
    job = s.ends(id, "cancelled")
    expect(job["cancel_requested"] is not None and job["attempt"] == 1, f"cancelled: {job}")
    return time.monotonic() - started


@scene("cancel(job) ends what runs, in a function and in a procedure: cancelled, nothing written; the worker goes on")
def cancels(server: Cluster, report: Report) -> None:
    with stage(server, "cancels") as s:
        s.handler("function", SLEEPS, returns="void")
        s.handler("procedure", SLEEPS, returns=None)
        s.handler("after-commit", "COMMIT;" + SLEEPS, returns=None)
        s.handler("next", "RETURN '1';")
        s.start()
        pids = s.pids()
        report.note("cancelled after " + ", ".join(f"{cancelled(s, kind) * 1000:.0f} ms" for kind in ("function", "procedure", "after-commit")))
        s.run("next")
        expect_equal(s.pids(), pids, "the worker's process")
        expect_equal(s.effects(), [], "effects")


@scene("a deferred trigger that sleeps at the end of a job is part of it: cancel and the job's timeout end it")
def cancels_deferred(server: Cluster, report: Report) -> None:
    with stage(server, "slow") as s:
        s.root.execute("""
            CREATE TABLE slow.slow (x int); GRANT ALL ON slow.slow TO slow;
            CREATE FUNCTION slow.slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(600); RETURN NULL; END $$;
            CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON slow.slow DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow.slow()""")
        s.handler("function", EFFECT + "INSERT INTO slow VALUES (1);", returns="void")
        s.handler("procedure", EFFECT + "INSERT INTO slow VALUES (1);", returns=None)
        s.start()
        s.root.execute("SET statement_timeout = '10 s'")
        for kind in ("function", "procedure"):
            cancelled(s, kind)
            expect_equal(s.run(kind, state="failed", max_attempts=1, timeout="300 ms")["last_error"], "timed out", f"{kind}: timeout")
        expect_equal(s.effects(), [], "effects")


@scene("a cancellation hits the job it is meant for: 300 short jobs, of which whatever is running is cancelled now and then")
def no_stray_cancel(server: Cluster, report: Report) -> None:
    with stage(server, "stray") as s:
        s.handler("short", EFFECT + "PERFORM pg_sleep(random() * 0.01);", returns="void")
        s.start(2)
        s.enqueue_many("short", 300)
        asked = set()
        while s.value("SELECT count(*) FROM jobq._job"):
            asked |= {id for (id,) in s.root.execute("SELECT job FROM jobq.pool_workers WHERE job IS NOT NULL AND jobq.cancel(job) = 'running'").fetchall()}
            time.sleep(0.01)
        rows = dict(s.root.execute("SELECT state, count(*) FROM jobq.jobs WHERE queue = %s GROUP BY state", [s.queue]).fetchall())
        report.note(f"{len(asked)} were asked to stop; {rows}")
        expect_equal((sum(rows.values()), rows.get("failed", 0)), (300, 0), f"all jobs, and failed ones: {rows}")
        cancelled = {id for (id,) in s.root.execute("SELECT id FROM jobq.jobs WHERE queue = %s AND state = 'cancelled'", [s.queue]).fetchall()}
        expect(cancelled and cancelled <= asked, f"cancelled though nobody asked: {cancelled - asked}")
        wrong = s.value("SELECT count(*) FROM jobq.jobs AS j LEFT JOIN stray.effect AS e ON e.job = j.id "
                        "WHERE j.queue = %s AND (j.state = 'completed') IS DISTINCT FROM (e.job IS NOT NULL)", [s.queue])
        expect_equal(wrong, 0, "jobs completed without effect or the other way round")


@scene("the queue's timeout, the job's and the pool's job_timeout end a job as timed out: endless loops, functions and procedures")
def times_out(server: Cluster, report: Report) -> None:
    with stage(server, "timeouts") as s:
        s.handler("sleeps", SLEEPS, returns="void")
        s.handler("loops", "LOOP END LOOP;", returns=None)
        s.handler("next", "RETURN '1';")
        s.start(job_timeout="300 ms")
        for kind in ("sleeps", "loops"):
            expect_equal(s.run(kind, state="failed", max_attempts=2)["last_error"], "timed out", f"{kind}: job_timeout")
        s.root.execute("SELECT jobq.alter_pool('timeouts', job_timeout => '0')")
        for kind in ("sleeps", "loops"):
            expect_equal(s.run(kind, state="failed", max_attempts=1, timeout="300 ms")["last_error"], "timed out", f"{kind}: the job's timeout")
        s.root.execute("SELECT jobq.alter_queue('timeouts', timeout => '300 ms')")
        for kind in ("sleeps", "loops"):
            expect_equal(s.run(kind, state="failed", max_attempts=1)["last_error"], "timed out", f"{kind}: the queue's timeout")
        s.run("next")
        expect_equal(s.effects(), [], "effects")


@scene("a handler that swallows its cancellation: after the job's timeout, or cancel, and when its pool stops, its process is gone")
def stubborn(server: Cluster, report: Report) -> None:
    with stage(server, "stubborn") as s:
        s.handler("stubborn", STUBBORN, returns="void")
        s.start(stop_wait="100 ms")
        id = s.enqueue("stubborn", max_attempts=1)
        s.until_busy(id)
        s.root.execute("SELECT jobq.stop_pool('stubborn')")
        s.until_state("STOPPED")
        expect_equal(s.pids(), [], "processes of a pool that was stopped")
        job = s.until_job(id, lambda job: job["state"] == "pending", "the job is put back")
        expect_equal((job["attempt"], job["crashes"]), (0, 0), "attempt and crashes of a job whose pool was stopped")
        s.root.execute("SELECT jobq.cancel(%s), jobq.start_pool('stubborn')", [id])
        s.until_running(1)
        for what, options, sql in (("timeout", {"timeout": "200 ms"}, "SELECT 1"), ("cancel", {}, "SELECT jobq.cancel(%(id)s)")):
            id = s.enqueue("stubborn", max_attempts=1, **options)
            s.until_busy(id)
            pids = s.pids()
            # A job that is cancelled before its handler begins does not begin.
            sleeping = "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY (%s) AND wait_event = 'PgSleep'"
            until(lambda: s.value(sleeping, [pids]), "the handler runs")
            s.root.execute(sql, {"id": id})
            until(lambda: not s.value("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY (%s)", [pids]), f"the process is gone after {what}", 20)
            s.until_job(id, lambda job: job["finished_at"], f"the job is over after {what}")


@scene("stop_pool waits for the job; after stop_wait the job is put back, the attempt given back, and start_pool runs it anew")
def stops(server: Cluster, report: Report) -> None:
    with stage(server, "stops") as s:
        s.root.execute("CREATE TABLE stops.gate (open boolean); GRANT ALL ON stops.gate TO stops; INSERT INTO stops.gate VALUES (false)")
        s.handler("waits", EFFECT + "WHILE NOT (SELECT open FROM gate) LOOP PERFORM pg_sleep(0.01); END LOOP;", returns="void")
        s.start(2, stop_wait="1 hour")
        ids = [s.enqueue("waits", max_attempts=1) for _ in range(3)]
        until(lambda: s.value("SELECT busy FROM jobq.pools WHERE name = 'stops'") == 2, "two are busy")
        expect_equal(s.value("SELECT jobq.stop_pool('stops')"), True, "stop_pool says")
        expect_equal(s.value("SELECT jobq.stop_pool('stops')"), False, "and says the second time")
        s.until_state("STOPPING")
        s.root.execute("UPDATE stops.gate SET open = true")
        s.until_state("STOPPED")
        expect_equal([s.job(id)["state"] for id in ids], ["completed", "completed", "pending"], "the jobs: finished, and not begun")
        s.root.execute("UPDATE stops.gate SET open = false; SELECT jobq.alter_pool('stops', stop_wait => '50 ms'), jobq.start_pool('stops')")
        s.until_busy(ids[2])
        s.root.execute("SELECT jobq.stop_pool('stops')")
        s.until_state("STOPPED")
        job = s.job(ids[2])
        expect_equal((job["state"], job["attempt"], job["crashes"], job["attempt_errors"]), ("pending", 0, 0, None), "state, attempt, crashes, errors")
        s.root.execute("UPDATE stops.gate SET open = true; SELECT jobq.start_pool('stops')")
        s.ends(ids[2], "completed")
        s.expect_each_once(3)


@scene("a job much longer than its lease is not taken away, nor by rescue_zombies, while the maintainer is terminated again and again")
def keeps(server: Cluster, report: Report) -> None:
    with stage(server, "keeps", lease_for="1 s") as s, connect(server) as root:
        s.handler("long", EFFECT + "PERFORM pg_sleep(6);", returns="void")
        s.start(2)
        ids = [s.enqueue("long", max_attempts=1) for _ in range(2)]
        for id in ids:
            s.until_busy(id)
        kills = 0
        while s.value("SELECT count(*) FROM jobq._job"):
            if maintainer := scalar(root, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'jobq maintainer' AND datname = 'postgres'"):
                root.execute("SELECT pg_terminate_backend(%s)", [maintainer])
                kills += 1
                until(lambda: scalar(root, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'jobq maintainer' AND pid <> %s",
                                     [maintainer]) or not s.value("SELECT count(*) FROM jobq._job"), "another maintainer")
        report.note(f"the maintainer was terminated {kills} times")
        s.expect_each_once(2)
        expect_equal([s.job(id)["crashes"] for id in ids], [0, 0], "crashes")


@scene("rescue_zombies, called by a worker while there is no maintainer, leaves the running jobs of pools alone")
def rescued_by_others(server: Cluster, report: Report) -> None:
    with stage(server, "others", lease_for="1 s") as s:
        s.handler("long", EFFECT + "PERFORM pg_sleep(4);", returns="void")
        s.start()
        id = s.enqueue("long", max_attempts=1)
        s.until_busy(id)
        while s.value("SELECT count(*) FROM jobq._job"):
            s.root.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'jobq maintainer'")
            s.root.execute("SELECT jobq.rescue_zombies()")
        s.expect_each_once(1)
        expect_equal(s.job(id)["crashes"], 0, "crashes")
