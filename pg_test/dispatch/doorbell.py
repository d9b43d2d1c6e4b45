"""The doorbell: whoever LISTENs on jobq.notify_channel hears which queues have jobs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from cluster import Cluster
from live import PATIENCE_SECONDS, Connection, connect, scalar, sqlstate, until
from report import Report, expect, expect_equal
from scenes import ENQUEUE_MANY, queue_that_is_known, scene


@contextmanager
def doorbell(server: Cluster, root: Connection) -> Iterator[Connection]:
    """A session that listens."""
    root.execute("ALTER SYSTEM SET jobq.notify_channel = 'new jobs'")
    root.execute("SELECT pg_reload_conf()")
    try:
        with connect(server) as ear:
            ear.execute('LISTEN "new jobs"')
            # Nobody tells when the maintainer has read the setting: until it rings.
            queue_that_is_known(root, "start")
            until(lambda: root.execute("SELECT jobq.enqueue('k', queue => 'start')") and heard(ear, 0.2), "the first ring")
            while heard(ear, 1):
                pass
            yield ear
    finally:
        root.execute("ALTER SYSTEM RESET jobq.notify_channel")
        root.execute("SELECT pg_reload_conf()")
        root.execute("SELECT jobq.drop_queue('start', true)")


def heard(ear: Connection, seconds: float = PATIENCE_SECONDS, queues: int = 1) -> list[str]:
    """The queues that were heard of by the time that there were so many, in order. A commit of very many jobs may ring twice."""
    names: set[str] = set()
    deadline = time.monotonic() + seconds
    while len(names) < queues and (left := deadline - time.monotonic()) > 0:
        names |= {note.payload for note in ear.notifies(timeout=left, stop_after=1)}
    return sorted(names)


@scene("the doorbell: one ring for each queue of a commit, none for what is rolled back or paused, one when the queue goes on")
def rings(server: Cluster, report: Report) -> None:
    with connect(server) as root, doorbell(server, root) as ear:
        for queue in ("bell", "paused", "other"):
            queue_that_is_known(root, queue)
        with root.transaction():
            root.execute(ENQUEUE_MANY, [300, "bell"])
            root.execute("SELECT jobq.enqueue('k', queue => 'other') FROM generate_series(1, 3)")
        expect_equal(heard(ear, queues=2), ["bell", "other"], "heard of one commit")
        while heard(ear, 0.2):
            pass
        root.execute("BEGIN; SELECT jobq.enqueue('k', queue => 'bell'); ROLLBACK")
        root.execute("SELECT jobq.pause('paused')")
        root.execute("SELECT jobq.enqueue('k', queue => 'paused')")
        root.execute("SELECT jobq.enqueue('k', queue => 'other')")
        expect_equal(heard(ear), ["other"], "heard after a rollback, and after a commit in a paused queue")
        root.execute("SELECT jobq.resume('paused')")
        expect_equal(heard(ear), ["paused"], "heard when it went on")
        [(id, lease)] = root.execute("SELECT id, lease FROM jobq.claim('other')").fetchall()
        root.execute("SELECT jobq.release(%s, %s)", [id, lease])
        expect_equal(heard(ear), ["other"], "heard of a release")
        for queue in ("bell", "paused", "other"):
            root.execute("SELECT jobq.drop_queue(%s, true)", [queue])


@scene("the doorbell rings for scheduled jobs when they fall due, also for those that a claim has left, and not before")
def rings_for_due_jobs(server: Cluster, report: Report) -> None:
    with connect(server) as root, doorbell(server, root) as ear:
        queue_that_is_known(root, "later")
        expect_equal(root.execute("SELECT * FROM jobq.claim('later')").fetchall(), [], "nothing yet")
        root.execute("SELECT jobq.enqueue('k', queue => 'later', delay => '700 ms') FROM generate_series(1, 5)")
        root.execute("SELECT jobq.enqueue('k', queue => 'later', delay => '1 h')")
        expect_equal(heard(ear), ["later"], "heard")
        due = "SELECT count(*) FROM jobq.jobs WHERE queue = 'later' AND run_at <= clock_timestamp()"
        expect(scalar(root, due) > 0, "a job was due when the bell rang")
        root.execute("SELECT jobq.drop_queue('later', true)")


@scene("the doorbell's channel is one that can be listened to, and empty means silence")
def channel(server: Cluster, report: Report) -> None:
    with connect(server) as root:
        expect_equal(sqlstate(root, f"ALTER SYSTEM SET jobq.notify_channel = '{'x' * 64}'"), "22023", "64 bytes")
        with doorbell(server, root) as ear:
            queue_that_is_known(root, "quiet")
            root.execute("ALTER SYSTEM SET jobq.notify_channel = ''")
            root.execute("SELECT pg_reload_conf()")

            def silent() -> bool:
                root.execute("SELECT jobq.enqueue('k', queue => 'quiet')")
                return not heard(ear, 1)

            until(silent, "a commit that nobody is told of")
            root.execute("SELECT jobq.drop_queue('quiet', true)")


@scene("a notification that fails is made good later, and keeps no other duty from its work")
def fails(server: Cluster, report: Report) -> None:
    with connect(server) as root, doorbell(server, root) as ear:
        queue_that_is_known(root, "unheard")
        root.execute("ALTER FUNCTION pg_catalog.pg_notify(text, text) RENAME TO _pg_notify")
        try:
            # One that has prepared its statement would go on calling the function.
            root.execute("SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE backend_type = 'jobq maintainer'")
            until(lambda: root.execute("SELECT 1 FROM pg_stat_activity WHERE backend_type = 'jobq maintainer'").fetchall(), "the next one")
            told = "next notification in"
            before = server.log_text().count(told)
            until(lambda: root.execute("SELECT jobq.enqueue('k', queue => 'unheard')") and server.log_text().count(told) > before,
                  "the log tells")
            with connect(server) as worker:
                [(id,)] = worker.execute("SELECT id FROM jobq.claim('unheard', bind => 'session')").fetchall()
            until(lambda: scalar(root, "SELECT state FROM jobq.job(%s)", [id]) == "pending", "the job of a session that has ended")
            expect_equal(heard(ear, 0.2), [], "heard meanwhile")
        finally:
            root.execute("ALTER FUNCTION pg_catalog._pg_notify(text, text) RENAME TO pg_notify")
        expect_equal(heard(ear), ["unheard"], "heard in the end")
        root.execute("SELECT jobq.drop_queue('unheard', true)")
