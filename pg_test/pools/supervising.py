"""The life of a pool's workers: states and reasons, what operators do while jobs run, what the server's end and start leave of it."""

from __future__ import annotations

import time

from cluster import Cluster
from live import connect, scalar, sqlstate, until
from report import Report, expect, expect_equal
from stage import EFFECT, SETTINGS, Stage, scene, stage

SHORT = EFFECT + "PERFORM pg_sleep(0.005);"


@scene("STARTING until start_seconds are over, then RUNNING; a job is run in both; the views tell process, job, counts and options")
def starts(server: Cluster, report: Report) -> None:
    with stage(server, "starts") as s:
        s.handler("k", "IF (job).payload ? 'fail' THEN PERFORM 1 / 0; END IF; RETURN '1';")
        s.handler("sleeps", "PERFORM pg_sleep(600);", returns="void")
        s.start(autostart=False, size=2, start_seconds=2, max_runtime="1 hour", max_memory_bytes=1 << 30)
        expect_equal(s.until_state("STOPPED"), None, "a pool without autostart")
        expect_equal((s.value("SELECT jobq.start_pool('starts')"), s.value("SELECT jobq.start_pool('starts')")), (True, False), "start_pool, twice")
        s.until_state("STARTING")
        s.run("k")
        s.until_running(2)
        s.run("k", {"fail": 1}, state="failed", max_attempts=1)
        id = s.enqueue("sleeps")
        s.until_busy(id)
        row = s.root.execute("SELECT state, size, running, busy, completed, failed, reason, start_seconds, max_runtime_seconds, max_memory_bytes, "
                             "job_timeout_seconds, stop_wait_seconds, autostart, restart FROM jobq.pools WHERE name = 'starts'").fetchone()
        expect_equal(row, ("RUNNING", 2, 2, 1, 1, 1, None, 2.0, 3600.0, 1 << 30, None, 10.0, False, "unexpected"), "jobq.pools")
        worker = s.root.execute("SELECT w.state, w.job::text, w.job_seconds >= 0, w.uptime_seconds > w.job_seconds, w.memory_bytes > 100000, "
                                "a.usename, a.state, a.query FROM jobq.pool_workers AS w JOIN pg_stat_activity AS a USING (pid) WHERE job IS NOT NULL").fetchone()
        expect_equal(worker, ("RUNNING", id, True, True, True, "starts", "active", f"jobq: sleeps {id}"), "jobq.pool_workers and pg_stat_activity")
        s.root.execute("SELECT jobq.alter_pool('starts', stop_wait => '0')")


@scene("a role without LOGIN: BACKOFF, then FATAL, with the reason; start_pool revives it; a pool whose queue is gone does not flood the log")
def fatal(server: Cluster, report: Report) -> None:
    with stage(server, "fatal") as s:
        s.handler("k", "RETURN '1';")
        s.start(start_retries=1)
        s.root.execute("ALTER ROLE fatal NOLOGIN; SELECT jobq.restart_pool('fatal')")
        expect("may not log in" in str(s.until_state("BACKOFF")), "the reason while BACKOFF")
        expect("may not log in" in str(s.until_state("FATAL")), "the reason of FATAL")
        id = s.enqueue("k")
        s.root.execute("ALTER ROLE fatal LOGIN")
        expect_equal(s.job(id)["state"], "pending", "the job of a pool that is FATAL")
        s.root.execute("SELECT jobq.start_pool('fatal')")
        s.ends(id, "completed")
        s.until_running(1)
        expect_equal(s.value("SELECT reason FROM jobq.pools"), None, "the reason when it runs")
        s.root.execute("SELECT jobq.create_queue('gone'), jobq.alter_pool('fatal', restart => 'always', queue => 'gone'), jobq.drop_queue('gone')")
        before = len(server.log_text())
        until(lambda: "no queue gone" in server.log_text()[before:], "the log tells")
        expect_equal(s.value("SELECT pg_sleep(3)::text"), "", "three seconds of it")
        lines = [line for line in server.log_text()[before:].splitlines() if "jobq" in line]
        expect(len(lines) < 10, f"{len(lines)} lines: {lines[-5:]}")
        s.root.execute("SELECT jobq.alter_pool('fatal', queue => 'fatal'), jobq.restart_pool('fatal')")
        s.run("k")


@scene("a worker that is terminated: restart 'unexpected' and 'always' bring it back, 'never' leaves it STOPPED with a reason until start_pool")
def restarts(server: Cluster, report: Report) -> None:
    with stage(server, "restarts") as s:
        s.handler("k", "RETURN '1';")
        s.start(2)
        for restart in ("unexpected", "always", "never"):
            s.root.execute("SELECT jobq.alter_pool('restarts', restart => %s)", [restart])
            s.until_running(2)
            [first, second] = until(lambda: two if len(two := s.pids()) == 2 else None, "two processes")
            s.root.execute("SELECT pg_terminate_backend(%s)", [first])
            if restart == "never":
                until(lambda: s.root.execute("SELECT state, reason LIKE 'it ended%%' FROM jobq.pool_workers ORDER BY number").fetchall()
                      == [("STOPPED", True), ("RUNNING", None)], "one is down, with a reason")
                s.root.execute("SELECT jobq.start_pool('restarts')")
            until(lambda: len(s.pids()) == 2 and first not in s.pids() and second in s.pids(), f"another worker, {restart}")
            s.until_running(2)
        s.run("k")


@scene("under load: resize up and down, restart_pool, alter_pool, stop and start: no job lost, none done twice; restart_pool replaces every process")
def operates(server: Cluster, report: Report) -> None:
    with stage(server, "operates") as s:
        s.handler("k", SHORT, returns="void")
        s.start(2)
        number = 600
        s.enqueue_many("k", number)
        for step in ("resize_pool('operates', 5)", "resize_pool('operates', 1)", "restart_pool('operates')", "resize_pool('operates', 3)",
                     "alter_pool('operates', job_timeout => '1 hour', max_runtime => '1 s')", "stop_pool('operates')", "start_pool('operates')",
                     "alter_pool('operates', max_runtime => '0')", "resize_pool('operates', 0)", "resize_pool('operates', 4)"):
            pids = s.pids()
            expect_equal(s.value(f"SELECT jobq.{step}"), True, step)
            if step.startswith("restart"):
                until(lambda: s.pids() and not set(pids) & set(s.pids()), "every process is another one")
            done = s.value("SELECT count(*) FROM operates.effect")
            until(lambda: s.value("SELECT count(*) FROM operates.effect") > done or not s.value("SELECT count(*) FROM jobq._job")
                  or s.value("SELECT state = 'STOPPED' FROM jobq.pools"), f"jobs go on after {step}")
        s.until_all_over()
        s.expect_each_once(number)
        s.until_running(4)
        expect_equal(s.value("SELECT count(*) FROM jobq.jobs WHERE queue = 'operates' AND attempt <> 1 OR crashes <> 0"), 0, "jobs begun twice")
        s.root.execute("SELECT jobq.resize_pool('operates', 0)")
        until(lambda: not s.pids(), "a pool of size 0 has no process")


@scene("drop_pool while its workers are busy: they finish; the jobs not begun stay, and another pool of that name takes them")
def drops(server: Cluster, report: Report) -> None:
    with stage(server, "drops") as s:
        s.handler("k", EFFECT + "PERFORM pg_sleep(0.3);", returns="void")
        s.start(2)
        ids = [s.enqueue("k") for _ in range(6)]
        until(lambda: s.value("SELECT busy FROM jobq.pools") == 2, "both are busy")
        pids = s.pids()
        s.root.execute("SELECT jobq.drop_pool('drops')")
        until(lambda: not s.value("SELECT count(*) FROM pg_stat_activity WHERE pid = ANY (%s)", [pids]), "the workers are gone")
        expect_equal(s.value("SELECT count(*) FROM jobq.pool_workers"), 0, "workers shown")
        expect(s.value("SELECT count(*) FROM jobq.jobs WHERE queue = 'drops' AND state = 'pending'") >= 2, "jobs are left")
        s.start(3)
        for id in ids:
            s.ends(id, "completed")
        s.expect_each_once(6)


@scene("handlers that come and go while workers sleep, or while they are busy, are noticed: jobs of a dropped one wait and do not fail")
def handlers(server: Cluster, report: Report) -> None:
    with stage(server, "handlers") as s:
        s.start(2)
        early = s.enqueue("early")
        started = time.monotonic()
        s.handler("early", "RETURN '1';")
        s.ends(early, "completed")
        report.note(f"a handler's first job was over {(time.monotonic() - started) * 1000:.0f} ms after it was created")
        s.root.execute("SELECT jobq.drop_handler('early')")
        id = s.enqueue("early")
        s.handler("late", "RETURN '1';")
        s.run("late")
        expect_equal(s.job(id)["state"], "pending", "the job of a kind without handler")
        s.handler("busy", SHORT, returns="void")
        s.enqueue_many("busy", 400)
        until(lambda: s.value("SELECT count(*) > 10 FROM handlers.effect"), "they are at it")
        s.root.execute("SELECT jobq.drop_handler('busy')")
        until(lambda: not s.value("SELECT busy FROM jobq.pools"), "nobody is busy")
        rows = dict(s.root.execute("SELECT state || attempt, count(*) FROM jobq.jobs WHERE kind = 'busy' GROUP BY 1").fetchall())
        expect(set(rows) == {"completed1", "pending0"}, f"jobs of the kind whose handler was dropped: {rows}")
        s.register("busy", 'handlers."busy"(jobq.claimed_job)')
        s.root.execute("SELECT jobq.create_queue('handlers-2')")
        until(lambda: s.value("SELECT busy FROM jobq.pools") == 2, "they are at it again")
        s.root.execute("SELECT jobq.alter_pool('handlers', queue => 'handlers-2')")
        until(lambda: not s.value("SELECT busy FROM jobq.pools"), "nobody is busy with the queue that was the pool's")
        expect(s.value("SELECT count(*) FROM jobq.jobs WHERE kind = 'busy' AND state = 'pending'"), "jobs are left in it")


@scene("max_runtime and max_memory_bytes replace a worker between two jobs, never in one; nothing is lost, and it is no failure")
def recycles(server: Cluster, report: Report) -> None:
    with stage(server, "recycles") as s:
        s.handler("k", SHORT, returns="void")
        # A session keeps the functions that it has called.
        s.root.execute("DO $do$ BEGIN EXECUTE format('CREATE FUNCTION recycles.big() RETURNS int LANGUAGE plpgsql AS %L', "
                       "format('BEGIN RETURN length(%L); END', repeat('x', 40000000))); END $do$")
        s.handler("eats", EFFECT + "PERFORM big();", returns="void")
        s.start(2, max_runtime="1 s", start_seconds=0)
        pids = set(s.pids())
        number = 0
        while len(pids) < 6:
            s.enqueue_many("k", 100)
            number += 100
            until(lambda: pids.update(s.pids()) or not s.value("SELECT count(*) FROM jobq._job"), "all are over")
        report.note(f"{len(pids)} processes for {number} jobs")
        s.root.execute("SELECT jobq.alter_pool('recycles', max_runtime => '0', max_memory_bytes => 16777216)")
        s.until_running(2)
        pids = set(s.pids())
        for eater in range(4):
            s.run("eats")
            until(lambda: len(s.pids()) == 2 and len(set(s.pids()) - pids) > 0, f"process {eater} was replaced")
            pids |= set(s.pids())
        s.run("k")
        s.expect_each_once(number + 5)
        expect_equal(s.value("SELECT count(*) FROM jobq.jobs WHERE queue = 'recycles' AND crashes + attempt <> 1"), 0, "jobs that were disturbed")


@scene("out of background worker slots: BACKOFF, a reason that names max_worker_processes, few lines in the log; it recovers when one is free")
def out_of_slots(server: Cluster, report: Report) -> None:
    with Cluster(server.install, "slots", settings={**SETTINGS, "max_worker_processes": "5"}) as small:
        small.psql("CREATE EXTENSION jobq")
        with stage(small, "slots") as s:
            s.handler("k", "RETURN '1';")
            s.start(8, autostart=False)
            s.root.execute("SELECT jobq.start_pool('slots')")
            expect("max_worker_processes" in str(s.until_state("BACKOFF")), "the reason")
            s.run("k")
            until(lambda: s.value("SELECT max(extract(epoch FROM clock_timestamp() - since)) > 1 FROM jobq.pool_workers WHERE state = 'BACKOFF'"), "some tries")
            lines = [line for line in small.log_text().splitlines() if "max_worker_processes" in line]
            expect(1 <= len(lines) <= 2, f"{len(lines)} lines in the log: {lines[:3]}")
            running = s.value("SELECT running FROM jobq.pools")
            waiting = s.value("SELECT number FROM jobq.pool_workers WHERE state = 'BACKOFF' ORDER BY number LIMIT 1")
            expect(waiting and running, f"{running} run, number {waiting} waits")
            s.root.execute("SELECT jobq.resize_pool('slots', %s)", [running])
            s.until_running(running)
            expect_equal(s.until_state("RUNNING"), None, "the reason when all run")
            # Somebody else's pool gives a slot back.
            s.root.execute("SELECT jobq.create_pool('second', 'slots', run_as => 'slots', start_seconds => 0)")
            until(lambda: s.value("SELECT state = 'BACKOFF' FROM jobq.pools WHERE name = 'second'"), "the second pool waits")
            s.root.execute("SELECT jobq.resize_pool('slots', %s)", [running - 1])
            until(lambda: s.value("SELECT state = 'RUNNING' FROM jobq.pools WHERE name = 'second'"), "the second pool runs")


@scene("over a restart of the server: autostart starts, stop_pool lasts, start_pool without autostart does not; jobs that ran are no crashes, fast shutdown is prompt")
def server_restart(server: Cluster, report: Report) -> None:
    with Cluster(server.install, "pools-restart", settings=SETTINGS) as other:
        other.psql("CREATE EXTENSION jobq")
        with stage(other, "over") as s:
            s.handler("sleeps", EFFECT + "IF (job).payload ? 'long' THEN PERFORM pg_sleep(600); END IF;", returns="void")
            s.start(2)
            s.root.execute("SELECT jobq.create_pool('stopped', 'over', run_as => 'over'), jobq.stop_pool('stopped'),"
                           "jobq.create_pool('by-hand', 'over', run_as => 'over', autostart => false), jobq.start_pool('by-hand')")
            until(lambda: s.value("SELECT count(*) FROM jobq.pool_workers WHERE pid IS NOT NULL") == 3, "three run")
            id = s.enqueue("sleeps", {"long": 1}, max_attempts=2)
            s.until_busy(id)
            started = time.monotonic()
            other.stop()
            report.note(f"fast shutdown with a busy worker and two idle ones: {time.monotonic() - started:.1f} s")
            other.start()
            s.root = connect(other)
            s.until_running(2)
            job = s.until_busy(id)
            expect_equal((job["crashes"], job["attempt"]), (0, 1), "crashes and attempt of the job that ran: a shutdown is nobody's fault")
            states = s.root.execute("SELECT name, state FROM jobq.pools ORDER BY name").fetchall()
            expect_equal(states, [("by-hand", "STOPPED"), ("over", "RUNNING"), ("stopped", "STOPPED")], "pools after the restart")
            s.value("SELECT jobq.cancel(%s)", [id])
            s.ends(id, "cancelled")
            expect_equal(s.value("SELECT jobq.start_pool('stopped')"), True, "start_pool")


@scene("jobq.enabled off stops pools, the job that runs is finished; on starts them again")
def enabled(server: Cluster, report: Report) -> None:
    with stage(server, "enabled") as s:
        s.handler("k", EFFECT + "PERFORM pg_sleep(1);", returns="void")
        s.start(2)
        first = s.enqueue("k")
        s.until_busy(first)
        second = s.enqueue("k", delay="1 s")
        try:
            server.configure({"jobq.enabled": "off"})
            server.reload()
            until(lambda: not scalar(s.root, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'jobq pool worker'"), "all are gone")
            expect_equal((s.job(first)["state"], s.job(second)["state"]), ("completed", "pending"), "the job that ran, and the next one")
        finally:
            server.configure({"jobq.enabled": "on"})
            server.reload()
        s.ends(second, "completed")
        s.until_running(2)


@scene("DROP EXTENSION CASCADE and DROP DATABASE while pools run: workers leave, idle ones at once, busy ones after their job; no flood in the log")
def dropped(server: Cluster, report: Report) -> None:
    server.psql("CREATE DATABASE dropped")
    server.psql("CREATE EXTENSION jobq", "dropped")
    s = Stage(server, "dropped", "dropped")
    try:
        s.set_up()
        s.handler("k", "PERFORM pg_sleep(1);", returns="void")
        s.start(3)
        s.until_busy(s.enqueue("k"))
        before = len(server.log_text())
        s.root.execute("DROP EXTENSION jobq CASCADE")
        workers = "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'jobq%' AND datname = 'dropped'"
        until(lambda: not s.value(workers), "all processes are gone")
        lines = [line for line in server.log_text()[before:].splitlines() if "LOG:" in line or "ERROR:" in line]
        report.note(f"{len(lines)} lines in the log after DROP EXTENSION under a job")
        expect(len(lines) < 20, f"the log: {lines[:5]}")
        s.root.execute("CREATE EXTENSION jobq; SELECT jobq.create_queue('dropped')")
        s.root.execute("CREATE FUNCTION dropped.k(job jobq.claimed_job) RETURNS void LANGUAGE sql AS ''")
        s.register("k", "dropped.k(jobq.claimed_job)")
        s.start(3)
        s.run("k")
        s.root.close()
        started = time.monotonic()
        server.psql("DROP DATABASE dropped")
        report.note(f"DROP DATABASE with three idle workers: {time.monotonic() - started:.1f} s")
        with connect(server) as root:
            until(lambda: not scalar(root, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'jobq pool worker'"), "no worker is left")
    finally:
        s.root.close()
        server.psql("DROP DATABASE IF EXISTS dropped WITH (FORCE)")
        server.psql("DROP ROLE dropped")


@scene("pg_dump and restore keep handlers and pools; in the restored copy nothing runs before resume_after_restore")
def restored(server: Cluster, report: Report) -> None:
    with stage(server, "dumped") as s:
        s.handler("k", EFFECT, returns="void")
        s.start(2, restart="always", stop_wait="3 s", job_timeout="1 hour")
        s.run("k")
        s.enqueue("k", delay="1 hour")
        dump = server.folder / "pools.sql"
        server.program("pg_dump", "-d", "postgres", "-f", dump)
        server.psql("CREATE DATABASE copy")
        copy = Stage(server, "dumped", "copy")
        try:
            server.program("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", "copy", "-f", dump)
            for view in ("SELECT kind, function, run_as, created_by, problem FROM jobq.handlers",
                         "SELECT name, queue, run_as, size, autostart, restart, start_seconds, stop_wait_seconds, job_timeout_seconds FROM jobq.pools"):
                expect_equal(copy.root.execute(view).fetchall(), s.root.execute(view).fetchall(), view)
            id = copy.enqueue("k")
            ticked = "SELECT detail FROM jobq.diagnose() WHERE check_name ~ 'background|maintainer'"
            until(lambda: "restore" in str(copy.root.execute("SELECT detail, hint FROM jobq.diagnose()").fetchall()), f"it is known as a copy: {copy.value(ticked)}")
            expect_equal((copy.pids(), copy.job(id)["state"]), ([], "pending"), "workers and job of the copy")
            copy.root.execute("SELECT jobq.resume_after_restore()")
            copy.ends(id, "completed")
            copy.until_running(2)
            expect_equal(sqlstate(copy.root, "SELECT jobq.create_pool('another', 'dumped', run_as => 'dumped')"), "ok", "the next pool's number")
        finally:
            copy.root.close()
            server.psql("DROP DATABASE copy WITH (FORCE)")
