"""The maintainer's own rescue reads only the blocks that are marked: whoever makes a job running has its block marked."""

from __future__ import annotations

import time

from cluster import Cluster
from leases import claim, known
from live import Connection, connect, scalar, until
from report import Report, expect_equal
from scenes import ENQUEUE_MANY, scene

LEFT = "SELECT count(*) FROM jobq._job WHERE state = 'r'"


def all_rescued(session: Connection, jobs: int, what: str) -> None:
    until(lambda: scalar(session, LEFT) == 0, what)
    # A job that was rescued early may have been claimed a second time.
    expect_equal(scalar(session, "SELECT sum(crashes) FROM jobq._job"), jobs, f"rescues: {what}")


@scene("jobs in many blocks, claimed one by one, in batches and by statements, in transactions that stay open for long: all rescued")
def everywhere(server: Cluster, report: Report) -> None:
    with connect(server) as root, connect(server) as worker, connect(server) as slow:
        known(root, "blocks")
        root.execute(ENQUEUE_MANY, [400, "blocks"])
        # The claim is there, and its block was looked at several times, before it is committed.
        with slow.transaction():
            claim(slow, "blocks", 3, lease_for="1 s")
            time.sleep(1)
        for _ in range(20):
            claim(worker, "blocks", 1, lease_for="1 s")
        claim(worker, "blocks", 200, lease_for="1 s")
        # Statements have all blocks looked at: they come by themselves.
        all_rescued(root, 223, "claimed one by one and in batches")
        root.execute("DELETE FROM jobq._job WHERE crashes > 0")
        worker.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        claim(worker, "blocks", 50, lease_for="1 s")
        time.sleep(1)
        worker.execute("COMMIT")
        all_rescued(root, 50, "claimed by a statement")
        root.execute("SELECT jobq.drop_queue('blocks', true)")


@scene("a running job is rescued after its row was moved by a note, by a request to cancel it, and by VACUUM FULL")
def moved(server: Cluster, report: Report) -> None:
    with connect(server) as root, connect(server) as worker:
        for what in ("a note", "a request", "VACUUM FULL"):
            known(root, "moved")
            root.execute(ENQUEUE_MANY, [60, "moved"])
            held = claim(worker, "moved", 60, lease_for="1 s" if what == "VACUUM FULL" else "3 s")
            for n, (id, lease) in enumerate(held):
                if what == "a note":
                    worker.execute("SELECT jobq.heartbeat(%s, %s, note => repeat(chr(65 + %s), 200))", [id, lease, n % 26])
                elif what == "a request":
                    root.execute("SELECT jobq.cancel(%s)", [id])
            if what == "VACUUM FULL":
                root.execute("VACUUM FULL jobq._job")
            if what == "a request":
                until(lambda: scalar(root, LEFT) == 0, "rescued after requests to cancel")
                expect_equal(scalar(root, "SELECT count(*) FROM jobq.jobs WHERE queue = 'moved' AND state = 'cancelled'"), 60, "cancelled")
            else:
                all_rescued(root, 60, f"after {what}")
            root.execute("SELECT jobq.drop_queue('moved', true)")


@scene("ticks read no more of a large table than its running jobs")
def few_blocks(server: Cluster, report: Report) -> None:
    with connect(server) as root, connect(server) as worker:
        known(root, "large")
        for _ in range(10):
            root.execute(ENQUEUE_MANY, [2000, "large"])
        root.execute("ANALYZE jobq._job")
        pages = scalar(root, "SELECT relpages FROM pg_class WHERE oid = 'jobq._job'::regclass")
        [(id, lease)] = claim(worker, "large", 1, lease_for="1 h")
        # This one is long past the lease that its row knows of: heartbeats keep it.
        [(kept_id, kept_lease)] = claim(worker, "large", 1, lease_for="1 s")

        def read() -> int:
            """Blocks of the table that were read, by anybody: nobody else is here."""
            return scalar(root, "SELECT heap_blks_read + heap_blks_hit FROM pg_statio_all_tables WHERE relid = 'jobq._job'::regclass")

        # Some thirty ticks, whose statistics arrive at least twice. A look at all blocks may still be due: several times.
        def quiet() -> bool:
            before = read()
            for _ in range(6):
                worker.execute("SELECT jobq.heartbeat(%s, %s)", [kept_id, kept_lease])
                time.sleep(0.5)
            return read() - before < pages

        until(quiet, f"three seconds of ticks that read fewer than {pages} pages together")
        for job in ((id, lease), (kept_id, kept_lease)):
            worker.execute("SELECT jobq.complete(%s, %s)", job)
        root.execute("SELECT jobq.drop_queue('large', true)")
