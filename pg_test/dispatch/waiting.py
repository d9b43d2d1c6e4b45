"""claim_wait: who waits is woken, whatever happens to the others that wait."""

from __future__ import annotations

import random
import time
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import psycopg
from cluster import Cluster
from live import Background, Connection, connect, scalar, sqlstate, until
from report import Report, expect, expect_equal
from scenes import ENQUEUE_MANY, dispatch, queue_that_is_known, scene


def all_woken(root: Connection) -> None:
    """Nobody found his job by looking of his own accord, as every session does now and then."""
    expect("0 by sessions that waited" in dispatch(root), dispatch(root))


class Waiter:
    """A session in claim_wait; `jobs` is what came."""

    def __init__(self, server: Cluster, background: Background, queue: str, *, wait: str = "60 s", kinds: list[str] | None = None,
                 before: str = "") -> None:
        self.session = connect(server)
        self.pid = self.session.info.backend_pid
        if before:
            self.session.execute(before)
        self.done: Future[Any] = background.run(self._wait, queue, wait, kinds)

    def _wait(self, queue: str, wait: str, kinds: list[str] | None) -> list[dict[str, Any]]:
        with self.session:
            row = self.session.execute("CALL jobq.claim_wait(%s, wait => %s, kinds => %s)", [queue, wait, kinds]).fetchone()
            assert row
            return row[0]

    def jobs(self) -> list[dict[str, Any]]:
        return self.done.result(90)


def asleep(root: Connection, number: int) -> None:
    """Until so many sessions sleep in claim_wait, with nothing that anybody could wait for."""
    count = ("SELECT count(*) = %s AND count(backend_xid) = 0 AND count(backend_xmin) = 0 FROM pg_stat_activity "
             "WHERE query LIKE 'CALL jobq.claim_wait%%' AND wait_event = 'Extension' AND state = 'active'")
    until(lambda: scalar(root, count, [number]), f"{number} sessions are asleep, without snapshot and transaction id")


@scene("20 sessions wait: each job wakes one of them, none twice; the rest sleep on without snapshot, xid or lock")
def wakes(server: Cluster, report: Report) -> None:
    with connect(server) as root, Background() as background:
        queue_that_is_known(root, "wakes")
        waiters = [Waiter(server, background, "wakes") for _ in range(20)]
        asleep(root, 20)
        expect_equal(scalar(root, "SELECT count(*) FROM pg_locks WHERE pid = ANY (%s) AND locktype <> 'virtualxid'",
                            [[waiter.pid for waiter in waiters]]), 0, "locks of those who sleep")
        ids = {scalar(root, "SELECT jobq.enqueue('k', queue => 'wakes')") for _ in range(10)}
        until(lambda: sum(waiter.done.done() for waiter in waiters) >= 10, "ten have their job")
        asleep(root, 10)
        root.execute(ENQUEUE_MANY, [10, "wakes"])
        came = [waiter.jobs() for waiter in waiters]
        expect(all(len(jobs) == 1 for jobs in came), "one job each")
        got = {jobs[0]["id"] for jobs in came}
        expect(len(got) == 20 and {str(id) for id in ids} <= got, "twenty different jobs, the ten among them")
        all_woken(root)
        root.execute("DELETE FROM jobq._job; SELECT jobq.drop_queue('wakes', true)")


@scene("a job for each kind wakes who waits for that kind, not the first in the line; more jobs than can be noted wake all")
def kinds(server: Cluster, report: Report) -> None:
    with connect(server) as root, Background() as background:
        queue_that_is_known(root, "kinds")
        reds = [Waiter(server, background, "kinds", kinds=["red"]) for _ in range(3)]
        asleep(root, 3)
        blue = Waiter(server, background, "kinds", kinds=["green", "blue"])
        asleep(root, 4)
        root.execute("SELECT jobq.enqueue('blue', queue => 'kinds')")
        expect_equal([job["kind"] for job in blue.jobs()], ["blue"], "what came for who waits for blue")
        asleep(root, 3)
        root.execute(ENQUEUE_MANY.replace("'k'", "'red'"), [1000, "kinds"])
        expect_equal([job["kind"] for red in reds for job in red.jobs()], ["red"] * 3, "what came for those who wait for red")
        all_woken(root)
        root.execute("SELECT jobq.drop_queue('kinds', true)")


@scene("several queues: who waits for three is woken by any of them; a paused one wakes when it goes on; a dropped one raises 42704")
def several(server: Cluster, report: Report) -> None:
    with connect(server) as root, Background() as background:
        for queue in ("one", "two", "three"):
            queue_that_is_known(root, queue)
        for queue in ("three", "one", "two"):
            waiter = Waiter(server, background, "one,two,three")
            asleep(root, 1)
            root.execute("SELECT jobq.enqueue('k', queue => %s)", [queue])
            expect_equal([job["queue"] for job in waiter.jobs()], [queue], "where the job came from")
        root.execute("SELECT jobq.pause('one')")
        waiter = Waiter(server, background, "one")
        asleep(root, 1)
        root.execute("SELECT jobq.enqueue('k', queue => 'one')")
        root.execute("SELECT jobq.resume('one')")
        expect_equal(len(waiter.jobs()), 1, "jobs of the queue that goes on")
        waiter = Waiter(server, background, "two")
        asleep(root, 1)
        root.execute("SELECT jobq.drop_queue('two', true)")
        try:
            waiter.jobs()
            raise AssertionError("a dropped queue is waited for")
        except psycopg.errors.UndefinedObject:
            pass
        all_woken(root)
        root.execute("SELECT jobq.drop_queue('one', true), jobq.drop_queue('three', true)")


@scene("jobs that fall due, that a rolled back claim gives back, that fail and are retried: each wakes who waits")
def comes_back(server: Cluster, report: Report) -> None:
    with connect(server) as root, Background() as background:
        queue_that_is_known(root, "back")

        def one(what: str, act: str) -> None:
            waiter = Waiter(server, background, "back")
            asleep(root, 1)
            root.execute(act)
            jobs = waiter.jobs()
            expect_equal(len(jobs), 1, f"jobs that came: {what}")

        one("scheduled", "SELECT jobq.enqueue('k', queue => 'back', delay => '50 ms')")
        one("failed, to be retried", "SELECT jobq.fail(id, lease, 'no', '20 ms') FROM jobq._job WHERE state = 'r'")
        one("released", "SELECT jobq.release(id, lease) FROM jobq._job WHERE state = 'r'")
        one("for good, then retried", "SELECT jobq.fail(id, lease, 'no', retry => false) FROM jobq._job WHERE state = 'r'; "
                                      "SELECT jobq.retry_failed('back')")
        root.execute("SELECT jobq.release(id, lease) FROM jobq._job WHERE state = 'r'")
        with connect(server) as other:
            other.execute("BEGIN")
            expect_equal(scalar(other, "SELECT count(*) FROM jobq.claim('back')"), 1, "claimed in a transaction")
            waiter = Waiter(server, background, "back")
            asleep(root, 1)
            other.execute("ROLLBACK")
            expect_equal(len(waiter.jobs()), 1, "jobs that came: given back by ROLLBACK")
        all_woken(root)
        root.execute("DELETE FROM jobq._job; SELECT jobq.drop_queue('back', true)")


@scene("who has been woken and is cancelled, terminated or out of time passes it on: 60 jobs, 30 sessions that come and go")
def baton(server: Cluster, report: Report) -> None:
    seed = random.randrange(1_000_000)
    report.note(f"seed {seed}")
    dice = random.Random(seed)
    with connect(server) as root, Background() as background:
        queue_that_is_known(root, "baton")
        got = 0
        for _ in range(60):
            waiters = [Waiter(server, background, "baton", wait=dice.choice(["5 ms", "20 ms", "60 s"]),
                              kinds=dice.choice([None, ["a"], ["a", "b"]])) for _ in range(3)]
            # One that stays: whatever the others do, the job must come to somebody before the time of this one is over.
            stays = Waiter(server, background, "baton", wait="60 s")
            until(lambda waiters=[*waiters, stays]: scalar(
                root, "SELECT count(*) FROM pg_stat_activity WHERE pid = ANY (%s) AND wait_event = 'Extension'",
                [[waiter.pid for waiter in waiters]]) >= 1, "at least one sleeps")
            root.execute("SELECT jobq.enqueue(%s, queue => 'baton')", [dice.choice("ab")])
            for waiter in dice.sample(waiters, 2):
                root.execute(f"SELECT pg_{dice.choice(['cancel', 'terminate'])}_backend(%s)", [waiter.pid])
            until(lambda all=[*waiters, stays]: any(_has_job(waiter) for waiter in all), "somebody has the job")
            # One that had not begun to wait when it was cancelled waits now.
            until(lambda all=[*waiters, stays]: all_done(root, all), "they have all left")
            got += sum(_has_job(waiter, 90) for waiter in [*waiters, stays])
            root.execute("SELECT jobq.complete(id, lease) FROM jobq._job WHERE state = 'r'")
        expect_equal(got + scalar(root, "SELECT count(*) FROM jobq._job WHERE state = 'p'"), 60, "jobs that came, and that are left")
        all_woken(root)
        root.execute("SELECT jobq.drop_queue('baton', true)")


def all_done(root: Connection, waiters: list[Waiter]) -> bool:
    for waiter in waiters:
        if not waiter.done.done():
            root.execute("SELECT pg_cancel_backend(%s)", [waiter.pid])
    return all(waiter.done.done() for waiter in waiters)


def _has_job(waiter: Waiter, seconds: float = 0) -> bool:
    if not waiter.done.done() and not seconds:
        return False
    try:
        return bool(waiter.done.result(seconds or None))
    except psycopg.Error:
        return False


@scene("it ends by itself before statement_timeout, outlives transaction_timeout, and refuses transaction blocks, functions and pipelines")
def limits(server: Cluster, report: Report) -> None:
    with connect(server) as root, Background() as background:
        queue_that_is_known(root, "limits")
        waiter = Waiter(server, background, "limits", before="SET statement_timeout = '4 s'")
        expect_equal(waiter.jobs(), [], "the end of a wait under statement_timeout")
        if root.info.server_version >= 170000:
            waiter = Waiter(server, background, "limits", wait="900 ms", before="SET transaction_timeout = '200 ms'")
            expect_equal(waiter.jobs(), [], "the end of a wait longer than transaction_timeout")
        call = "CALL jobq.claim_wait('limits', wait => '1 ms')"
        expect_equal(sqlstate(root, call), "ok", "alone")
        expect_equal(sqlstate(root, f"BEGIN; {call}"), "25001", "in a transaction block")
        root.execute("ROLLBACK")
        expect_equal(sqlstate(root, f"SELECT 1; {call}"), "25001", "with another statement in one message")
        inner = "CALL jobq.claim_wait('limits', wait => '1 ms', jobs => j);"
        expect_equal(sqlstate(root, f"DO $$ DECLARE j jsonb; BEGIN {inner} EXCEPTION WHEN division_by_zero THEN NULL; END $$"),
                     "25001", "in a subtransaction")
        expect_equal(sqlstate(root, f"DO $$ DECLARE j jsonb; BEGIN FOR i IN 1..3 LOOP {inner} END LOOP; END $$"), "ok",
                     "again and again in a DO block")
        with psycopg.connect(server.conninfo(), autocommit=True) as other:
            try:
                with other.pipeline():
                    other.execute("SELECT jobq.enqueue('k', queue => 'limits')")
                    other.execute(call)
                raise AssertionError("it went through in a pipeline")
            except psycopg.errors.ActiveSqlTransaction:
                pass
        expect_equal(scalar(root, "SELECT count(*) FROM jobq._job"), 0, "jobs that the pipeline has left behind")
        root.execute("SELECT jobq.drop_queue('limits', true)")


@scene("a client that dies while it waits gets no job")
def dead_client(server: Cluster, report: Report) -> None:
    with connect(server) as root:
        queue_that_is_known(root, "dead")
        victim = connect(server)
        victim.pgconn.send_query(b"CALL jobq.claim_wait('dead', wait => '60 s')")
        asleep(root, 1)
        # The socket is closed, nobody tells the server.
        victim.pgconn.finish()
        root.execute("SELECT jobq.enqueue('k', queue => 'dead')")
        until(lambda: not scalar(root, "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'CALL%%'"), "the server has noticed")
        expect_equal(scalar(root, "SELECT count(*) FROM jobq.claim('dead')"), 1, "claimable jobs")
        root.execute("DELETE FROM jobq._job; SELECT jobq.drop_queue('dead', true)")


@scene("who waits keeps his own rights: after the wait, after an error in it, and when he may not claim")
def rights(server: Cluster, report: Report) -> None:
    with connect(server) as root:
        queue_that_is_known(root, "rights")
        root.execute("CREATE ROLE waiter LOGIN; CREATE ROLE stranger LOGIN; GRANT USAGE ON SCHEMA jobq TO stranger")
        root.execute("SELECT jobq.grant_access('waiter', 'worker')")
        with connect(server, user="waiter") as waiter:
            for call in ("CALL jobq.claim_wait('rights', wait => '1 ms')", "CALL jobq.claim_wait('no-such-queue')",
                         "CALL jobq.claim_wait('rights', wait => '30 ms', batch => 5)"):
                sqlstate(waiter, call)
                expect_equal(scalar(waiter, "SELECT current_user::text"), "waiter", f"the user after {call}")
                expect_equal(sqlstate(waiter, "SELECT * FROM jobq._job"), "42501", "reading the private table")
            waiter.execute("SET statement_timeout = '20 ms'")
            start, known = time.monotonic(), 0
            while time.monotonic() - start < 1 or not known:
                sqlstate(waiter, "CALL jobq.claim_wait('rights', wait => '1 s')")
                # On a busy machine the time may be over for this one, too.
                with suppress(psycopg.errors.QueryCanceled):
                    expect_equal(scalar(waiter, "SELECT current_user::text"), "waiter", "the user after time-outs")
                    known += 1
        with connect(server, user="stranger") as stranger:
            expect_equal(sqlstate(stranger, "CALL jobq.claim_wait('rights')"), "42501", "a stranger's call")
        root.execute("SELECT jobq.revoke_access('waiter', 'worker'); DROP ROLE waiter; REVOKE USAGE ON SCHEMA jobq FROM stranger; "
                     "DROP ROLE stranger; SELECT jobq.drop_queue('rights', true)")


@scene("a paused queue of which nothing is known, with somebody waiting: the maintainer sleeps between its ticks")
def paused_and_unknown(server: Cluster, report: Report) -> None:
    with connect(server) as root, Background() as background:
        root.execute("SELECT jobq.create_queue('unknown'), jobq.pause('unknown')")
        waiter = Waiter(server, background, "unknown", wait="2 s")
        asleep(root, 1)
        switches = ("SELECT (string_to_array(pg_read_file('/proc/' || pid || '/status'), 'voluntary_ctxt_switches:'))[2]::text "
                    "FROM pg_stat_activity WHERE backend_type = 'jobq maintainer' AND datname = current_database()")

        def count() -> int:
            return int((scalar(root, switches) or "0").split()[0])

        before, start = count(), time.monotonic()
        expect_equal(waiter.jobs(), [], "jobs of a paused queue")
        rounds = (count() - before) / (time.monotonic() - start)
        # One tick each 100 ms here, with a few sleeps each; a loop makes many thousands.
        report.note(f"sleeps of the maintainer a second: {rounds:.0f}")
        expect(rounds < 500, "the maintainer runs in circles")
        root.execute("SELECT jobq.drop_queue('unknown', true)")


@scene("who waits for a queue that is paused looks ever more rarely, and is there when it goes on")
def paused(server: Cluster, report: Report) -> None:
    sessions, looks = 20, "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
    with connect(server) as root, Background() as background:
        queue_that_is_known(root, "paused")
        root.execute(ENQUEUE_MANY, [sessions, "paused"])
        root.execute("SELECT jobq.pause('paused')")
        before = scalar(root, looks)
        waiters = [Waiter(server, background, "paused", wait="5 s") for _ in range(sessions)]
        expect_equal([waiter.jobs() for waiter in waiters], [[]] * sessions, "what came while the queue was paused")
        # The sessions tell their transactions when they end. Every 5 ms it would be a thousand for each.
        until(lambda: scalar(root, "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = ANY (%s)", [[waiter.pid for waiter in waiters]]),
              "the sessions are gone")
        made = (scalar(root, looks) - before) / sessions
        report.note(f"transactions of each session in 5 s: {made:.0f}")
        expect(made < 100, f"{made:.0f} transactions of each session in 5 s")
        waiters = [Waiter(server, background, "paused") for _ in range(sessions)]
        asleep(root, sessions)
        root.execute("SELECT jobq.resume('paused')")
        expect_equal(len({waiter.jobs()[0]["id"] for waiter in waiters}), sessions, "jobs when the queue goes on")
        root.execute("DELETE FROM jobq._job; SELECT jobq.drop_queue('paused', true)")
