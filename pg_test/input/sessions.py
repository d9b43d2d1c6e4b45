"""Rows of the catalogue that take several sessions, a lost session, locks, timeouts or planner settings."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from live import Background, Connection, connect, scalar, sqlstate, until, until_lock_wait
from machine import give_to_server_user, is_root
from report import Failed, Skipped, expect, expect_equal
from values import CANARY
from world import World

PAYLOAD = f'{{"secret": "{CANARY}"}}'


@dataclass(frozen=True)
class Scene:
    rows: tuple[int, ...]
    what: str
    play: Callable[[World], None]
    # The server goes through a crash; whatever comes later starts anew.
    crashes: bool = False

    def title(self) -> str:
        return f"[{', '.join(map(str, self.rows))}] {self.what}"


SCENES: list[Scene] = []


def scene(*rows: int, what: str, crashes: bool = False) -> Callable[[Callable[[World], None]], Callable[[World], None]]:
    def add(play: Callable[[World], None]) -> Callable[[World], None]:
        SCENES.append(Scene(rows, what, play, crashes))
        return play

    return add


# ---- small steps ---------------------------------------------------------------------------------------------------------------


def enqueue(session: Connection, queue: str, *, unique_key: str | None = None, max_attempts: int | None = None) -> Any:
    return scalar(session, "SELECT jobq.enqueue('k', %s, %s, max_attempts => %s, unique_key => %s)",
                  [PAYLOAD, queue, max_attempts, unique_key])


def enqueue_many(session: Connection, queue: str, number: int) -> None:
    for start in range(0, number, 10_000):
        session.execute("SELECT count(*) FROM jobq.enqueue_many('k', (SELECT jsonb_agg('{}'::jsonb) FROM generate_series(1, %s)), %s)",
                        [min(10_000, number - start), queue])


def claim(session: Connection, queue: str, batch: int = 1, lease_for: str | None = None) -> list[tuple[Any, int, int]]:
    """Id, lease and attempt of each claimed job."""
    return session.execute("SELECT id, lease, attempt FROM jobq.claim(%s, %s, lease_for => %s)", [queue, batch, lease_for]).fetchall()


def job(world: World, id: Any) -> dict[str, Any]:
    cursor = world.root.execute("SELECT * FROM jobq.job(%s)", [id])
    row = cursor.fetchone()
    expect(row is not None, f"job {id} is gone")
    return dict(zip([c.name for c in cursor.description], row, strict=True))


def until_expired(world: World, id: Any) -> None:
    until(lambda: scalar(world.root, "SELECT lease_expires_at < clock_timestamp() FROM jobq.job(%s)", [id]), "the lease to expire")


def rescue(world: World, session: Connection, id: Any) -> None:
    """Rescues an expired job: at once, or when the grace after the server's start is over."""

    def gone() -> bool:
        session.execute("SELECT jobq.rescue_zombies()")
        return job(world, id)["state"] != "running"

    until_expired(world, id)
    until(gone, "the expired job to be rescued")


def pid_of(session: Connection) -> int:
    return session.info.backend_pid


def expect_refused(world: World, session: Connection, state: str, sql: str, parameters: Any = None) -> psycopg.Error:
    try:
        session.execute(sql, parameters)
    except psycopg.Error as error:
        world.expect_clean_error(error)
        expect_equal(error.sqlstate, state, f"SQLSTATE of {sql}: {error}")
        return error
    raise Failed(f"expected {state} from {sql}, and it went through")


# ---- enqueue -------------------------------------------------------------------------------------------------------------------


@scene(36, what="the holder of a unique_key rolls back: who waited adds the job")
def unique_key_rollback(world: World) -> None:
    queue = world.new_queue()
    with world.connection() as first, world.connection() as second, Background() as background:
        first.execute("BEGIN")
        lost = enqueue(first, queue, unique_key="u")
        waiting = background.run(lambda: enqueue(second, queue, unique_key="u"))
        until_lock_wait(world.root, pid_of(second))
        first.execute("ROLLBACK")
        got = waiting.result(30)
    expect(got != lost, "the waiter got the id of a job that never was")
    expect_equal(job(world, got)["unique_key"], "u", "unique_key of the waiter's job")
    expect_equal(scalar(world.root, "SELECT count(*) FROM jobq.job(%s)", [lost]), 0, "jobs with the rolled back id")


@scene(36, what="the holder of a unique_key commits: who waited gets its id")
def unique_key_commit(world: World) -> None:
    queue = world.new_queue()
    with world.connection() as first, world.connection() as second, Background() as background:
        first.execute("BEGIN")
        held = enqueue(first, queue, unique_key="u")
        waiting = background.run(lambda: enqueue(second, queue, unique_key="u"))
        until_lock_wait(world.root, pid_of(second))
        first.execute("COMMIT")
        expect_equal(waiting.result(30), held, "the id for the second enqueue")
    expect_equal(scalar(world.root, "SELECT count(*) FROM jobq.jobs WHERE queue = %s", [queue]), 1, "jobs")


@scene(36, what="a unique_key in REPEATABLE READ: 40001 after a concurrent commit, and nothing added")
def unique_key_repeatable_read(world: World) -> None:
    queue = world.new_queue()
    with world.connection() as first, world.connection() as second:
        second.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        second.execute("SELECT count(*) FROM jobq.jobs")
        enqueue(first, queue, unique_key="u")
        expect_refused(world, second, "40001", "SELECT jobq.enqueue('k', %s, %s, unique_key => 'u')", [PAYLOAD, queue])
        second.execute("ROLLBACK")
    expect_equal(scalar(world.root, "SELECT count(*) FROM jobq.jobs WHERE queue = %s", [queue]), 1, "jobs")


@scene(39, what="in a transaction that has failed already: 25P02")
def aborted_transaction(world: World) -> None:
    queue = world.new_queue()
    with world.connection() as session:
        before = world.fingerprint()
        session.execute("BEGIN")
        expect_refused(world, session, "22012", "SELECT 1 / 0")
        for sql in ("SELECT jobq.enqueue('k')", "SELECT * FROM jobq.claim()", "SELECT jobq.complete(gen_random_uuid(), 1)"):
            expect_refused(world, session, "25P02", sql)
        session.execute("ROLLBACK")
        expect_equal(world.fingerprint(), before, "rows")
        enqueue(session, queue)


@scene(40, what="enqueue rolled back, whole or to a savepoint: nothing to see, nothing to claim")
def rolled_back_enqueue(world: World) -> None:
    queue = world.new_queue()
    with world.connection() as session:
        session.execute("BEGIN")
        enqueue(session, queue)
        session.execute("ROLLBACK")
        session.execute("BEGIN")
        kept = enqueue(session, queue)
        session.execute("SAVEPOINT s")
        gone = enqueue(session, queue, unique_key="u")
        session.execute("ROLLBACK TO SAVEPOINT s")
        session.execute("COMMIT")
        expect_equal([row[0] for row in claim(session, queue, 10)], [kept], "the jobs to claim")
        expect_equal(scalar(session, "SELECT count(*) FROM jobq.job(%s)", [gone]), 0, "the rolled back job")


@scene(41, what="enqueue and PREPARE TRANSACTION, then COMMIT PREPARED and ROLLBACK PREPARED")
def prepared_enqueue(world: World) -> None:
    queue = world.new_queue()
    with world.connection() as session:
        for end, left in (("COMMIT", 1), ("ROLLBACK", 0)):
            session.execute("BEGIN")
            enqueue(session, queue)
            session.execute("PREPARE TRANSACTION 'jobq_enqueue'")
            expect_equal(claim(session, queue), [], "jobs before the end of the prepared transaction")
            session.execute(f"{end} PREPARED 'jobq_enqueue'")
            expect_equal(len(claim(session, queue, 10)), left, f"jobs after {end} PREPARED")


# A function of each name that jobq's SQL might use without its schema; whoever is called says so.
SHADOWS = """
CREATE SCHEMA evil AUTHORIZATION app;
SET ROLE app;
CREATE FUNCTION evil.hijack() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN RAISE SQLSTATE 'HJ000' USING MESSAGE = 'hijacked'; END $$;
CREATE FUNCTION evil.now() RETURNS timestamptz LANGUAGE sql AS 'SELECT evil.hijack()::text::timestamptz';
CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT evil.hijack()::text::timestamptz';
CREATE FUNCTION evil.statement_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT evil.hijack()::text::timestamptz';
CREATE FUNCTION evil.jsonb_typeof(jsonb) RETURNS text LANGUAGE sql AS 'SELECT evil.hijack()::text';
CREATE FUNCTION evil.jsonb_array_elements(jsonb) RETURNS SETOF jsonb LANGUAGE sql AS 'SELECT evil.hijack()::text::jsonb';
CREATE FUNCTION evil.jsonb_build_object(VARIADIC text[]) RETURNS jsonb LANGUAGE sql AS 'SELECT evil.hijack()::text::jsonb';
CREATE FUNCTION evil.gen_random_uuid() RETURNS uuid LANGUAGE sql AS 'SELECT evil.hijack()::text::uuid';
CREATE FUNCTION evil.count(integer) RETURNS bigint LANGUAGE sql AS 'SELECT evil.hijack()::text::bigint';
CREATE FUNCTION evil.unnest(uuid[]) RETURNS SETOF uuid LANGUAGE sql AS 'SELECT evil.hijack()::text::uuid';
CREATE FUNCTION evil.eq(uuid, uuid) RETURNS boolean LANGUAGE sql AS 'SELECT evil.hijack()';
CREATE FUNCTION evil.eq(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT evil.hijack()';
CREATE FUNCTION evil.eq(integer, integer) RETURNS boolean LANGUAGE sql AS 'SELECT evil.hijack()';
CREATE FUNCTION evil.eq(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT evil.hijack()';
CREATE FUNCTION evil.eq("char", "char") RETURNS boolean LANGUAGE sql AS 'SELECT evil.hijack()';
CREATE FUNCTION evil.le(timestamptz, timestamptz) RETURNS boolean LANGUAGE sql AS 'SELECT evil.hijack()';
CREATE FUNCTION evil.cat(jsonb, jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT evil.hijack()::text::jsonb';
CREATE FUNCTION evil.plus(timestamptz, interval) RETURNS timestamptz LANGUAGE sql AS 'SELECT evil.hijack()::text::timestamptz';
CREATE OPERATOR evil.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = evil.eq);
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.eq);
CREATE OPERATOR evil.= (LEFTARG = integer, RIGHTARG = integer, FUNCTION = evil.eq);
CREATE OPERATOR evil.= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.eq);
CREATE OPERATOR evil.= (LEFTARG = "char", RIGHTARG = "char", FUNCTION = evil.eq);
CREATE OPERATOR evil.<= (LEFTARG = timestamptz, RIGHTARG = timestamptz, FUNCTION = evil.le);
CREATE OPERATOR evil.|| (LEFTARG = jsonb, RIGHTARG = jsonb, FUNCTION = evil.cat);
CREATE OPERATOR evil.+ (LEFTARG = timestamptz, RIGHTARG = interval, FUNCTION = evil.plus);
CREATE TABLE evil._job (id uuid); CREATE TABLE evil._queue (id int);
RESET ROLE;
"""


@scene(43, what="a hostile search_path and temporary tables of jobq's names: nobody's function is called")
def hostile_search_path(world: World) -> None:
    world.server.psql(SHADOWS)
    with world.connection() as session:
        session.execute("CREATE TEMP TABLE _job (id uuid); CREATE TEMP TABLE _queue (id int); CREATE TEMP TABLE jobs (id uuid)")
        session.execute("SET search_path = evil, pg_temp, pg_catalog, public")
        expect_refused(world, session, "HJ000", "SELECT 1::int = 2::int")

        def value(sql: str, *parameters: Any) -> Any:
            return scalar(session, sql, parameters)

        value("SELECT jobq.create_queue('hostile')")
        value("SELECT jobq.alter_queue('hostile', max_attempts => 2, backoff => '{\"kind\": \"constant\", \"base\": \"0s\"}')")
        ids = [value("SELECT jobq.enqueue('k', %s, 'hostile', unique_key => %s)", PAYLOAD, key) for key in "abcdef"]
        value("SELECT jobq.enqueue_many('k', '[{}, {}]', 'hostile')")
        value("SELECT jobq.enqueue_jobs('[{\"kind\": \"k\", \"queue\": \"hostile\", \"unique_key\": \"a\"}]')")
        value("SELECT jobq.cancel(%s)", ids[0])
        value("SELECT jobq.retry(%s)", ids[0])
        value("SELECT jobq.reschedule(%s)", ids[1])
        value("SELECT jobq.delete(%s)", ids[2])
        claimed = session.execute("SELECT id, lease FROM jobq.claim('hostile', 7)").fetchall()
        expect_equal(len(claimed), 7, "claimed jobs")
        (a, b, c, d, *_) = claimed
        value("SELECT jobq.heartbeat(%s, %s, progress => 5)", *a)
        value("SELECT jobq.heartbeat_many(ARRAY[%s]::uuid[], ARRAY[%s]::bigint[])", *a)
        value("SELECT jobq.complete(%s, %s)", *a)
        value("SELECT jobq.fail(%s, %s, 'x', retry => false)", *b)
        value("SELECT jobq.release(%s, %s)", *c)
        value("SELECT jobq.complete_many(ARRAY[%s]::uuid[], ARRAY[%s]::bigint[])", *d)
        for sql in ("SELECT jobq.retry_failed('hostile')", "SELECT jobq.rescue_zombies()", "SELECT jobq.tick()",
                    "SELECT jobq.purge('hostile', 'completed', '0')", "SELECT jobq.pause('hostile')", "SELECT jobq.resume('hostile')",
                    "SELECT jobq.stats()", "SELECT jobq.diagnose()", "SELECT jobq.version()", "TABLE jobq.jobs", "TABLE jobq.queues",
                    "TABLE jobq.workers", "TABLE jobq.running_jobs", "TABLE jobq.failed_jobs", "SELECT jobq.drop_queue('hostile', true)"):
            session.execute(sql)
        value("SELECT jobq.job(%s)", a[0])
        expect_equal(value("SHOW search_path"), "evil, pg_temp, pg_catalog, public", "search_path afterwards")
    # The name is free for the next pass over the same database.
    world.server.psql("DROP SCHEMA evil CASCADE")


@scene(44, what="statement_timeout ends a million enqueues, and none of them stays")
def timeout_in_enqueue(world: World) -> None:
    queue = world.new_queue()
    with world.connection() as session:
        session.execute("SET statement_timeout = '300ms'")
        expect_refused(world, session, "57014",
                       "SELECT count(jobq.enqueue('k', %s, %s)) FROM generate_series(1, 1000000)", [PAYLOAD, queue])
        session.execute("RESET statement_timeout")
        expect_equal(scalar(session, "SELECT count(*) FROM jobq.jobs WHERE queue = %s", [queue]), 0, "jobs")


@scene(23, what="a payload of a million keys can be cancelled")
def timeout_in_payload(world: World) -> None:
    with world.connection() as session:
        session.execute("SET statement_timeout = '100ms'")
        expect_refused(world, session, "57014",
                       "SELECT jobq.enqueue('k', (SELECT jsonb_object_agg('k' || g, g) FROM generate_series(1, 1000000) AS g))")


@scene(45, what="enqueue from a trigger")
def enqueue_from_trigger(world: World) -> None:
    queue = world.new_queue()
    with world.connection() as session:
        session.execute(f"""
            CREATE TABLE orders (id int);
            CREATE FUNCTION on_order() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN PERFORM jobq.enqueue('order', jsonb_build_object('order', NEW.id), '{queue}'); RETURN NEW; END $$;
            CREATE TRIGGER on_order AFTER INSERT ON orders FOR EACH ROW EXECUTE FUNCTION on_order()""")
        session.execute("INSERT INTO orders SELECT generate_series(1, 3)")
        session.execute("BEGIN; INSERT INTO orders VALUES (4); ROLLBACK")
        session.execute("DROP TABLE orders; DROP FUNCTION on_order()")
        expect_equal(scalar(session, "SELECT count(*) FROM jobq.jobs WHERE queue = %s", [queue]), 3, "jobs")


@scene(45, what="enqueue in a query that would like to be parallel: no parallel plan")
def enqueue_in_parallel_query(world: World) -> None:
    queue = world.new_queue()
    with world.connection() as session:
        session.execute("""CREATE TABLE big AS SELECT g FROM generate_series(1, 1000) AS g; ANALYZE big; ALTER TABLE big SET (parallel_workers = 4);
                           SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; SET min_parallel_table_scan_size = 0""")
        session.execute("SET debug_parallel_query = on" if world.major >= 16 else "SET force_parallel_mode = on")
        sql = f"SELECT count(jobq.enqueue('k', '{{}}', '{queue}')) FROM big"
        plan = "\n".join(row[0] for row in session.execute(f"EXPLAIN {sql}").fetchall())
        expect("Gather" not in plan, f"a parallel plan: {plan}")
        session.execute(sql)
        session.execute("DROP TABLE big")
        expect_equal(scalar(session, "SELECT count(*) FROM jobq.jobs WHERE queue = %s", [queue]), 1000, "jobs")


@scene(45, what="enqueue in an index expression: 42P17")
def enqueue_in_index(world: World) -> None:
    with world.connection() as session:
        session.execute("CREATE TABLE indexed (t text)")
        expect_refused(world, session, "42P17", "CREATE INDEX ON indexed (jobq.enqueue(t))")
        session.execute("DROP TABLE indexed")


@scene(47, what="the disk of the database is full: 53100, the job is not there, other sessions live")
def disk_full(world: World) -> None:
    with small_disk(world, 32) as folder, world.connection("postgres") as root:
        root.execute(f"CREATE TABLESPACE small LOCATION '{folder}'")
        root.execute("CREATE DATABASE small TABLESPACE small")
        try:
            with connect(world.server, dbname="small") as session, connect(world.server, dbname="small") as other:
                session.execute("CREATE EXTENSION jobq")
                session.execute("CREATE FUNCTION noise() RETURNS jsonb LANGUAGE sql VOLATILE AS "
                                "$$ SELECT jsonb_build_array(string_agg(md5(random()::text), '')) FROM generate_series(1, 10000) $$")
                stored = 0
                while (state := sqlstate(session, "SELECT jobq.enqueue('k', noise())")) == "ok":
                    stored += 1
                    expect(stored < 1000, "the disk is never full")
                expect_equal(state, "53100", "SQLSTATE")
                expect_equal(scalar(other, "SELECT count(*) FROM jobq.jobs"), stored, "jobs for another session")
                expect_equal(scalar(session, "SELECT 1"), 1, "the same session")
        finally:
            until(lambda: sqlstate(root, "DROP DATABASE IF EXISTS small WITH (FORCE)") == "ok", "the database to be dropped")
            root.execute("CHECKPOINT")
            root.execute("DROP TABLESPACE small")


@contextlib.contextmanager
def small_disk(world: World, mib: int) -> Iterator[Path]:
    """A file system of this size in memory."""
    folder = world.server.folder / "small"
    folder.mkdir()
    mounted = is_root() and shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "tmpfs", folder], capture_output=True).returncode == 0
    try:
        if not mounted:
            raise Skipped("needs the right to mount a small file system")
        give_to_server_user(folder)
        yield folder
    finally:
        if mounted:
            subprocess.run(["umount", folder], check=True)
        folder.rmdir()


# ---- claim ---------------------------------------------------------------------------------------------------------------------


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
        for sql in ("SELECT * FROM jobq.claim(%(queue)s)", "SELECT jobq.enqueue('k', queue => %(queue)s)", "SELECT jobq.complete(%(id)s, 1)",
                    "SELECT jobq.cancel(%(id)s)", "SELECT jobq.heartbeat(%(id)s, 1)", "SELECT jobq.rescue_zombies()"):
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
        touched = "SELECT count(*) FROM jobq._job AS j WHERE j.state = 'r' AND j.queue_id = (SELECT id FROM jobq._queue WHERE name = %s)"
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
        until(lambda: not scalar(world.root, "SELECT count(*) FROM pg_stat_activity WHERE pid = %s", [pid_of(session)]), "the session's end")
        expect_equal(sqlstate(session, "SELECT 1"), "25P03", "SQLSTATE for the idle session")
    expect_equal([row[2] for row in claim(world.app, queue)], [1], "attempt of the next claim")


@scene(73, what="planner settings that force nested loops: never more than the batch")
def claim_with_nested_loops(world: World) -> None:
    queue = world.new_queue()
    enqueue_many(world.app, queue, 2000)
    with world.connection() as session:
        session.execute("SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_material = off; SET enable_sort = off; SET plan_cache_mode = force_custom_plan")
        expect_equal(len(claim(session, queue, 3)), 3, "rows of the claim")
    expect_equal(scalar(world.root, "SELECT count(*) FROM jobq.jobs WHERE queue = %s AND state = 'running'", [queue]), 3, "running jobs")


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
    states = world.root.execute("SELECT DISTINCT state, attempt, worker IS NOT NULL FROM jobq.jobs WHERE queue = %s", [queue]).fetchall()
    expect_equal(states, [("running", 1, True)], "states, attempts and workers")


@scene(75, what="several claims in one statement: no job twice")
def claims_in_one_statement(world: World) -> None:
    queue = world.new_queue()
    enqueue_many(world.app, queue, 60)
    with world.connection() as session:
        queries = ["SELECT id FROM jobq.claim(%(q)s, 5) UNION ALL SELECT id FROM jobq.claim(%(q)s, 5)",
                   "SELECT (jobq.claim(%(q)s, 5)).id UNION ALL SELECT (jobq.claim(%(q)s, 5)).id",
                   "WITH a AS MATERIALIZED (SELECT id FROM jobq.claim(%(q)s, 5)), b AS MATERIALIZED (SELECT id FROM jobq.claim(%(q)s, 5)) TABLE a UNION ALL TABLE b",
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


# ---- complete, fail, heartbeat ----------------------------------------------------------------------------------------------------


@scene(82, what="an old lease after rescue and another claim: JQ001, the job keeps running under the new one")
def stale_after_rescue(world: World) -> None:
    queue = world.new_queue()
    id = enqueue(world.app, queue)
    [(_, old, _)] = claim(world.app, queue, lease_for="1 s")
    rescue(world, world.app, id)
    [(again, new, attempt)] = claim(world.app, queue)
    expect_equal((again, attempt), (id, 2), "the second claim")
    expect(new > old, f"leases do not increase: {old}, {new}")
    with world.connection() as session:
        before = world.fingerprint()
        for call in ("complete(%s, %s)", "fail(%s, %s)", "release(%s, %s)", "heartbeat(%s, %s)"):
            error = expect_refused(world, session, "JQ001", f"SELECT jobq.{call}", [id, old])
            expect(str(new) not in str(error) and str(old) not in str(error), "the message shows a lease")
        session.execute("BEGIN; CREATE TEMP TABLE mine (x int)")
        expect_refused(world, session, "JQ001", "SELECT jobq.complete(%s, %s)", [id, old])
        expect_equal(sqlstate(session, "SELECT 1"), "25P02", "the caller's own transaction")
        session.execute("ROLLBACK")
        expect_equal(world.fingerprint(), before, "rows")
    expect_equal(scalar(world.app, "SELECT jobq.complete(%s, %s)", [id, new]), "completed", "complete by the holder")


@scene(82, what="an old lease after a rescue, before anybody claims again: JQ001, for this lease has finished nothing")
def stale_after_rescue_to_pending(world: World) -> None:
    queue = world.new_queue()
    id = enqueue(world.app, queue)
    [(_, lease, _)] = claim(world.app, queue, lease_for="1 s")
    rescue(world, world.app, id)
    with world.connection() as session:
        for call in ("complete", "fail", "release", "heartbeat"):
            expect_refused(world, session, "JQ001", f"SELECT jobq.{call}(%s, %s)", [id, lease])
    expect_equal((job(world, id)["state"], job(world, id)["attempt"]), ("pending", 1), "state and attempt")


@scene(84, what="a job that a rescue has given up on: JQ001 for the lost worker")
def stale_after_rescue_to_failed(world: World) -> None:
    queue = world.new_queue()
    id = enqueue(world.app, queue, max_attempts=1)
    [(_, lease, _)] = claim(world.app, queue, lease_for="1 s")
    rescue(world, world.app, id)
    expect_equal(job(world, id)["state"], "failed", "state after the rescue")
    with world.connection() as session:
        for call in ("complete", "fail", "release", "heartbeat"):
            expect_refused(world, session, "JQ001", f"SELECT jobq.{call}(%s, %s)", [id, lease])


@scene(84, what="a failed job that was retried by hand: JQ001 for the lease that failed it")
def stale_after_retry(world: World) -> None:
    queue = world.new_queue()
    id = enqueue(world.app, queue, max_attempts=1)
    [(_, lease, _)] = claim(world.app, queue)
    world.app.execute("SELECT jobq.fail(%s, %s)", [id, lease])
    world.app.execute("SELECT jobq.retry(%s)", [id])
    with world.connection() as session:
        for call in ("complete", "heartbeat"):
            expect_refused(world, session, "JQ001", f"SELECT jobq.{call}(%s, %s)", [id, lease])


@scene(84, what="a job that another lease has completed: JQ001")
def completed_by_another(world: World) -> None:
    queue = world.new_queue()
    id = enqueue(world.app, queue)
    [(_, old, _)] = claim(world.app, queue, lease_for="1 s")
    rescue(world, world.app, id)
    [(_, new, _)] = claim(world.app, queue)
    world.app.execute("SELECT jobq.complete(%s, %s)", [id, new])
    with world.connection() as session:
        for call in ("complete", "fail", "release", "heartbeat"):
            expect_refused(world, session, "JQ001", f"SELECT jobq.{call}(%s, %s)", [id, old])


@scene(85, what="an expired lease that nobody has rescued yet is still good")
def expired_lease(world: World) -> None:
    queue = world.new_queue()
    for call, wanted in (("complete", "completed"), ("fail", "pending"), ("release", "pending"), ("heartbeat", True)):
        id = enqueue(world.app, queue)
        [(_, lease, _)] = claim(world.app, queue, lease_for="1 s")
        until_expired(world, id)
        expect_equal(scalar(world.app, f"SELECT jobq.{call}(%s, %s)", [id, lease]), wanted, call)
        world.app.execute("SELECT jobq.cancel(%s)", [id])


@scene(87, what="without the right to complete: 42501, the same for an id that exists and one that does not")
def no_hint_of_existence(world: World) -> None:
    queue = world.new_queue()
    id = enqueue(world.app, queue)
    [(_, lease, _)] = claim(world.app, queue)
    with world.connection("producer") as session:
        for call in ("complete(%s, %s)", "fail(%s, %s)", "heartbeat(%s, %s)"):
            texts = [str(expect_refused(world, session, "42501", f"SELECT jobq.{call}", [which, lease]))
                     for which in (id, "01900000-0000-7000-8000-000000000000")]
            expect_equal(texts[0], texts[1], "the two messages")


@scene(88, what="complete in a transaction that rolls back: still running, and rescued later")
def rolled_back_complete(world: World) -> None:
    queue = world.new_queue()
    id = enqueue(world.app, queue)
    [(_, lease, _)] = claim(world.app, queue, lease_for="1 s")
    with world.connection() as session:
        session.execute("BEGIN")
        session.execute("SELECT jobq.complete(%s, %s)", [id, lease])
        session.execute("ROLLBACK")
    expect_equal(job(world, id)["state"], "running", "state after ROLLBACK")
    rescue(world, world.app, id)
    expect_equal((job(world, id)["state"], job(world, id)["crashes"]), ("pending", 1), "after the rescue")


@scene(89, what="complete and PREPARE TRANSACTION, then ROLLBACK PREPARED and COMMIT PREPARED")
def prepared_complete(world: World) -> None:
    queue = world.new_queue()
    id = enqueue(world.app, queue)
    [(_, lease, _)] = claim(world.app, queue, lease_for="1 s")
    with world.connection() as session:
        for end, state in (("ROLLBACK", "running"), ("COMMIT", "completed")):
            session.execute("BEGIN")
            session.execute("SELECT jobq.complete(%s, %s)", [id, lease])
            session.execute("PREPARE TRANSACTION 'jobq_complete'")
            until_expired(world, id)
            world.app.execute("SELECT jobq.rescue_zombies()")
            expect_equal(job(world, id)["state"], "running", "state while prepared")
            session.execute(f"{end} PREPARED 'jobq_complete'")
            expect_equal(job(world, id)["state"], state, f"state after {end} PREPARED")


@scene(91, what="complete_many with one stale lease among a hundred: JQ001 and nothing, or with on_stale => skip the other 99")
def one_stale_of_a_hundred(world: World) -> None:
    queue = world.new_queue()
    enqueue_many(world.app, queue, 100)
    claimed = claim(world.app, queue, 100)
    ids, leases = [row[0] for row in claimed], [row[1] for row in claimed]
    leases[57] -= 1
    with world.connection() as session:
        before = world.fingerprint()
        expect_refused(world, session, "JQ001", "SELECT * FROM jobq.complete_many(%s, %s)", [ids, leases])
        expect_equal(world.fingerprint(), before, "rows")
        done = session.execute("SELECT id, completed FROM jobq.complete_many(%s, %s, on_stale => 'skip')", [ids, leases]).fetchall()
        expect_equal([row[0] for row in done], ids, "one row per id, in their order")
        expect_equal([row[0] for row in done if not row[1]], [ids[57]], "the ids skipped")
    expect_equal(job(world, ids[57])["state"], "running", "the stale one")


@scene(94, 96, what="a thousand attempts: error history bounded, backoff never negative, never above its maximum, never an overflow")
def a_thousand_attempts(world: World) -> None:
    queue = world.new_queue(max_attempts=1000, backoff='{"kind": "exponential", "base": "5s", "factor": 1000, "max": "1h", "jitter": 0}')
    id = enqueue(world.app, queue)
    delays: list[float] = []
    with world.connection() as session:
        # One round trip an attempt: pipelined statements, each its own transaction.
        for attempt in range(1, 1001):
            [(_, lease, number)] = claim(session, queue)
            expect_equal(number, attempt, "attempt")
            if attempt in (1, 2, 31, 32, 63, 64, 999):
                session.execute("SELECT jobq.fail(%s, %s, %s)", [id, lease, "e" * 9000])
                delays.append(float(scalar(world.root, "SELECT extract(epoch FROM run_at - clock_timestamp()) FROM jobq.job(%s)", [id])))
                session.execute("SELECT jobq.reschedule(%s)", [id])
            else:
                session.execute("SELECT jobq.fail(%s, %s, %s, retry_in => '0')", [id, lease, "e" * 9000])
    expect_equal(job(world, id)["state"], "failed", "state after the last attempt")
    expect(all(0 < delay <= 3600 for delay in delays), f"delays in seconds: {delays}")
    expect(delays == sorted(delays) or max(abs(a - b) for a, b in zip(delays[1:], delays[2:])) < 30, f"delays shrink: {delays}")
    errors = job(world, id)["attempt_errors"]
    expect_equal((len(errors), errors[-1]["attempt"]), (20, 1000), "errors kept and the attempt of the last")
    size = scalar(world.root, "SELECT octet_length(attempt_errors::text) FROM jobq.job(%s)", [id])
    expect(size < 20 * 9000, f"bytes of errors: {size}")


@scene(98, what="the last attempt fails exactly once, whoever tries again")
def last_attempt(world: World) -> None:
    queue = world.new_queue()
    id = enqueue(world.app, queue, max_attempts=2)
    for wanted in ("pending", "failed"):
        [(_, lease, _)] = claim(world.app, queue)
        expect_equal(scalar(world.app, "SELECT jobq.fail(%s, %s, 'x', '0')", [id, lease]), wanted, "fail")
    expect_equal(sqlstate(world.app, "SELECT jobq.fail(%s, %s)", [id, lease]), "JQ002", "a repeated fail")
    expect_equal(claim(world.app, queue), [], "claims of a failed job")
    found = world.root.execute("SELECT state, attempt, jsonb_array_length(attempt_errors) FROM jobq.jobs WHERE id = %s", [id]).fetchall()
    expect_equal(found, [("failed", 2, 2)], "the job")


@scene(99, what="a stale lease in fail, and in fail with every option")
def stale_fail(world: World) -> None:
    queue = world.new_queue()
    id = enqueue(world.app, queue)
    [(_, lease, _)] = claim(world.app, queue)
    world.app.execute("SELECT jobq.release(%s, %s)", [id, lease])
    claim(world.app, queue)
    with world.connection() as session:
        before = world.fingerprint()
        for options in ("", ", 'x'", ", 'x', '1 s'", ", retry => false"):
            expect_refused(world, session, "JQ001", f"SELECT jobq.fail(%s, %s{options})", [id, lease])
        expect_equal(world.fingerprint(), before, "rows")


@scene(102, what="a heartbeat when the clock has gone back: the lease's end does not move back")
def clock_went_back(world: World) -> None:
    queue = world.new_queue()
    id = enqueue(world.app, queue)
    [(_, lease, _)] = claim(world.app, queue)
    # What a claim leaves behind when the clock then goes back by a day.
    world.root.execute("UPDATE jobq._job SET claimed_at = claimed_at + interval '1 day', seen_at = seen_at + interval '1 day', "
                       "lease_expires_at = lease_expires_at + interval '1 day' WHERE id = %s", [id])
    ends = job(world, id)["lease_expires_at"]
    for sql in ("SELECT jobq.heartbeat(%s, %s)", "SELECT jobq.heartbeat(%s, %s, '1 s')",
                "SELECT held FROM jobq.heartbeat_many(ARRAY[%s]::uuid[], ARRAY[%s]::bigint[])"):
        expect_equal(scalar(world.app, sql, [id, lease]), True, sql)
        expect(job(world, id)["lease_expires_at"] >= ends, "the lease's end moved back")
    expect_equal(scalar(world.app, "SELECT jobq.complete(%s, %s)", [id, lease]), "completed", "complete")


@scene(108, what="a job rescued three times is poison: failed, and the reason says so")
def poison(world: World) -> None:
    queue = world.new_queue(max_attempts=10)
    id = enqueue(world.app, queue)
    for crash in (1, 2, 3):
        [(_, _, attempt)] = claim(world.app, queue, lease_for="1 s")
        expect_equal(attempt, crash, "attempt")
        rescue(world, world.app, id)
        expect_equal((job(world, id)["state"], job(world, id)["crashes"]), ("failed" if crash == 3 else "pending", crash), "state and crashes")
    expect("poison" in job(world, id)["last_error"], f"the reason: {job(world, id)['last_error']}")
    expect_equal(claim(world.app, queue), [], "claims of a poison job")


# ---- crash: last, for everything before it is lost ---------------------------------------------------------------------------------


@scene(70, 107, what="another backend is killed: 57P02, then 57P03 or an answer; no job is lost, and no lease is judged during its grace", crashes=True)
def crash_of_another_backend(world: World) -> None:
    queue = world.new_queue()
    waiting_id = enqueue(world.app, queue)
    held_id = enqueue(world.app, world.new_queue())
    held_queue = job(world, held_id)["queue"]
    [(_, lease, _)] = claim(world.app, held_queue, lease_for="1 hour")
    # A lease of an hour that has just run out: after a start it gets one lease of grace.
    world.root.execute("UPDATE jobq._job SET claimed_at = claimed_at - interval '61 min', seen_at = seen_at - interval '61 min', "
                       "lease_expires_at = lease_expires_at - interval '61 min' WHERE id = %s", [held_id])
    with Background() as background:
        bystander, victim = world.connection(), world.connection()
        # The farewell is a warning; then the connection breaks.
        farewells: list[str | None] = []
        bystander.add_notice_handler(lambda notice: farewells.append(notice.sqlstate))
        answer = background.run(sqlstate, bystander, "SELECT pg_sleep(60)")
        until(lambda: scalar(world.root, "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = %s", [pid_of(bystander)]), "the bystander")
        os.kill(pid_of(victim), signal.SIGKILL)
        expect("57P02" in (answer.result(30), *farewells), f"the bystander was told {farewells} and {answer.result()}")
    refusals: set[str] = set()

    def back() -> bool:
        try:
            connect(world.server).close()
        except psycopg.OperationalError as error:
            refusals.add(str(error))
            return False
        return True

    until(back, "the server to answer again")
    strange = [text for text in refusals if "recovery" not in text and "starting up" not in text and "not yet accepting" not in text and "closed the connection" not in text]
    expect(not strange, f"refused for other reasons: {strange}")
    world.disconnect()
    world.connect()
    expect_equal(scalar(world.app, "SELECT jobq.rescue_zombies()"), 0, "jobs rescued during the grace")
    expect_equal(scalar(world.app, "SELECT jobq.rescue_zombies('1 s')"), 0, "jobs rescued during the grace, with older_than")
    expect_equal(job(world, held_id)["state"], "running", "the job with an hour of grace")
    expect_equal([row[0] for row in claim(world.app, queue)], [waiting_id], "the job that waited")
    expect_equal(scalar(world.app, "SELECT jobq.complete(%s, %s)", [held_id, lease]), "completed", "complete by the holder")
