"""Enqueue: unique keys, transactions, a hostile search_path, timeouts, triggers and plans, a full disk."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from live import Background, connect, scalar, sqlstate, until, until_lock_wait
from machine import give_to_server_user, is_root
from report import Skipped, expect, expect_equal
from scene import PAYLOAD, Scenes, claim, enqueue, expect_refused, job, pid_of
from world import World

scene = SCENES = Scenes()


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
CREATE FUNCTION evil.hijack() RETURNS boolean LANGUAGE plpgsql AS
    $$ BEGIN RAISE SQLSTATE 'HJ000' USING MESSAGE = 'hijacked'; END $$;
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
                    "SELECT jobq.purge('hostile', 'completed', '0')", "SELECT jobq.pause('hostile')",
                    "SELECT jobq.resume('hostile')", "SELECT jobq.stats()", "SELECT jobq.diagnose()", "SELECT jobq.version()",
                    "TABLE jobq.jobs", "TABLE jobq.queues", "TABLE jobq.workers", "TABLE jobq.running_jobs",
                    "TABLE jobq.failed_jobs", "SELECT jobq.drop_queue('hostile', true)"):
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
        session.execute("""CREATE TABLE big AS SELECT g FROM generate_series(1, 1000) AS g; ANALYZE big;
                           ALTER TABLE big SET (parallel_workers = 4);
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
                session.execute("CREATE FUNCTION noise() RETURNS jsonb LANGUAGE sql VOLATILE AS $$ SELECT "
                                "jsonb_build_array(string_agg(md5(random()::text), '')) FROM generate_series(1, 10000) $$")
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
    command = ["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=0700", "tmpfs", folder]
    mounted = (is_root() and shutil.which("mount")
               and subprocess.run(command, check=False, capture_output=True).returncode == 0)
    try:
        if not mounted:
            raise Skipped("needs the right to mount a small file system")
        give_to_server_user(folder)
        yield folder
    finally:
        if mounted:
            subprocess.run(["umount", folder], check=True)
        folder.rmdir()
