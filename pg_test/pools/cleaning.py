"""After each job its worker's session is as it was: the next job of the same process finds nothing of it."""

from __future__ import annotations

from cluster import Cluster
from live import sqlstate
from report import Report, expect_equal
from stage import scene, stage

# What a session can have in it.
LOOK = """
    RETURN jsonb_build_object(
        'pid', pg_backend_pid(),
        'settings', (SELECT jsonb_object_agg(name, setting) FROM pg_settings WHERE source = 'session'),
        'custom', current_setting('my.own', true), 'role', current_setting('role'), 'users', ARRAY[session_user, current_user],
        'everything', (SELECT jsonb_object_agg(name, setting) FROM pg_settings WHERE name NOT LIKE 'transaction_%'),
        'locks', (SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'),
        'prepared', (SELECT count(*) FROM pg_prepared_statements), 'cursors', (SELECT count(*) FROM pg_cursors),
        'listening', (SELECT count(*) FROM pg_listening_channels()),
        'temporary', (SELECT count(*) FROM pg_class WHERE relnamespace = pg_my_temp_schema())
                   + (SELECT count(*) FROM pg_proc WHERE pronamespace = pg_my_temp_schema()),
        'sequence', (SELECT count(*) FROM (SELECT 1 WHERE NOT has_lastval()) AS s));
"""

LEAVINGS = {
    "settings": "SET default_transaction_read_only = on; SET search_path = evil; SET statement_timeout = '1ms'; SET lock_timeout = '1ms';"
                "SET default_transaction_isolation = serializable; SET work_mem = '64kB'; SET my.own = 'left'; SET TIME ZONE 'Asia/Tokyo';"
                "SET enable_indexscan = off; SET row_security = off; SET session_characteristics_do_not_exist.x = 1;",
    "set_config": "PERFORM set_config('search_path', 'evil', false), set_config('DateStyle', 'German', false), set_config('jobq.notify_channel', '', false);",
    "own role": "SET ROLE cleaning;",
    "other role": "SET ROLE other;",
    "authorization": "SET SESSION AUTHORIZATION cleaning;",
    "temporary": "CREATE TEMP TABLE left_behind (x int); CREATE TYPE pg_temp.t AS (x int); CREATE FUNCTION pg_temp.f() RETURNS int LANGUAGE sql AS 'SELECT 1';"
                 "CREATE TEMP SEQUENCE s; PERFORM nextval('s');",
    "locks": "PERFORM pg_advisory_lock(1), pg_advisory_lock(1), pg_advisory_lock_shared(2, 3), pg_advisory_xact_lock(4);",
    "prepared": "EXECUTE 'PREPARE left_behind AS SELECT 1';",
    "cursor": "EXECUTE 'DECLARE left_behind CURSOR WITH HOLD FOR SELECT generate_series(1, 100000)';",
    "sequence": "PERFORM nextval('counter');",
    "reset": "RESET ALL;",
    "discard": "EXECUTE 'DISCARD PLANS'; EXECUTE 'DISCARD SEQUENCES'; EXECUTE 'DISCARD TEMP';",
}


@scene("settings, roles, temporary objects, advisory locks, prepared statements, cursors, sequences: gone, whether the job completes, fails or COMMITs")
def clean(server: Cluster, report: Report) -> None:
    with stage(server, "cleaning") as s:
        s.root.execute("CREATE ROLE other; GRANT other TO cleaning; CREATE SEQUENCE cleaning.counter; GRANT ALL ON SEQUENCE cleaning.counter TO cleaning, other;"
                       "GRANT TEMP ON DATABASE postgres TO cleaning; ALTER ROLE cleaning SET work_mem = '5MB'; ALTER ROLE cleaning SET my.own = 'role';"
                       "CREATE FUNCTION public.has_lastval() RETURNS boolean LANGUAGE plpgsql AS "
                       "$$ BEGIN PERFORM lastval(); RETURN true; EXCEPTION WHEN OTHERS THEN RETURN false; END $$")
        try:
            s.handler("looks", LOOK.replace("has_lastval", "public.has_lastval"))
            for what, leave in LEAVINGS.items():
                s.handler(f"{what}-completes".replace(" ", "-"), leave, returns="void")
                s.handler(f"{what}-fails".replace(" ", "-"), leave + "PERFORM 1 / 0;", returns="void")
                s.handler(f"{what}-commits".replace(" ", "-"), leave + "COMMIT; PERFORM 1 / 0;", returns=None)
            s.start()
            first = s.run("looks")["result"]
            expect_equal((first["users"], first["role"], first["everything"]["work_mem"]), (["cleaning"] * 2, "none", "5120"),
                         "a worker's session to begin with")
            processes = {first["pid"]}
            for what in LEAVINGS:
                for end in ("completes", "fails", "commits"):
                    kind = f"{what}-{end}".replace(" ", "-")
                    # The job that looks is there before: it is the next one of the same process.
                    with s.root.transaction():
                        leaves, looks = s.enqueue(kind, max_attempts=1), s.enqueue("looks")
                    found = s.ends(looks, "completed")["result"]
                    s.until_job(leaves, lambda job: job["finished_at"], "over")
                    processes.add(found["pid"])
                    different = {key: (first[key], found[key]) for key in first if key != "pid" and found[key] != first[key]}
                    expect_equal(different, {}, f"what the job after {kind} finds")
            report.note(f"{len(LEAVINGS) * 3} jobs that leave something, in {len(processes)} processes")
        finally:
            s.root.execute("DROP FUNCTION public.has_lastval(); DROP OWNED BY other; DROP ROLE other")


@scene("a worker that has run 500 jobs with errors, subtransactions and temporary tables has the memory it began with, and no file left open")
def leaks(server: Cluster, report: Report) -> None:
    with stage(server, "leaks") as s:
        s.handler("litters", "CREATE TEMP TABLE t AS SELECT repeat('x', 1000) FROM generate_series(1, 100);"
                             "BEGIN PERFORM 1 / 0; EXCEPTION WHEN OTHERS THEN NULL; END; IF random() < 0.5 THEN RAISE 'no'; END IF;", returns="void")
        s.handler("tells", "RETURN to_jsonb((SELECT sum(total_bytes) FROM pg_backend_memory_contexts));")
        s.root.execute("GRANT pg_read_all_stats TO leaks; GRANT TEMP ON DATABASE postgres TO leaks")
        s.start()
        figures = []
        for _ in range(3):
            s.enqueue_many("litters", 200)
            s.root.execute("SELECT jobq.alter_queue('leaks', max_attempts => 1)")
            s.until_all_over()
            figures.append(s.run("tells")["result"])
        report.note(f"memory contexts after 200, 400, 600 jobs: {figures} bytes")
        expect_equal(figures[2] < figures[0] * 1.5, True, f"no growth: {figures}")
        expect_equal(sqlstate(s.root, "SELECT 1"), "ok", "the server")
