"""Claim: isolation levels, locks, timeouts, lost sessions, planner settings, results that are read in part, crowds."""

from __future__ import annotations

import threading
import time

import psycopg
from live import Background, Connection, scalar, sqlstate, until, until_lock_wait
from report import expect, expect_equal
from scene import Scenes, claim, enqueue, enqueue_many, expect_refused, job, pid_of
from world import World

scene = SCENES = Scenes()


@scene(64, what="REPEATABLE READ after a concurrent claim has committed: 40001, nothing claimed")
def claim_repeatable_read(world: World) -> None:
    queue = world.new_queue()
    enqueue_many(world.app, queue, 2)
    with world.connection() as session, world.connection() as other:
        session.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        session.execute("SELECT 1 FROM pg_class LIMIT 1")
        claim(other, queue)
        before = world.fingerprint()
        expect_refused(world, session, "40001", "SELECT * FROM jobq.claim(%s, 2)", [queue])
        session.execute("ROLLBACK")
        expect_equal(world.fingerprint(), before, "rows")


@scene(65, what="two SERIALIZABLE claims at once: no job twice, the loser gets 40001 and nothing else")
def claims_serializable(world: World) -> None:
    queue = world.new_queue()
    enqueue_many(world.app, queue, 4)
    with world.connection() as first, world.connection() as second:
        for session in (first, second):
            session.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
        claimed = {pid_of(first): claim(first, queue), pid_of(second): []}
        states = []
        for session, sql in ((second, "claim"), (first, "COMMIT"), (second, "COMMIT")):
            try:
                if sql == "claim":
                    claimed[pid_of(second)] = claim(session, queue)
                else:
                    session.execute(sql)
            except psycopg.Error as error:
                world.expect_clean_error(error)
                states.append(error.sqlstate)
                claimed[pid_of(session)] = []
                session.execute("ROLLBACK")
    expect(set(states) <= {"40001"} and len(states) <= 1, f"errors: {states}")
    ids = [row[0] for rows in claimed.values() for row in rows]
    running = world.root.execute("SELECT id FROM jobq.jobs WHERE queue = %s AND state = 'running'", [queue]).fetchall()
    expect_equal(sorted(ids), sorted(row[0] for row in running), "the running jobs are those handed out")


@scene(67, what="lock_timeout while the job table is locked: 55P03")
def lock_timeout(world: World) -> None:
    queue = world.new_queue()
    id = enqueue(world.app, queue)
    with world.connection() as session, world.connection("postgres") as locker:
        locker.execute("BEGIN; LOCK TABLE jobq._job IN ACCESS EXCLUSIVE MODE")
        session.execute("SET lock_timeout = '50ms'")
        for sql in ("SELECT * FROM jobq.claim(%(queue)s)", "SELECT jobq.enqueue('k', queue => %(queue)s)",
                    "SELECT jobq.complete(%(id)s, 1)", "CALL jobq.claim_wait(%(queue)s, wait => '1 hour')",
                    "SELECT * FROM jobq.complete_and_claim('{}', '{}', queue => %(queue)s)", "SELECT jobq.cancel(%(id)s)", "SELECT jobq.heartbeat(%(id)s, 1)",
                    "SELECT jobq.rescue_zombies()"):
            expect_refused(world, session, "55P03", sql, {"queue": queue, "id": id})
        locker.execute("ROLLBACK")
        expect_equal(len(claim(session, queue)), 1, "claimed jobs once the lock is gone")


@scene(68, what="statement_timeout in a claim of 10 000: 57014, none claimed")
def timeout_in_claim(world: World) -> None:
    queue = world.new_queue()
    enqueue_many(world.app, queue, 10_000)
    with world.connection() as session:
        claim(session, world.new_queue())
        session.execute("SET statement_timeout = '5ms'")
        expect_refused(world, session, "57014", "SELECT * FROM jobq.claim(%s, 10000)", [queue])
        session.execute("RESET statement_timeout")
        touched = ("SELECT count(*) FROM jobq._job AS j "
                   "WHERE j.state = 'r' AND j.queue_id = (SELECT id FROM jobq._queue WHERE name = %s)")
        expect_equal(scalar(world.root, touched, [queue]), 0, "claimed jobs")
        got = claim(session, queue, 10_000)
        expect_equal((len(got), {row[2] for row in got}), (10_000, {1}), "jobs of the second claim and their attempts")
        session.execute("SELECT jobq.drop_queue(%s, true)", [queue])


@scene(69, what="pg_terminate_backend in the middle of a claim: 57P01, the attempt is not used")
def terminated_in_claim(world: World) -> None:
    queue = world.new_queue()
    id = enqueue(world.app, queue)
    with world.connection() as session, world.connection("postgres") as locker, Background() as background:
        locker.execute("BEGIN; LOCK TABLE jobq._job IN ACCESS EXCLUSIVE MODE")
        waiting = background.run(sqlstate, session, "SELECT * FROM jobq.claim(%s)", [queue])
        until_lock_wait(world.root, pid_of(session))
        world.root.execute("SELECT pg_terminate_backend(%s)", [pid_of(session)])
        expect_equal(waiting.result(30), "57P01", "SQLSTATE of the claim")
        locker.execute("ROLLBACK")
    with world.connection() as session:
        session.execute("BEGIN")
        claim(session, queue)
        world.root.execute("SELECT pg_terminate_backend(%s)", [pid_of(session)])
        expect_equal(sqlstate(session, "SELECT 1"), "57P01", "SQLSTATE after the claim")
    until(lambda: [row[2] for row in claim(world.app, queue)] == [1], f"job {id} to be handed out as attempt 1")


@scene(71, what="a claim rolled back, whole or to a savepoint: ready again, the attempt is not used")
def rolled_back_claim(world: World) -> None:
    queue = world.new_queue()
    id = enqueue(world.app, queue)
    with world.connection() as session:
        session.execute("BEGIN")
        first = claim(session, queue)
        session.execute("ROLLBACK")
        session.execute("BEGIN; SAVEPOINT s")
        second = claim(session, queue)
        session.execute("ROLLBACK TO SAVEPOINT s")
        third = claim(session, queue)
        session.execute("COMMIT")
        expect_equal([row[2] for row in first + second + third], [1, 1, 1], "attempts")
        expect_equal(job(world, id)["attempt"], 1, "attempt")


@scene(72, what="a claim idle in its transaction past the lease: nobody rescues it; ready again when the session is ended")
def idle_claim(world: World) -> None:
    queue = world.new_queue()
    id = enqueue(world.app, queue)
    with world.connection() as session:
        session.execute("BEGIN")
        claim(session, queue, lease_for="1 s")
        claimed_at = scalar(world.root, "SELECT clock_timestamp()")
        until(lambda: scalar(world.root, "SELECT clock_timestamp() > %s + interval '1 s'", [claimed_at]), "the lease to be over")
        world.app.execute("SELECT jobq.rescue_zombies()")
        expect_equal((job(world, id)["state"], job(world, id)["crashes"]), ("pending", 0), "the job for others")
        expect_equal(claim(world.app, queue), [], "a second claim")
        session.execute("SET idle_in_transaction_session_timeout = '100ms'")
        until(lambda: not scalar(world.root, "SELECT count(*) FROM pg_stat_activity WHERE pid = %s", [pid_of(session)]),
              "the session's end")
        expect_equal(sqlstate(session, "SELECT 1"), "25P03", "SQLSTATE for the idle session")
    expect_equal([row[2] for row in claim(world.app, queue)], [1], "attempt of the next claim")


@scene(73, what="planner settings that force nested loops: never more than the batch")
def claim_with_nested_loops(world: World) -> None:
    queue = world.new_queue()
    enqueue_many(world.app, queue, 2000)
    with world.connection() as session:
        session.execute("SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off; "
                        "SET enable_sort = off; SET plan_cache_mode = force_custom_plan")
        expect_equal(len(claim(session, queue, 3)), 3, "rows of the claim")
    running = scalar(world.root, "SELECT count(*) FROM jobq.jobs WHERE queue = %s AND state = 'running'", [queue])
    expect_equal(running, 3, "running jobs")


@scene(74, what="LIMIT around a claim, a cursor closed early, EXPLAIN ANALYZE: all of the batch is claimed, none half")
def claim_read_in_part(world: World) -> None:
    queue = world.new_queue()
    enqueue_many(world.app, queue, 300)

    def running() -> int:
        return scalar(world.root, "SELECT count(*) FROM jobq.jobs WHERE queue = %s AND state = 'running'", [queue])

    with world.connection() as session:
        rows = session.execute("SELECT * FROM jobq.claim(%s, 100) LIMIT 1", [queue]).fetchall()
        expect_equal((len(rows), running()), (1, 100), "rows and running jobs with LIMIT 1")
        session.execute(f"BEGIN; DECLARE c CURSOR FOR SELECT * FROM jobq.claim('{queue}', 100)")
        session.execute("FETCH 1 FROM c")
        session.execute("CLOSE c; COMMIT")
        expect_equal(running(), 200, "running jobs after a cursor")
        session.execute("EXPLAIN ANALYZE SELECT * FROM jobq.claim(%s, 100)", [queue])
        expect_equal(running(), 300, "running jobs after EXPLAIN ANALYZE")
        session.execute("EXPLAIN SELECT * FROM jobq.claim(%s, 100)", [queue])
    sql = "SELECT DISTINCT state, attempt, worker IS NOT NULL FROM jobq.jobs WHERE queue = %s"
    expect_equal(world.root.execute(sql, [queue]).fetchall(), [("running", 1, True)], "states, attempts and workers")


@scene(75, what="several claims in one statement: no job twice")
def claims_in_one_statement(world: World) -> None:
    queue = world.new_queue()
    enqueue_many(world.app, queue, 60)
    with world.connection() as session:
        queries = ["SELECT id FROM jobq.claim(%(q)s, 5) UNION ALL SELECT id FROM jobq.claim(%(q)s, 5)",
                   "SELECT (jobq.claim(%(q)s, 5)).id UNION ALL SELECT (jobq.claim(%(q)s, 5)).id",
                   ("WITH a AS MATERIALIZED (SELECT id FROM jobq.claim(%(q)s, 5)), "
                    "b AS MATERIALIZED (SELECT id FROM jobq.claim(%(q)s, 5)) TABLE a UNION ALL TABLE b"),
                   "SELECT c.id FROM generate_series(1, 2) AS g, LATERAL (SELECT id, g FROM jobq.claim(%(q)s, 5 + 0 * g)) AS c"]
        ids = [row[0] for sql in queries for row in session.execute(sql, {"q": queue}).fetchall()]
        expect_equal((len(ids), len(set(ids))), (40, 40), "rows and different jobs")
        session.execute("SELECT 1 FROM generate_series(1, 2) WHERE EXISTS (SELECT FROM jobq.claim(%s, 5))", [queue])
    attempts = scalar(world.root, "SELECT max(attempt) FROM jobq.jobs WHERE queue = %s", [queue])
    expect_equal(attempts, 1, "the most attempts of a job")


@scene(76, what="sixty sessions claim from an empty queue in a loop: nothing is handed out, nobody waits for a lock")
def crowd_at_an_empty_queue(world: World) -> None:
    queue = world.new_queue()
    done = threading.Event()

    def worker(session: Connection) -> int:
        return sum(len(claim(session, queue)) for _ in range(30))

    def watch() -> int:
        seen = 0
        with world.connection("postgres") as watcher:
            while not done.is_set():
                seen += scalar(watcher, "SELECT count(*) FROM pg_locks WHERE NOT granted")
                time.sleep(0.005)
        return seen

    sessions = [world.connection() for _ in range(60)]
    with Background() as background:
        watching = background.run(watch)
        got = [future.result(60) for future in [background.run(worker, session) for session in sessions]]
        done.set()
        expect_equal(sum(got), 0, "jobs handed out")
        expect_equal(watching.result(10), 0, "locks waited for")
    for session in sessions:
        session.close()
