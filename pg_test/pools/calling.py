"""Running a handler: what it wrote, its result and the end of its job are one; what its ERROR makes of the job."""

from __future__ import annotations

from cluster import Cluster
from live import sqlstate
from report import Report, expect, expect_equal
from stage import EFFECT, literal, scene, stage


@scene("what a handler wrote, its result and the job's completion commit together, in one transaction")
def together(server: Cluster, report: Report) -> None:
    with stage(server, "together") as s:
        s.handler("works", EFFECT + "RETURN jsonb_build_object('saw', to_jsonb(job), 'xid', pg_current_xact_id()::text);")
        s.start()
        job = s.run("works", {"note": "n"})
        saw = job["result"]["saw"]
        expect_equal((saw["id"], saw["queue"], saw["kind"], saw["payload"], saw["attempt"], saw["crashes"]),
                     (job["id"], s.queue, "works", {"note": "n"}, 1, 0), "the row that the handler was given")
        expect_equal(s.root.execute("SELECT xmin::text FROM together.effect UNION ALL SELECT xmin::text FROM jobq._history WHERE id = %s",
                                    [job["id"]]).fetchall(), [(job["result"]["xid"],)] * 2, "the transactions of effect and completion")


@scene("functions in PL/pgSQL and SQL, with and without BEGIN ATOMIC, SECURITY DEFINER and SET: void, NULL and any JSON are results")
def results(server: Cluster, report: Report) -> None:
    with stage(server, "results") as s:
        values = {"object": '{"a": [1, 2]}', "array": "[]", "number": "12345678901234567890.5", "string": '"s"', "null": "null"}
        for kind, value in values.items():
            s.handler(kind, f"RETURN '{value}';")
        s.handler("nothing", "RETURN NULL;")
        s.handler("void", EFFECT, returns="void")
        in_sql = {"sql": "RETURNS jsonb LANGUAGE sql AS $$ INSERT INTO results.effect VALUES ((job).id); SELECT '1'::jsonb $$",
                  "sql-void": "RETURNS void LANGUAGE sql AS $$ INSERT INTO results.effect VALUES ((job).id) $$",
                  "atomic": "RETURNS jsonb LANGUAGE sql BEGIN ATOMIC INSERT INTO results.effect VALUES ((job).id); SELECT '2'::jsonb; END",
                  "definer": "RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER SET work_mem = '1MB' "
                             "AS $$ BEGIN RETURN to_jsonb(ARRAY[current_user::text, session_user::text, current_setting('work_mem')]); END $$"}
        for kind, rest in in_sql.items():
            s.root.execute(f'CREATE FUNCTION results."{kind}"(job jobq.claimed_job) {rest}')
            s.register(kind, f'results."{kind}"(jobq.claimed_job)')
        s.start()
        got = {kind: s.job(s.run(kind)["id"])["result"] for kind in [*values, "nothing", "void", *in_sql]}
        shown = {kind: s.value("SELECT result::text FROM jobq.jobs WHERE kind = %s", [kind]) for kind in values}
        expect_equal(shown, values, "results, digit for digit")
        expect_equal([got[kind] for kind in ("nothing", "void", "sql", "sql-void", "atomic", "definer")],
                     [None, None, 1, None, 2, ["postgres", "results", "1MB"]], "other results")
        expect_equal(s.effects(), [(None, 4)], "effects")


@scene("an ERROR undoes what the handler wrote; SQLSTATE, message, DETAIL, HINT and CONTEXT are kept; backoff, the next attempts, then failed")
def errors(server: Cluster, report: Report) -> None:
    with stage(server, "errors") as s:
        s.handler("fails", EFFECT + "RAISE 'no % today', (job).kind USING ERRCODE = 'AB123', DETAIL = 'the detail', HINT = 'the hint';")
        s.handler("recovers", EFFECT + "IF (job).attempt < 3 THEN PERFORM 1 / 0; END IF; RETURN to_jsonb((job).last_error);")
        s.start()
        job = s.run("fails", state="failed", max_attempts=3)
        expect_equal((job["attempt"], len(job["attempt_errors"]), job["crashes"]), (3, 3, 0), "attempts, errors, crashes")
        for part in ("AB123: no fails today", "DETAIL:  the detail", "HINT:  the hint", 'CONTEXT:  PL/pgSQL function'):
            expect(all(part in error["error"] for error in job["attempt_errors"]), f"no {part!r} in {job['attempt_errors']}")
        recovered = s.until_job(s.enqueue("recovers", max_attempts=3), lambda job: job["state"] == "completed", "completed in the end")
        expect("22012: division by zero" in recovered["result"], f"the last error that the handler saw: {recovered['result']}")
        expect_equal(s.effects(), [(None, 1)], "effects: that of the attempt that completed")


@scene("a deferred constraint that fails at the commit fails the job, and nothing it wrote stays; so does one that fails at a procedure's COMMIT")
def deferred(server: Cluster, report: Report) -> None:
    with stage(server, "deferred") as s:
        s.root.execute("CREATE TABLE deferred.once (x int UNIQUE DEFERRABLE INITIALLY DEFERRED); GRANT ALL ON deferred.once TO deferred")
        write = EFFECT + "INSERT INTO once VALUES (1), (1);"
        s.handler("function", write, returns="void")
        s.handler("procedure", write, returns=None)
        s.handler("commits", write + "COMMIT;", returns=None)
        s.start()
        for kind in ("function", "procedure", "commits"):
            job = s.run(kind, state="failed", max_attempts=2)
            expect_equal(job["attempt"], 2, f"attempts of {kind}")
            for part in ("23505: duplicate key", "DETAIL:  Key (x)=(1) already exists."):
                expect(part in job["last_error"], f"{kind}: no {part!r} in {job['last_error']}")
        expect_equal(s.effects(), [], "effects")


@scene("jobq.snooze and SQLSTATE JQ005 put the job back and give the attempt back; jobq.discard and JQ006 fail it for good")
def wishes(server: Cluster, report: Report) -> None:
    with stage(server, "wishes") as s:
        # Each runs once before; a sequence remembers that, as no transaction undoes it.
        s.root.execute("CREATE SEQUENCE wishes.runs; GRANT ALL ON wishes.runs TO wishes")
        later = EFFECT + "IF nextval('runs') % 2 = 1 THEN {} END IF; RETURN to_jsonb((job).attempt);"
        s.handler("snoozes", later.format("PERFORM jobq.snooze('20 ms');"))
        s.handler("raises-JQ005", later.format("RAISE 'later' USING ERRCODE = 'JQ005', DETAIL = '20';"))
        s.handler("snoozes-long", EFFECT + "PERFORM jobq.snooze('1 hour');")
        s.handler("discards", EFFECT + "PERFORM jobq.discard('no use');")
        s.handler("raises-JQ006", EFFECT + "RAISE 'no use' USING ERRCODE = 'JQ006';")
        s.start()
        for kind in ("snoozes", "raises-JQ005"):
            job = s.run(kind, max_attempts=1)
            expect_equal((job["result"], job["attempt"], job["attempt_errors"]), (1, 1, None), f"{kind}: attempt and errors")
        job = s.until_job(s.enqueue("snoozes-long"), lambda job: job["state"] == "pending" and job["attempt"] == 0 and job["run_at"] > job["enqueued_at"],
                          "put back")
        expect(s.value("SELECT run_at - clock_timestamp() BETWEEN '59 min' AND '60 min' FROM jobq.job(%s)", [job["id"]]), f"for an hour: {job}")
        for kind in ("discards", "raises-JQ006"):
            job = s.run(kind, state="failed", max_attempts=9)
            expect_equal((job["attempt"], job["last_error"]), (1, "no use"), f"{kind}: attempt and error")
        expect_equal(s.effects(), [(None, 2)], "effects: those of what completed")


@scene("JQ005 whose DETAIL is no number of milliseconds, or too large a one, is an error like any other")
def odd_wishes(server: Cluster, report: Report) -> None:
    with stage(server, "odd") as s:
        s.handler("snoozes", "RAISE 'later' USING ERRCODE = 'JQ005', DETAIL = (job).payload ->> 'detail';")
        s.start()
        for detail in ("", "soon", "-1", "1.5", "9223372036854775807", "99999999999999999999"):
            job = s.run("snoozes", {"detail": detail}, state="failed", max_attempts=1)
            expect("JQ005: later" in job["last_error"], f"DETAIL {detail!r}: {job['last_error']}")


@scene("a result that is larger than jobq.max_payload_bytes fails the job; an error of a megabyte is clipped")
def too_large(server: Cluster, report: Report) -> None:
    with stage(server, "large") as s:
        s.handler("result", EFFECT + "RETURN to_jsonb(repeat('x', 2000000));")
        s.handler("error", "RAISE '%', repeat('é', 1000000);")
        s.start()
        expect("22001: " in s.run("result", state="failed", max_attempts=1)["last_error"], "22001")
        expect(1000 < len(s.run("error", state="failed", max_attempts=1)["last_error"].encode()) <= 8192, "kept, and not more than 8 KB")
        expect_equal(s.effects(), [], "effects")


@scene("procedures: what they COMMIT stays when they fail later, ROLLBACK undoes, INOUT jsonb is the result, the end of the job is in the last transaction")
def procedures(server: Cluster, report: Report) -> None:
    with stage(server, "procedures") as s:
        note = "INSERT INTO effect VALUES ((job).id, (job).attempt, '{}');"
        s.handler("answers", note.format("kept") + "COMMIT;" + note.format("undone") + "ROLLBACK; result := jsonb_build_array((job).id, result);",
                  returns=None, inout=True)
        s.handler("silent", note.format("silent") + "COMMIT;", returns=None)
        s.handler("fails", note.format("before") + "COMMIT;" + note.format("after") + "PERFORM 1 / 0;", returns=None)
        s.handler("loops", "FOR n IN 1..50 LOOP " + note.format("loop") + " COMMIT; END LOOP; result := '50';", returns=None, inout=True)
        s.start()
        job = s.run("answers")
        expect_equal(job["result"], [job["id"], None], "the INOUT argument")
        expect_equal(s.run("silent")["result"], None, "the result of a procedure without")
        expect("22012" in s.run("fails", state="failed", max_attempts=2)["last_error"], "22012")
        expect_equal(s.run("loops")["result"], 50, "the result after 50 commits")
        expect_equal(s.effects(), [("before", 2), ("kept", 1), ("loop", 50), ("silent", 1)], "effects")


@scene("a procedure that COMMITs settings which forbid writing, and then fails or ends: the end of its job is told all the same")
def procedures_with_settings(server: Cluster, report: Report) -> None:
    settings = ["default_transaction_read_only = on", "default_transaction_isolation = serializable", "lock_timeout = '1ms'",
                "statement_timeout = '1ms'", "search_path = procsets", "row_security = off", "jit_above_cost = 0"]
    with stage(server, "procsets") as s:
        for n, setting in enumerate(settings):
            s.handler(f"fails-{n}", f"SET {setting}; COMMIT; PERFORM 1 / 0;", returns=None)
            s.handler(f"ends-{n}", f"SET {setting}; COMMIT;", returns=None)
        s.handler("next", "RETURN '1';")
        s.start()
        for n, setting in enumerate(settings):
            job = s.run(f"fails-{n}", state="failed", max_attempts=1)
            expect("22012" in job["last_error"], f"{setting}: {job['last_error']}")
            # Read only, it may fail, or complete; it must be over.
            s.until_job(s.enqueue(f"ends-{n}", max_attempts=1), lambda job: job["finished_at"], f"over after {setting}")
            s.run("next")


@scene("signatures that are no handler's are refused: OUT and INOUT jobs, wrong types, sets; a procedure's overload with another type is never called")
def signatures(server: Cluster, report: Report) -> None:
    with stage(server, "signatures") as s:
        refused = ["PROCEDURE signatures.f(INOUT job jobq.claimed_job)", "PROCEDURE signatures.f(INOUT job jobq.claimed_job, INOUT r jsonb)",
                   "PROCEDURE signatures.f(job jobq.claimed_job, OUT r jsonb)", "PROCEDURE signatures.f(job jobq.claimed_job, r text)",
                   "FUNCTION signatures.f(job jobq.claimed_job) RETURNS text", "FUNCTION signatures.f(job jobq.claimed_job) RETURNS SETOF jsonb",
                   "FUNCTION signatures.f(job jobq.claimed_job, x int DEFAULT 1) RETURNS jsonb", "FUNCTION signatures.f() RETURNS jsonb",
                   "FUNCTION signatures.f(VARIADIC job jobq.claimed_job[]) RETURNS jsonb", "FUNCTION signatures.f(job anyelement) RETURNS jsonb",
                   "FUNCTION signatures.f(job record) RETURNS jsonb", "FUNCTION signatures.f(INOUT job jobq.claimed_job)"]
        accepted = []
        for declaration in refused:
            s.root.execute(f"CREATE {declaration} LANGUAGE plpgsql AS $$ BEGIN NULL; END $$")
            oid = s.value("SELECT oid FROM pg_proc WHERE pronamespace = 'signatures'::regnamespace AND proname = 'f'")
            state = sqlstate(s.root, "SELECT jobq.create_handler('k', %s::oid::regprocedure, 'signatures')", [oid])
            if state != "22023":
                accepted.append((declaration, state))
            s.root.execute("SELECT jobq.drop_handler('k'); DROP ROUTINE signatures.f")
        expect_equal(accepted, [], "declarations that were not refused with 22023")


@scene("an overload of a handler's procedure, made by somebody else in its schema, does not step into its place")
def overload(server: Cluster, report: Report) -> None:
    with stage(server, "overload") as s:
        s.handler("right", "result := '\"right\"';", returns=None, inout=True)
        for other in ("text", "json", "anyelement", "bigint"):
            s.root.execute(f'CREATE PROCEDURE overload."right"(job jobq.claimed_job, INOUT r {other}) LANGUAGE plpgsql '
                           "AS $$ BEGIN RAISE 'the wrong procedure'; END $$")
        s.start()
        expect_equal(s.run("right")["result"], "right", "what was called")


@scene("a handler whose schema the role may not use is refused when it is created, or runs: it does not fail only later")
def schema_usage(server: Cluster, report: Report) -> None:
    with stage(server, "usage") as s:
        s.root.execute("CREATE SCHEMA closed")
        try:
            for what in ("FUNCTION closed.f(job jobq.claimed_job) RETURNS void", "PROCEDURE closed.p(job jobq.claimed_job)"):
                s.root.execute(f"CREATE {what} LANGUAGE plpgsql AS $$ BEGIN NULL; END $$")
            s.start()
            for kind in ("f", "p"):
                if sqlstate(s.root, f"SELECT jobq.create_handler('{kind}', 'closed.{kind}(jobq.claimed_job)', 'usage')") != "42501":
                    s.run(kind, max_attempts=1)
        finally:
            s.root.execute("DROP SCHEMA closed CASCADE")


@scene("in a handler, jobq works as for any client: enqueue, heartbeat with progress; one that completes its own job and commits is done")
def calls_jobq(server: Cluster, report: Report) -> None:
    with stage(server, "client") as s:
        s.root.execute(f"SELECT jobq.grant_access({literal(s.role)}, 'worker'), jobq.grant_access({literal(s.role)}, 'producer')")
        s.handler("enqueues", "RETURN to_jsonb(jobq.enqueue('ends', queue => (job).queue));")
        s.handler("ends", EFFECT + "PERFORM jobq.heartbeat((job).id, (job).lease, progress => 50, note => 'half');", returns="void")
        s.handler("completes", EFFECT + "PERFORM jobq.complete((job).id, (job).lease, '\"own\"'); COMMIT;", returns=None)
        s.handler("waits", "CALL jobq.claim_wait((job).queue, wait => '10 ms', kinds => ARRAY['x'], jobs => result);", returns=None, inout=True)
        s.start()
        s.ends(s.run("enqueues")["result"], "completed")
        expect_equal(s.run("completes")["result"], "own", "the result it gave itself")
        s.until_job(s.enqueue("waits", max_attempts=1), lambda job: job["finished_at"], "claim_wait in a procedure has a defined end")
        s.run("ends")
        expect_equal(s.effects(), [(None, 3)], "effects")


@scene("COMMIT and ROLLBACK in a function, VACUUM, CREATE INDEX CONCURRENTLY, PREPARE TRANSACTION, LISTEN: the job fails with Postgres's own SQLSTATE")
def not_in_a_function(server: Cluster, report: Report) -> None:
    with stage(server, "forbidden") as s:
        tries = {"COMMIT": "2D000", "ROLLBACK": "2D000", "EXECUTE 'VACUUM effect'": "25001", "EXECUTE 'PREPARE TRANSACTION ''x'''": "0A000",
                 "EXECUTE 'CREATE INDEX CONCURRENTLY ON effect (job)'": "25001", "EXECUTE 'BEGIN'": "0A000", "LISTEN x": "0A000",
                 "EXECUTE 'COPY effect TO STDOUT'": "0A000"}
        for n, statement in enumerate(tries):
            s.handler(f"function-{n}", EFFECT + statement + ";", returns="void")
            s.handler(f"procedure-{n}", EFFECT + statement + ";", returns=None)
        s.handler("next", "RETURN '1';")
        s.start()
        for n, (statement, state) in enumerate(tries.items()):
            job = s.run(f"function-{n}", state="failed", max_attempts=1)
            expect_equal(job["last_error"][:7], f"{state}: ", f"{statement}: {job['last_error']}")
            job = s.until_job(s.enqueue(f"procedure-{n}", max_attempts=1), lambda job: job["finished_at"], f"{statement} in a procedure is over")
            expect(statement in ("COMMIT", "ROLLBACK") or job["last_error"], f"{statement} in a procedure: {job}")
        s.run("next")
        expect_equal(s.value("SELECT count(*) FROM pg_prepared_xacts"), 0, "prepared transactions left")


@scene("a pool of many kinds, more than a waiting session can name, and one on several queues: priority of queues, a paused one rests")
def many(server: Cluster, report: Report) -> None:
    with stage(server, "many") as s:
        kinds = [f"kind-{n}" for n in range(40)]
        for kind in kinds:
            s.handler(kind, "INSERT INTO effect VALUES ((job).id, (job).attempt, (job).queue);", returns="void")
        s.root.execute("SELECT jobq.create_queue('many-low'), jobq.create_queue('many-paused'), jobq.pause('many-paused')")
        s.start(autostart=False, queue="many,many-low,many-paused")
        paused = s.enqueue(kinds[0], queue="many-paused")
        for queue in ("many-low", "many"):
            for kind in kinds[:20]:
                s.enqueue(kind, queue=queue)
        s.root.execute("SELECT jobq.start_pool('many')")
        s.until_job(paused, lambda job: s.value("SELECT count(*) FROM jobq.jobs WHERE queue ~ '^many' AND state = 'completed'") == 40, "all but the paused one")
        expect_equal(s.value("SELECT array_agg(DISTINCT note) FROM (SELECT note FROM many.effect LIMIT 20) AS e"), ["many"], "who came first")
        s.run(kinds[-1])
        expect_equal(s.job(paused)["state"], "pending", "the job of the paused queue")
        s.root.execute("SELECT jobq.resume('many-paused')")
        s.ends(paused, "completed")
