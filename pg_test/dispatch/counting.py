"""stats() and queues tell numbers that nobody counts: they must be those of the tables."""

from __future__ import annotations

import random
from threading import Event
from typing import Any

from cluster import Cluster
from live import Background, Connection, connect, scalar, until
from report import Report, expect, expect_equal
from scenes import ENQUEUE_MANY, QUEUES, Client, scene

TOLD = "SELECT queue, pending, scheduled, running, failed, completed_today, failed_today, workers FROM jobq.stats() ORDER BY queue"
COUNTED = """
    SELECT q.name,
           (SELECT count(*) FROM jobq._job j WHERE j.queue_id = q.id AND j.state = 'p' AND j.run_at <= clock_timestamp()),
           (SELECT count(*) FROM jobq._job j WHERE j.queue_id = q.id AND j.state = 'p' AND j.run_at > clock_timestamp()),
           (SELECT count(*) FROM jobq._job j WHERE j.queue_id = q.id AND j.state = 'r'),
           (SELECT count(*) FROM jobq._dead d WHERE d.queue_id = q.id),
           (SELECT count(*) FROM jobq._history h WHERE h.queue_id = q.id AND h.state = 'c' AND h.finished_at >= date_trunc('day', clock_timestamp())),
           (SELECT count(*) FROM jobq._dead d WHERE d.queue_id = q.id AND d.finished_at >= date_trunc('day', clock_timestamp())),
           (SELECT count(DISTINCT j.worker) FROM jobq._job j WHERE j.queue_id = q.id AND j.state = 'r')
    FROM jobq._queue_options AS q ORDER BY q.name"""
SCANS = "SELECT sum(seq_scan) FROM pg_stat_xact_all_tables WHERE relid IN ('jobq._job'::regclass, 'jobq._dead'::regclass)"


def rows(session: Connection, sql: str) -> list[Any]:
    return session.execute(sql).fetchall()


def is_known(session: Connection) -> bool:
    """Were the last numbers told without a scan of the jobs?"""
    with session.transaction():
        before = scalar(session, SCANS)
        session.execute(TOLD)
        return scalar(session, SCANS) == before


def agree(session: Connection, what: str) -> None:
    """Nobody else changes anything."""
    until(lambda: is_known(session), f"numbers that are told without counting: {what}")
    expect_equal(rows(session, TOLD), rows(session, COUNTED), what)


@scene("stats are what the tables say after every kind of change, its rollback, a crash of the server, a prepared transaction")
def all_changes(server: Cluster, report: Report) -> None:
    with connect(server) as root:
        root.execute("SELECT jobq.create_queue('kept'), jobq.create_queue('gone', keep_completed => false)")
        agree(root, "before")
        for queue in ("kept", "gone"):
            root.execute(ENQUEUE_MANY, [60, queue])
            root.execute("SELECT jobq.enqueue('k', queue => %s, delay => '1 h') FROM generate_series(1, 7)", [queue])
            root.execute("SELECT jobq.enqueue('k', queue => %s, unique_key => 'one') FROM generate_series(1, 3)", [queue])
        agree(root, "enqueued")
        for queue in ("kept", "gone"):
            held = root.execute("SELECT id, lease FROM jobq.claim(%s, 40, 'w' || %s)", [queue, queue]).fetchall()
            for id, lease in held[:5]:
                root.execute("SELECT jobq.complete(%s, %s)", [id, lease])
            root.execute("SELECT count(*) FROM jobq.complete_many(%s, %s)", [[id for id, _ in held[5:10]], [lease for _, lease in held[5:10]]])
            for id, lease in held[10:16]:
                root.execute("SELECT jobq.fail(%s, %s, 'no', retry => false)", [id, lease])
            for id, lease in held[16:20]:
                root.execute("SELECT jobq.fail(%s, %s, 'again', '1 h')", [id, lease])
            for id, lease in held[20:23]:
                root.execute("SELECT jobq.release(%s, %s)", [id, lease])
            agree(root, f"finished in {queue}")
            root.execute("SELECT jobq.cancel(id) FROM jobq.jobs WHERE queue = %s AND state = 'pending' ORDER BY id LIMIT 4", [queue])
            root.execute("SELECT jobq.delete(id) FROM jobq.jobs WHERE queue = %s AND state = 'pending' ORDER BY id LIMIT 3", [queue])
            root.execute("SELECT jobq.delete(id) FROM jobq.jobs WHERE queue = %s AND state = 'failed' ORDER BY id LIMIT 1", [queue])
            root.execute("SELECT jobq.retry(id) FROM jobq.jobs WHERE queue = %s AND state = 'failed' ORDER BY id LIMIT 1", [queue])
            root.execute("SELECT jobq.retry(id) FROM jobq.jobs WHERE queue = %s AND state = 'cancelled' ORDER BY id LIMIT 1", [queue])
            root.execute("SELECT jobq.retry_failed(%s, batch => 2)", [queue])
            agree(root, f"operated on {queue}")
        root.execute("SELECT jobq.delete(id) FROM jobq.jobs WHERE state = 'completed' ORDER BY id LIMIT 2")
        root.execute("SELECT jobq.purge('kept', 'completed', '0', 3), jobq.purge('kept', 'failed', '0', 1)")
        agree(root, "purged")

        # One transaction sees what it has done itself; others do not; nobody does after a rollback.
        with connect(server) as other:
            before = rows(other, TOLD)
            root.execute("BEGIN")
            root.execute(ENQUEUE_MANY, [30, "kept"])
            root.execute("SAVEPOINT s")
            root.execute(ENQUEUE_MANY, [11, "gone"])
            root.execute("ROLLBACK TO s")
            [(id, lease), *_] = root.execute("SELECT id, lease FROM jobq.claim('kept', 5, 'me')").fetchall()
            root.execute("SELECT jobq.complete(%s, %s)", [id, lease])
            expect_equal(rows(root, TOLD), rows(root, COUNTED), "seen by the transaction itself")
            expect_equal(rows(other, TOLD), before, "seen by others")
            root.execute("ROLLBACK")
        agree(root, "rolled back")

        # One savepoint for each job, as frameworks make them.
        root.execute("BEGIN")
        for id, lease in root.execute("SELECT id, lease FROM jobq.claim('kept', 10)").fetchall():
            root.execute("SAVEPOINT s")
            root.execute("SELECT jobq.complete(%s, %s)", [id, lease])
            root.execute("SELECT jobq.enqueue('next', queue => 'gone') FROM generate_series(1, 8)")
            root.execute("RELEASE s")
        expect_equal(rows(root, TOLD), rows(root, COUNTED), "ten savepoints, seen by the transaction itself")
        root.execute("COMMIT")
        expect(is_known(root), "ten savepoints are noted, not counted")
        agree(root, "ten savepoints")

        # More queues in one transaction than are noted, a prepared transaction, a dropped queue: counted anew.
        root.execute("SELECT jobq.create_queue('many' || n) FROM generate_series(1, 90) AS n")
        root.execute("SELECT jobq.enqueue('k', queue => 'many' || n) FROM generate_series(1, 90) AS n")
        agree(root, "90 queues in one transaction")
        root.execute("BEGIN")
        root.execute(ENQUEUE_MANY, [30, "gone"])
        root.execute("PREPARE TRANSACTION 'counted'")
        agree(root, "prepared")
        root.execute("COMMIT PREPARED 'counted'")
        agree(root, "committed")
        root.execute("SELECT jobq.drop_queue('many' || n, true) FROM generate_series(1, 90) AS n")
        agree(root, "dropped")
    server.stop("immediate")
    server.start()
    with connect(server) as root:
        agree(root, "after a crash")
        expect(scalar(root, "SELECT count(*) FROM jobq.queues AS q JOIN jobq.stats() AS s ON s.queue = q.name AND s.pending = q.pending "
                            "AND s.failed = q.failed WHERE q.name = 'kept'") == 1, "the view of queues tells the same")
        root.execute("SELECT jobq.drop_queue('kept', true), jobq.drop_queue('gone', true)")


@scene("6 clients enqueue, claim, finish, cancel, roll back and fail while the tables are counted again and again: the stats are right")
def counted_meanwhile(server: Cluster, report: Report) -> None:
    steps, seed = 300, random.randrange(1_000_000)
    with connect(server) as root:
        for n, queue in enumerate(QUEUES):
            root.execute("SELECT jobq.create_queue(%s, max_attempts => 2, keep_completed => %s)", [queue, n > 0])
        clients = [Client(server, seed + n) for n in range(6)]

        over = Event()

        def work(client: Client) -> None:
            for _ in range(steps):
                client.step()
            # After the last count they go on: what it has missed stays missed.
            over.set()
            for _ in range(steps):
                client.step()
            client.let_go()
            client.close()

        counts = 0
        with Background() as background:
            futures = [background.run(work, client) for client in clients]
            while not over.is_set():
                # Has the jobs counted anew; what is told is known again when that is over.
                root.execute("SELECT jobq.tick()")
                until(lambda: is_known(root), "a count")
                counts += 1
            for future in futures:
                future.result(600)
        report.note(f"seed {seed}, {counts} counts")
        until(lambda: not scalar(root, "SELECT count(*) FROM jobq._job WHERE run_at > clock_timestamp()"), "scheduled jobs are due")
        told = rows(root, TOLD)
        expect(is_known(root), "nothing is counted any more")
        expect_equal(told, rows(root, COUNTED), "told, and counted")
        for queue in QUEUES:
            root.execute("SELECT jobq.drop_queue(%s, true)", [queue])
