"""stats(), queues and workers tell numbers that nobody counts: they must be those of the tables."""

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
WORKERS = "SELECT name, running, completed, failed, last_seen_at FROM jobq.workers ORDER BY name"
WORKERS_COUNTED = """
    SELECT worker, count(*) FILTER (WHERE state = 'r'), count(*) FILTER (WHERE state = 'c'), count(*) FILTER (WHERE state = 'f'), max(at)
    FROM (SELECT worker, state, jobq._seen_at(id, lease, coalesce(seen_at, claimed_at)) AS at FROM jobq._job WHERE state = 'r'
          UNION ALL SELECT worker, state, finished_at FROM jobq._history WHERE state = 'c'
          UNION ALL SELECT worker, state, finished_at FROM jobq._dead) AS w
    WHERE worker IS NOT NULL GROUP BY worker ORDER BY worker"""
SCANS = """SELECT sum(seq_scan) FROM pg_stat_xact_all_tables
           WHERE relid IN ('jobq._job'::regclass, 'jobq._dead'::regclass) OR schemaname = 'jobq' AND relname LIKE '\\_history\\_%'"""


def rows(session: Connection, sql: str) -> list[Any]:
    return session.execute(sql).fetchall()


def scans(session: Connection, sql: str) -> int:
    """Within a transaction: how often the query has read a table of jobs from end to end."""
    before = scalar(session, SCANS)
    session.execute(sql)
    return scalar(session, SCANS) - before


def is_known(session: Connection, *told: str) -> bool:
    """Are the numbers told without a scan of the jobs?"""
    with session.transaction():
        return all(scans(session, sql) == 0 for sql in told or (TOLD, WORKERS))


def told(session: Connection) -> list[Any]:
    return [rows(session, TOLD), [row[:-1] for row in rows(session, WORKERS)]]


def are_those_of_the_tables(session: Connection, what: str) -> None:
    workers, counted = rows(session, WORKERS), rows(session, WORKERS_COUNTED)
    expect_equal(told(session), [rows(session, COUNTED), [row[:-1] for row in counted]], what)
    # The last job of a worker may have been deleted.
    expect(all(row[-1] >= other[-1] for row, other in zip(workers, counted)), f"last signs of life: {what}")


def agree(session: Connection, what: str) -> None:
    """Nobody else changes anything."""
    until(lambda: is_known(session), f"numbers that are told without counting: {what}")
    are_those_of_the_tables(session, what)


@scene("stats and workers are what the tables say after every kind of change, its rollback, a crash of the server, a prepared transaction")
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
            # Each of two workers does some of everything.
            shares = [root.execute("SELECT id, lease FROM jobq.claim(%s, 20, %s)", [queue, name]).fetchall() for name in ("both", queue)]
            held = [job for pair in zip(*shares) for job in pair]
            for id, lease in held[:5]:
                root.execute("SELECT jobq.complete(%s, %s)", [id, lease])
            root.execute("SELECT count(*) FROM jobq.complete_many(%s, %s)", [[id for id, _ in held[5:10]], [lease for _, lease in held[5:10]]])
            for id, lease in held[10:16]:
                root.execute("SELECT jobq.fail(%s, %s, 'no', retry => false)", [id, lease])
            for id, lease in held[16:20]:
                root.execute("SELECT jobq.fail(%s, %s, 'again', '1 h')", [id, lease])
            for id, lease in held[20:23]:
                root.execute("SELECT jobq.release(%s, %s)", [id, lease])
            for id, lease in held[23:26] * 2:
                root.execute("SELECT jobq.heartbeat(%s, %s)", [id, lease])
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
            before = told(other)
            root.execute("BEGIN")
            root.execute(ENQUEUE_MANY, [30, "kept"])
            root.execute("SAVEPOINT s")
            root.execute(ENQUEUE_MANY, [11, "gone"])
            root.execute("ROLLBACK TO s")
            [(id, lease), *_] = root.execute("SELECT id, lease FROM jobq.claim('kept', 5, 'me')").fetchall()
            root.execute("SELECT jobq.complete(%s, %s)", [id, lease])
            root.execute("SAVEPOINT s")
            root.execute("SELECT jobq.delete(id) FROM jobq.jobs WHERE state IN ('completed', 'failed')")
            are_those_of_the_tables(root, "without finished jobs")
            root.execute("ROLLBACK TO s")
            are_those_of_the_tables(root, "seen by the transaction itself")
            expect(scans(root, WORKERS) == 0, "noted, not counted")
            expect_equal(told(other), before, "seen by others")
            root.execute("ROLLBACK")
        agree(root, "rolled back")

        # One savepoint for each job, as frameworks make them.
        root.execute("BEGIN")
        for id, lease in root.execute("SELECT id, lease FROM jobq.claim('kept', 10)").fetchall():
            root.execute("SAVEPOINT s")
            root.execute("SELECT jobq.complete(%s, %s)", [id, lease])
            root.execute("SELECT jobq.enqueue('next', queue => 'gone') FROM generate_series(1, 8)")
            root.execute("RELEASE s")
        are_those_of_the_tables(root, "ten savepoints, seen by the transaction itself")
        root.execute("COMMIT")
        expect(is_known(root), "ten savepoints are noted, not counted")
        agree(root, "ten savepoints")

        # More queues in one transaction than are noted, a prepared transaction, a dropped queue: counted anew.
        root.execute("SELECT jobq.create_queue('many' || n) FROM generate_series(1, 90) AS n")
        root.execute("SELECT jobq.enqueue('k', queue => 'many' || n) FROM generate_series(1, 90) AS n")
        agree(root, "90 queues in one transaction")
        root.execute("BEGIN")
        root.execute(ENQUEUE_MANY, [30, "gone"])
        [(id, lease)] = root.execute("SELECT id, lease FROM jobq.claim('kept', 1, 'preparer')").fetchall()
        root.execute("SELECT jobq.complete(%s, %s)", [id, lease])
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
        expect_equal(rows(root, WORKERS), rows(root, WORKERS_COUNTED), "after a count the last signs of life are those of the tables, too")
        expect(scalar(root, "SELECT count(*) FROM jobq.queues AS q JOIN jobq.stats() AS s ON s.queue = q.name AND s.pending = q.pending "
                            "AND s.failed = q.failed WHERE q.name = 'kept'") == 1, "the view of queues tells the same")
        root.execute("SELECT jobq.drop_queue('kept', true), jobq.drop_queue('gone', true)")


@scene("more workers than a transaction notes, or than there is room for: they are counted, and the stats are told all the same")
def many_workers(server: Cluster, report: Report) -> None:
    claims = "SELECT c.id, c.lease FROM generate_series(1, %s) AS n, jobq.claim('crowd', 1, %s || n) AS c"
    with connect(server) as root:
        root.execute("SELECT jobq.create_queue('crowd')")
        root.execute(ENQUEUE_MANY, [4_400, "crowd"])
        agree(root, "before")
        root.execute("BEGIN")
        held = root.execute(claims, [300, "few"]).fetchall()
        root.execute("SELECT count(*) FROM jobq.complete_many(%s, %s)", [[id for id, _ in held], [lease for _, lease in held]])
        expect(scans(root, WORKERS) > 0, "300 workers in one transaction are counted")
        expect(scans(root, TOLD) == 0, "the stats are told")
        are_those_of_the_tables(root, "300 workers, seen by the transaction itself")
        root.execute("COMMIT")
        expect(is_known(root, TOLD), "the stats are still told")
        are_those_of_the_tables(root, "300 workers")
        agree(root, "300 workers, counted")

        for n in range(20):
            held = root.execute(claims, [200, f"many{n}_"]).fetchall()
            root.execute("SELECT count(*) FROM jobq.complete_many(%s, %s)", [[id for id, _ in held], [lease for _, lease in held]])
        expect(is_known(root, TOLD), "the stats are told, although there are more workers than have room")
        expect(not is_known(root, WORKERS), "4300 workers are counted")
        are_those_of_the_tables(root, "4300 workers")
        root.execute("SELECT jobq.purge('crowd', 'completed', '0', 10000)")
        are_those_of_the_tables(root, "purged")
        root.execute("SELECT jobq.tick()")
        agree(root, "there is room again")
        root.execute("SELECT jobq.drop_queue('crowd', true)")


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
        expect(is_known(root), "nothing is counted any more")
        are_those_of_the_tables(root, "told, and counted")
        for queue in QUEUES:
            root.execute("SELECT jobq.drop_queue(%s, true)", [queue])


@scene("more queues than shared memory can count: told by counting them, each hands out its own jobs")
def many_queues(server: Cluster, report: Report) -> None:
    number = 2500
    with connect(server) as root:
        with root.transaction():
            root.execute("SELECT jobq.create_queue('q' || n, keep_completed => false) FROM generate_series(1, %s) AS n", [number])
        root.execute("SELECT jobq.enqueue('k', queue => 'q' || n) FROM generate_series(1, %s) AS n", [number])
        with root.transaction():
            expect(scans(root, TOLD) > 0, "told by counting")
        summed = "SELECT count(*), sum(pending), max(pending), sum(running) FROM jobq.stats() WHERE queue LIKE 'q%%'"
        expect_equal(rows(root, summed), [(number, number, 1, 0)], "told of all")
        claimed = rows(root, f"SELECT n, j.id, j.lease, j.queue FROM generate_series(1, {number}) AS n, LATERAL jobq.claim('q' || n) AS j")
        expect_equal([queue for _, _, _, queue in claimed], [f"q{n}" for n, _, _, _ in claimed], "the queues of the jobs")
        expect_equal(len(claimed), number, "jobs claimed")
        expect_equal(rows(root, summed), [(number, 0, 0, number)], "told of all when they are claimed")
        for id, lease in [(id, lease) for _, id, lease, _ in claimed]:
            root.execute("SELECT jobq.complete(%s, %s)", [id, lease])
        root.execute("SELECT jobq.drop_queue('q' || n) FROM generate_series(1, %s) AS n", [number])
        until(lambda: scalar(root, "SELECT count(*) < 100 FROM jobq._queue"), "the tombstones are gone")
    # Else it is counted again only a minute after there was no room.
    server.stop("immediate")
    server.start()
    with connect(server) as root:
        agree(root, "with few queues again")
