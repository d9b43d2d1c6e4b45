"""Leases in shared memory: heartbeats write nothing and are believed; jobs bound to a session are free when it ends."""

from __future__ import annotations

import time
from typing import Any

from cluster import Cluster
from live import Background, Connection, connect, scalar, sqlstate, until
from report import Report, expect, expect_equal
from scenes import ENQUEUE_MANY, queue_that_is_known, scene


def claim(session: Connection, queue: str, batch: int = 1, **options: Any) -> list[tuple[str, int]]:
    named = "".join(f", {name} => %({name})s" for name in options)
    rows = session.execute(f"SELECT id, lease FROM jobq.claim(%(queue)s, %(batch)s{named})", {"queue": queue, "batch": batch, **options})
    return rows.fetchall()


def known(session: Connection, queue: str) -> None:
    """A new queue, with no jobs and leases anywhere else."""
    session.execute("DELETE FROM jobq._job")
    session.execute("SELECT jobq.tick()")
    queue_that_is_known(session, queue)


def writes(session: Connection) -> tuple[Any, ...]:
    session.execute("SELECT pg_stat_force_next_flush()")
    return session.execute("SELECT pg_current_wal_insert_lsn()::text, n_tup_upd, n_dead_tup FROM pg_stat_all_tables "
                           "WHERE relid = 'jobq._job'::regclass").fetchone() or ()


@scene("heartbeats of 20 jobs, again and again: no byte of WAL, no row version; progress shows in the views and stays in the history")
def nothing_written(server: Cluster, report: Report) -> None:
    with connect(server) as root, connect(server) as worker:
        known(root, "beats")
        root.execute("SELECT jobq.alter_queue('beats', keep_completed => true)")
        root.execute(ENQUEUE_MANY, [20, "beats"])
        held = claim(worker, "beats", 20)
        ids, leases = [id for id, _ in held], [lease for _, lease in held]
        beat = "SELECT count(*) FILTER (WHERE held) FROM jobq.heartbeat_many(%s::uuid[], %s::bigint[])"
        expect_equal(scalar(worker, beat, [ids, leases]), 20, "held at the first heartbeat")

        def quiet() -> bool:
            before = writes(root)
            for n in range(20):
                expect_equal(scalar(worker, beat, [ids, leases]), 20, "held")
                expect_equal(scalar(worker, "SELECT jobq.heartbeat(%s, %s, progress => %s)", [ids[0], leases[0], 2 * n]), True, "go on")
            return writes(root) == before

        # Others write, too, now and then; if heartbeats did, it would be each time.
        until(quiet, "420 heartbeats with the same WAL position, updates and dead rows before and after")
        expect_equal(scalar(root, "SELECT progress FROM jobq.job(%s)", [ids[0]]), 38, "progress of the running job")
        expect_equal(scalar(root, "SELECT progress FROM jobq.running_jobs WHERE id = %s", [ids[0]]), 38, "progress in running_jobs")
        worker.execute("SELECT jobq.complete(%s, %s)", [ids[0], leases[0]])
        expect_equal(scalar(root, "SELECT progress FROM jobq.job(%s)", [ids[0]]), 38, "progress of the completed job")
        root.execute("SELECT jobq.drop_queue('beats', true)")


@scene("a lease of one second, kept by heartbeats for four: not rescued, not by older_than either; without them it is, and then refused")
def kept(server: Cluster, report: Report) -> None:
    with connect(server) as root, connect(server) as worker:
        known(root, "kept")
        root.execute(ENQUEUE_MANY, [2, "kept"])
        (kept_id, kept_lease), (lost_id, lost_lease) = claim(worker, "kept", 2, lease_for="1 s")
        worker.execute("SELECT jobq.heartbeat(%s, %s)", [lost_id, lost_lease])
        end = time.monotonic() + 4
        while time.monotonic() < end:
            expect_equal(scalar(worker, "SELECT jobq.heartbeat(%s, %s)", [kept_id, kept_lease]), True, "go on")
            expect(scalar(root, "SELECT lease_expires_at > clock_timestamp() AND last_seen_at > clock_timestamp() - interval '5 s' "
                                "FROM jobq.running_jobs WHERE id = %s", [kept_id]), "running_jobs shows that the lease is kept")
            root.execute("SELECT jobq.rescue_zombies('900 ms') FROM pg_sleep(0.05)")
        expect_equal(scalar(root, "SELECT state FROM jobq.job(%s)", [kept_id]), "running", "the job that was kept")
        until(lambda: scalar(root, "SELECT crashes FROM jobq.job(%s)", [lost_id]) == 1, "the job without heartbeats was rescued")
        expect_equal(sqlstate(worker, "SELECT jobq.heartbeat(%s, %s)", [lost_id, lost_lease]), "JQ001", "its late heartbeat")
        expect_equal(sqlstate(worker, "SELECT jobq.complete(%s, %s)", [kept_id, kept_lease]), "ok", "completing the other one")
        root.execute("SELECT jobq.drop_queue('kept', true)")


@scene("a heartbeat during a rescue waits for it, and is refused if it commits, granted if it does not")
def during_rescue(server: Cluster, report: Report) -> None:
    with connect(server) as root, connect(server) as worker, connect(server) as rescuer, Background() as background:
        for ending, state in (("ROLLBACK", "ok"), ("COMMIT", "JQ001")):
            known(root, "during")
            root.execute(ENQUEUE_MANY, [1, "during"])
            [(id, lease)] = claim(worker, "during")
            worker.execute("SELECT jobq.heartbeat(%s, %s)", [id, lease])
            until(lambda id=id: scalar(root, "SELECT last_seen_at < clock_timestamp() - interval '2 ms' FROM jobq.running_jobs "
                                             "WHERE id = %s", [id]), "the last sign of life is 2 ms old")
            rescuer.execute("BEGIN")
            expect_equal(scalar(rescuer, "SELECT jobq.rescue_zombies('1 ms')"), 1, "rescued")
            answer = background.run(sqlstate, worker, "SELECT jobq.heartbeat(%s, %s)", [id, lease])
            until(lambda: scalar(root, "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'",
                                 [worker.info.backend_pid]), "the heartbeat waits")
            rescuer.execute(ending)
            expect_equal(answer.result(60), state, f"the heartbeat after {ending}")
            root.execute("SELECT jobq.drop_queue('during', true)")


@scene("cancellation is heard by heartbeats that write nothing, by one session and by another; a lease made longer is in the row")
def cancelled(server: Cluster, report: Report) -> None:
    with connect(server) as root, connect(server) as worker, connect(server) as other:
        known(root, "cancels")
        root.execute(ENQUEUE_MANY, [2, "cancels"])
        (one, its), (two, lease) = claim(worker, "cancels", 2)
        for session in (worker, other):
            for id, of in ((one, its), (two, lease)):
                expect_equal(scalar(session, "SELECT jobq.heartbeat(%s, %s)", [id, of]), True, "before anything is cancelled")
        root.execute("BEGIN")
        root.execute("SELECT jobq.cancel(%s)", [one])
        expect_equal(scalar(worker, "SELECT jobq.heartbeat(%s, %s)", [one, its]), True, "before the cancellation is committed")
        root.execute("COMMIT")
        for session in (worker, other, worker):
            expect_equal(scalar(session, "SELECT jobq.heartbeat(%s, %s)", [one, its]), False, "after it")
            expect_equal(scalar(session, "SELECT jobq.heartbeat(%s, %s)", [two, lease]), True, "the job that was not cancelled")
        worker.execute("SELECT jobq.heartbeat(%s, %s, '1 day')", [two, lease])
        expect(scalar(root, "SELECT lease_expires_at > clock_timestamp() + interval '23 hours' FROM jobq._job WHERE id = %s", [two]),
               "the row says that the lease is a day long")
        root.execute("SELECT jobq.drop_queue('cancels', true)")


@scene("bound to a session: free at once when the connection is closed, killed, or dies in a transaction; not when the claim is undone")
def bound(server: Cluster, report: Report) -> None:
    with connect(server) as root:
        known(root, "bound")
        took: list[float] = []
        for n in range(40):
            root.execute(ENQUEUE_MANY, [3, "bound"])
            worker = connect(server)
            worker.execute("BEGIN; SAVEPOINT s")
            claim(worker, "bound", 3, bind="session")
            worker.execute("ROLLBACK TO s; COMMIT")
            expect_equal(len(claim(worker, "bound", 3, bind="session")), 3, "claimed and bound")
            if n % 3 == 2:
                worker.execute("BEGIN; SELECT jobq.heartbeat(id, lease, note => 'locked') FROM jobq._job WHERE state = 'r'")
            start = time.monotonic()
            if n % 3 == 0:
                worker.close()
            else:
                root.execute("SELECT pg_terminate_backend(%s)", [worker.info.backend_pid])
            free: list[Any] = []
            while len(free) < 3:
                free += claim(root, "bound", 3)
                expect(time.monotonic() - start < 60, "bound jobs are not released")
            took.append((time.monotonic() - start) * 1000)
            expect_equal(scalar(root, "SELECT min(crashes) || ' ' || max(attempt) FROM jobq._job WHERE state = 'r'"), "1 2", "crashes, attempts")
            for id, lease in free:
                root.execute("SELECT jobq.complete(%s, %s)", [id, lease])
            worker.close()
        took.sort()
        report.note(f"ms until the jobs of an ended session were claimed again: median {took[20]:.1f}, p95 {took[37]:.1f}, most {took[-1]:.1f}")
        root.execute("SELECT jobq.drop_queue('bound', true)")


@scene("places run out: heartbeats go to the rows and are still right, a bound claim is refused with 53400 and takes nothing")
def full(server: Cluster, report: Report) -> None:
    with connect(server) as root, connect(server) as worker:
        known(root, "full")
        root.execute(ENQUEUE_MANY, [300, "full"])
        held = claim(worker, "full", 200)
        ids, leases = [id for id, _ in held], [lease for _, lease in held]
        for _ in range(2):
            expect_equal(scalar(worker, "SELECT count(*) FILTER (WHERE held) FROM jobq.heartbeat_many(%s::uuid[], %s::bigint[])",
                                [ids, leases]), 200, "held")
        expect_equal(sqlstate(worker, "SELECT * FROM jobq.claim('full', 100, bind => 'session')"), "53400", "a bound claim")
        expect_equal(scalar(root, "SELECT count(*) FROM jobq._job WHERE state = 'p'"), 100, "pending jobs")
        worker.execute("SELECT count(*) FROM jobq.complete_many(%s::uuid[], %s::bigint[])", [ids, leases])
        expect_equal(len(claim(worker, "full", 20, bind="session")), 20, "bound once places are free")
        root.execute("SELECT jobq.drop_queue('full', true)")


@scene("after a crash of the server: what was bound is free at once, what was kept by heartbeats has its lease's length as grace")
def after_crash(server: Cluster, report: Report) -> None:
    with connect(server) as root, connect(server) as worker:
        known(root, "crash")
        root.execute(ENQUEUE_MANY, [2, "crash"])
        [(bound_id, _)] = claim(worker, "crash", bind="session", lease_for="1 h")
        [(kept_id, kept_lease)] = claim(worker, "crash", lease_for="30 s")
        worker.execute("SELECT jobq.heartbeat(%s, %s)", [kept_id, kept_lease])
        root.execute("CHECKPOINT")
    server.stop("immediate")
    server.start()
    with connect(server) as root, connect(server) as worker:
        until(lambda: scalar(root, "SELECT crashes FROM jobq.job(%s)", [bound_id]) == 1, "the bound job is rescued")
        expect_equal(scalar(root, "SELECT state FROM jobq.job(%s)", [kept_id]), "running", "the other one")
        expect_equal(scalar(worker, "SELECT jobq.heartbeat(%s, %s)", [kept_id, kept_lease]), True, "its heartbeat")
        root.execute("SELECT jobq.drop_queue('crash', true)")


@scene("two rescuers at once: a late heartbeat between them waits for the first, and is not granted what he takes away")
def two_rescuers(server: Cluster, report: Report) -> None:
    with connect(server) as root, connect(server) as worker, connect(server) as first, connect(server) as second, Background() as background:
        known(root, "two")
        root.execute(ENQUEUE_MANY, [1, "two"])
        [(id, lease)] = claim(worker, "two")
        worker.execute("SELECT jobq.heartbeat(%s, %s)", [id, lease])
        until(lambda: scalar(root, "SELECT last_seen_at < clock_timestamp() - interval '2 ms' FROM jobq.running_jobs"), "2 ms have passed")
        first.execute("BEGIN")
        expect_equal(scalar(first, "SELECT jobq.rescue_zombies('1 ms')"), 1, "rescued by the first")
        expect_equal(scalar(second, "SELECT jobq.rescue_zombies('1 ms')"), 0, "rescued by the second")
        answer = background.run(sqlstate, worker, "SELECT jobq.heartbeat(%s, %s)", [id, lease])
        until(lambda: scalar(root, "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'",
                             [worker.info.backend_pid]), "the heartbeat waits")
        first.execute("COMMIT")
        expect_equal(answer.result(60), "JQ001", "the heartbeat")
        root.execute("SELECT jobq.drop_queue('two', true)")


@scene("more jobs rescued, completed or dropped in one transaction than can be noted: no heartbeat of theirs is granted afterwards")
def many_end(server: Cluster, report: Report) -> None:
    endings = {"rescued": "SELECT jobq.rescue_zombies('1 ms', 1000)",
               "completed": "SELECT count(*) FROM jobq._job AS j, jobq.complete(j.id, j.lease)",
               "dropped": "SELECT jobq.drop_queue('many', true)"}
    with connect(server) as root, connect(server) as worker:
        for what, ending in endings.items():
            known(root, "many")
            root.execute(ENQUEUE_MANY, [400, "many"])
            held = claim(worker, "many", 400)
            beat = [[id for id, _ in held], [lease for _, lease in held]]
            count = "SELECT count(*) FILTER (WHERE held) FROM jobq.heartbeat_many(%s::uuid[], %s::bigint[])"
            expect_equal(scalar(worker, count, beat), 400, "held")
            until(lambda: scalar(root, "SELECT max(last_seen_at) < clock_timestamp() - interval '2 ms' FROM jobq.running_jobs"), "2 ms have passed")
            root.execute(ending)
            expect_equal(scalar(worker, count, beat), 0, f"held after all were {what}")
            if what != "dropped":
                root.execute("SELECT jobq.drop_queue('many', true)")


@scene("a bound claim in an open transaction outlives the search for strays, and cannot be prepared; progress told with a note is shown")
def bound_and_open(server: Cluster, report: Report) -> None:
    with connect(server) as root, connect(server) as worker:
        known(root, "open")
        root.execute(ENQUEUE_MANY, [2, "open"])
        worker.execute("BEGIN")
        claim(worker, "open", bind="session")
        root.execute("SELECT jobq.tick()")
        worker.execute("COMMIT")
        worker.execute("BEGIN")
        claim(worker, "open", bind="session")
        expect_equal(sqlstate(worker, "PREPARE TRANSACTION 'bound'"), "0A000", "PREPARE TRANSACTION")
        [(id, lease)] = root.execute("SELECT id, lease FROM jobq._job WHERE state = 'r'").fetchall()
        worker.execute("SELECT jobq.heartbeat(%s, %s, progress => 50)", [id, lease])
        worker.execute("SELECT jobq.heartbeat(%s, %s, progress => 80, note => 'nearly')", [id, lease])
        expect_equal(scalar(root, "SELECT progress || ' ' || note FROM jobq.job(%s)", [id]), "80 nearly", "progress and note")
        worker.execute("BEGIN; SELECT jobq.heartbeat(id, lease, '1 day') FROM jobq._job WHERE state = 'r'; ROLLBACK")
        worker.close()
        until(lambda: len(claim(root, "open", 2)) + scalar(root, "SELECT count(*) FROM jobq._job WHERE state = 'r'") >= 2, "both are claimed again")
        root.execute("SELECT jobq.drop_queue('open', true)")


@scene("ten sessions bind jobs without the dispatcher, and end: every job is free again, none was bound to who did not get it")
def bound_by_index(server: Cluster, report: Report) -> None:
    with connect(server) as root:
        known(root, "index")
        root.execute(ENQUEUE_MANY, [40, "index"])
        server.configure({"jobq.dispatch": "off"})
        server.reload()
        until(lambda: scalar(root, "SELECT current_setting('jobq.dispatch')") == "off", "jobq.dispatch is off")
        workers = [connect(server) for _ in range(10)]
        with Background() as background:
            rounds = [background.run(lambda worker: [claim(worker, "index", bind="session") for _ in range(4)], worker) for worker in workers]
            for one in rounds:
                one.result(60)
        for worker in workers:
            worker.close()
        until(lambda: scalar(root, "SELECT count(*) FROM jobq._job WHERE state = 'p' AND crashes <= 1") == 40, "all are pending again")
        server.configure({"jobq.dispatch": "on"})
        server.reload()
        until(lambda: scalar(root, "SELECT current_setting('jobq.dispatch')") == "on", "jobq.dispatch is on")
        root.execute("SELECT jobq.drop_queue('index', true)")
