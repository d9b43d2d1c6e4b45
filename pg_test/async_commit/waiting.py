"""What waits for a standby that never answers: everything but a claim that is alone."""

from __future__ import annotations

from live import Background, Connection, connect, scalar, sqlstate, until, wait_event
from primary import QUEUE, Primary, claims_one
from report import Report, expect, expect_equal

CLAIM = f"SELECT count(*) FROM jobq.claim('{QUEUE}')"
REPEATS = 30

# A claim together with another write: what, and the statements of one simple query or of one transaction.
COMPANY = {
    "a write before it in the same statement": f"WITH w AS MATERIALIZED (INSERT INTO note VALUES ('cte') RETURNING 1) "
                                               f"SELECT w.*, c.id FROM w, LATERAL (SELECT id FROM jobq.claim('{QUEUE}')) AS c",
    "a write of its result": f"INSERT INTO note SELECT id FROM jobq.claim('{QUEUE}')",
    "a write of its result in a CTE": f"WITH c AS MATERIALIZED (SELECT id FROM jobq.claim('{QUEUE}')), w AS (INSERT INTO note SELECT id FROM c) TABLE c",
    "an UPDATE that joins it": f"UPDATE locked SET x = x + 1 FROM jobq.claim('{QUEUE}') AS c",
    "a MERGE of it": f"MERGE INTO note USING jobq.claim('{QUEUE}') AS c ON false WHEN NOT MATCHED THEN INSERT VALUES (c.kind)",
    "CREATE TABLE AS of it": f"CREATE TABLE copy_of_claim AS SELECT * FROM jobq.claim('{QUEUE}')",
    "a sequence that logs, after it": f"SELECT c.id, setval('counter', 1000) FROM jobq.claim('{QUEUE}') AS c",
    "a sequence that logs, before it": f"SELECT setval('counter', 2000) FROM (SELECT setval('counter', 3000) OFFSET 0) AS s, jobq.claim('{QUEUE}') AS c",
    "a logical message outside the transaction, after it": f"SELECT c.id, pg_logical_emit_message(false, 'p', 'm') FROM jobq.claim('{QUEUE}') AS c",
    "a logical message of the transaction": f"SELECT c.id, pg_logical_emit_message(true, 'p', 'm') FROM jobq.claim('{QUEUE}') AS c",
    "a row lock on another table": f"SELECT l.x, c.id FROM (SELECT x FROM locked FOR UPDATE) AS l, jobq.claim('{QUEUE}') AS c",
    "a second claim": f"SELECT id FROM jobq.claim('{QUEUE}') UNION ALL SELECT id FROM jobq.claim('{QUEUE}')",
    "an enqueue of the same statement": f"SELECT c.id, jobq.enqueue('k', '{{}}', 'default') FROM jobq.claim('{QUEUE}') AS c",
    "an enqueue before it in the same statement": f"SELECT e.id, c.id FROM (SELECT jobq.enqueue('k', '{{}}', 'default') AS id OFFSET 0) AS e, "
                                                  f"LATERAL (SELECT c.id FROM jobq.claim('{QUEUE}') AS c WHERE e.id IS NOT NULL) AS c",
    "a function that writes before it": "SELECT write_then_claim()",
    "a function that writes after it": "SELECT claim_then_write()",
    "a block with an exception handler, then a write": "SELECT claim_in_block()",
    "a DO block that writes before it": f"DO $$ BEGIN INSERT INTO note VALUES ('do'); PERFORM jobq.claim('{QUEUE}'); END $$",
    "a DO block that writes after it": f"DO $$ BEGIN PERFORM jobq.claim('{QUEUE}'); INSERT INTO note VALUES ('do'); END $$",
    "a DO block with DDL after it": f"DO $$ BEGIN PERFORM jobq.claim('{QUEUE}'); CREATE TABLE made_after_claim (x int); END $$",
    "a DO block that empties a table after it": f"DO $$ BEGIN PERFORM jobq.claim('{QUEUE}'); TRUNCATE audit; END $$",
    "a DO block with a large object after it": f"DO $$ BEGIN PERFORM jobq.claim('{QUEUE}'); PERFORM lo_from_bytea(0, 'x'); END $$",
    "a trigger that claims, on a table that is written": "INSERT INTO asks VALUES (1)",
    "a deferred trigger that writes at the commit": "INSERT INTO pg_temp.later SELECT 1 FROM jobq.claim('work')",
    "a write after it in one message": f"{CLAIM}; INSERT INTO note VALUES ('message')",
    "a write before it in one message": f"INSERT INTO note VALUES ('message'); {CLAIM}",
    "a write after it in a transaction": f"BEGIN; {CLAIM}; INSERT INTO note VALUES ('transaction'); COMMIT",
    "a write before it in a transaction": f"BEGIN; INSERT INTO note VALUES ('transaction'); {CLAIM}; COMMIT",
    "a write after a savepoint around it": f"BEGIN; SAVEPOINT s; {CLAIM}; RELEASE s; INSERT INTO note VALUES ('savepoint'); COMMIT",
    "a write rolled back to a savepoint before it": f"BEGIN; SAVEPOINT s; INSERT INTO note VALUES ('gone'); ROLLBACK TO s; {CLAIM}; COMMIT",
    "a transaction block, even without a write": f"BEGIN; {CLAIM}; COMMIT",
}
TEMPORARY = """CREATE TEMP TABLE later (x int);
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON later DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION write_late()"""


def run(primary: Primary, report: Report) -> None:
    for check in (claim_alone, claim_alone_in_other_ways, control):
        check(primary, report)
    for company, sql in COMPANY.items():
        with report.check(f"a claim together with {company} waits"):
            primary.add_jobs()
            with primary.session() as session:
                if "later" in sql:
                    # Tables of the session alone are not waited for: only what the trigger writes is.
                    session.execute("SET synchronous_commit = local")
                    session.execute(TEMPORARY)
                    session.execute("RESET synchronous_commit")
                primary.expect_wait(sql, session)
                if "later" in sql:
                    # A session that ends with temporary tables drops them, and waits for that commit too.
                    session.execute("SET synchronous_commit = local")
                    session.execute("DROP TABLE later")
    for check in (pipelines, extended_messages, other_calls, off_by_setting, off_by_trigger, clock_behind, setting_is_untouched, after_errors, failing_commit):
        check(primary, report)


def claim_alone(primary: Primary, report: Report) -> None:
    with report.check(f"a claim alone does not wait, {REPEATS} times in one session and {REPEATS} in new ones"):
        primary.add_jobs(2 * REPEATS)
        with primary.session() as session:
            waits = [primary.waits(claims_one, session) for _ in range(REPEATS)]
        waits += [primary.waits(claims_one) for _ in range(REPEATS)]
        expect_equal(sum(waits), 0, f"waits of {2 * REPEATS}")


def claim_alone_in_other_ways(primary: Primary, report: Report) -> None:
    ways = {"in a batch": f"SELECT * FROM jobq.claim('{QUEUE}', 5)", "from several queues": f"SELECT * FROM jobq.claim('default,{QUEUE}', 2)",
            "of nothing": "SELECT * FROM jobq.claim('default', kinds => '{no-such-kind}')", "in the select list": f"SELECT (jobq.claim('{QUEUE}')).id",
            "inside a function that writes nothing": "SELECT only_claim()", "inside a DO block that writes nothing": f"DO $$ BEGIN PERFORM jobq.claim('{QUEUE}'); END $$"}
    for way, sql in ways.items():
        with report.check(f"a claim alone {way} does not wait"):
            primary.add_jobs()
            primary.expect_no_wait(sql)
    with report.check("a claim alone does not wait with synchronous_commit = remote_apply either"):
        primary.add_jobs()
        with primary.session() as session:
            session.execute("SET synchronous_commit = remote_apply")
            primary.expect_no_wait(claims_one, session)
            expect_equal(scalar(session, "SHOW synchronous_commit"), "remote_apply", "synchronous_commit afterwards")
    with report.check("a claim alone as a prepared statement with parameters does not wait"):
        primary.add_jobs()
        with connect(primary.server) as session:
            session.prepare_threshold = 0
            for _ in range(3):
                primary.expect_no_wait(lambda s: s.execute("SELECT * FROM jobq.claim(%s, %s)", [QUEUE, 2]).fetchall(), session)


def control(primary: Primary, report: Report) -> None:
    with report.check("the measure works: an INSERT waits, a SELECT does not"):
        primary.expect_wait("INSERT INTO note VALUES ('control')")
        primary.expect_no_wait("SELECT count(*) FROM note")


def pipelines(primary: Primary, report: Report) -> None:
    write = "INSERT INTO note VALUES ('pipeline')"
    for what, statements in {"before": (write, CLAIM), "after": (CLAIM, write), "before and after": (write, CLAIM, write)}.items():
        with report.check(f"a claim in a pipeline with a write {what} it waits"):
            primary.add_jobs()

            def work(session: Connection, statements: tuple[str, ...] = statements) -> None:
                with session.pipeline():
                    for sql in statements:
                        session.execute(sql)

            primary.expect_wait(work)


def extended_messages(primary: Primary, report: Report) -> None:
    with report.check("a claim fetched row by row through a cursor in a transaction waits"):
        primary.add_jobs()

        def work(session: Connection) -> None:
            with session.transaction(), session.cursor("c") as cursor:
                cursor.execute(f"SELECT * FROM jobq.claim('{QUEUE}', 3)")
                while cursor.fetchone():
                    pass

        primary.expect_wait(work)


def other_calls(primary: Primary, report: Report) -> None:
    """Only a claim is forgiven: whatever else a worker or producer says is durable when it returns."""
    calls = {
        "complete": "SELECT jobq.complete('{id}', {lease})",
        "complete_many": "SELECT * FROM jobq.complete_many('{{{id}}}', '{{{lease}}}')",
        "fail": "SELECT jobq.fail('{id}', {lease}, 'x')",
        "fail for good": "SELECT jobq.fail('{id}', {lease}, 'x', retry => false)",
        "release": "SELECT jobq.release('{id}', {lease})",
        "heartbeat": "SELECT jobq.heartbeat('{id}', {lease}, note => 'seven')",
        "heartbeat_many": "SELECT * FROM jobq.heartbeat_many('{{{id}}}', '{{{lease}}}', '10 min')",
        "cancel of a running job": "SELECT jobq.cancel('{id}')",
        "enqueue": f"SELECT jobq.enqueue('k', '{{{{}}}}', '{QUEUE}')",
        "enqueue with a unique key": f"SELECT jobq.enqueue('k', '{{{{}}}}', '{QUEUE}', unique_key => 'once')",
        "enqueue_many": f"SELECT * FROM jobq.enqueue_many('k', '[{{{{}}}}]', '{QUEUE}')",
        "create_queue": "SELECT jobq.create_queue('another')",
        "pause": "SELECT jobq.pause('another')",
        "claim and complete in one statement": f"SELECT jobq.complete('{{id}}', {{lease}}), c.id FROM jobq.claim('{QUEUE}') AS c",
    }
    for what, sql in calls.items():
        with report.check(f"{what} waits"):
            primary.add_jobs()
            id, lease = primary.claimed()
            primary.expect_wait(sql.format(id=id, lease=lease))
    with report.check("rescue_zombies that finds a zombie waits"):
        # The maintainer would be first.
        primary.set("jobq.enabled", "off")
        primary.add_jobs(1)
        id = scalar(primary.root, f"SELECT id FROM jobq.claim('{QUEUE}', lease_for => '1 s')")
        until(lambda: scalar(primary.root, "SELECT lease_expires_at < clock_timestamp() FROM jobq.job(%s)", [id]), "the lease to expire")
        primary.expect_wait("SELECT jobq.rescue_zombies()")
        primary.set("jobq.enabled", "on")


def off_by_setting(primary: Primary, report: Report) -> None:
    with report.check("jobq.async_claim = off: a claim alone waits; on again: it does not"):
        primary.add_jobs()
        primary.set("jobq.async_claim", "off")
        primary.expect_wait(claims_one)
        primary.set("jobq.async_claim", "on")
        primary.expect_no_wait(claims_one)


def off_by_trigger(primary: Primary, report: Report) -> None:
    with report.check("a trigger on the job table: a claim alone waits, for the trigger may have written; without it again, it does not"):
        primary.add_jobs()
        with primary.session() as session:
            primary.expect_no_wait(claims_one, session)
            primary.root.execute("CREATE TRIGGER audit AFTER UPDATE ON jobq._job FOR EACH ROW EXECUTE FUNCTION audit_claim()")
            try:
                primary.expect_wait(claims_one, session)
            finally:
                primary.root.execute("DROP TRIGGER audit ON jobq._job")
            expect_equal(scalar(primary.root, "SELECT count(*) FROM audit WHERE x = 'seen'"), 1, "rows the trigger wrote")
            primary.expect_no_wait(claims_one, session)


def clock_behind(primary: Primary, report: Report) -> None:
    with report.check("the clock is behind the job's previous lease: the claim waits, so that its lease cannot come twice"):
        primary.add_jobs(1)
        previous = scalar(primary.root, "UPDATE jobq._job AS j SET lease = ((extract(epoch FROM clock_timestamp() - '2025-01-01+00')::bigint + 3600) * 1000) << 12 "
                                        "WHERE state = 'p' AND queue_id = (SELECT id FROM jobq._queue WHERE name = %s) RETURNING lease", [QUEUE])
        leases: list[int] = []
        primary.expect_wait(lambda session: leases.append(scalar(session, f"SELECT lease FROM jobq.claim('{QUEUE}')")))
        expect(leases[0] is not None and leases[0] > previous, f"lease {leases[0]} after {previous}")
        primary.root.execute("SELECT jobq.drop_queue(%s, true), jobq.create_queue(%s)", [QUEUE, QUEUE])
        primary.warm_up()


def setting_is_untouched(primary: Primary, report: Report) -> None:
    state = "SELECT setting, source FROM pg_settings WHERE name = 'synchronous_commit'"
    for value in (None, "on", "local", "remote_write", "remote_apply", "off"):
        with report.check(f"synchronous_commit is as it was after a claim alone: {value or 'never set'}"):
            primary.add_jobs(1)
            with primary.session() as session:
                if value:
                    session.execute(f"SET synchronous_commit = {value}")
                before = session.execute(state).fetchall()
                primary.expect_no_wait(claims_one, session)
                expect_equal(session.execute(state).fetchall(), before, "value and source")
    with report.check("after a claim alone the next write of the session waits"):
        primary.add_jobs(1)
        with primary.session() as session:
            primary.expect_no_wait(claims_one, session)
            primary.expect_wait("INSERT INTO note VALUES ('next')", session)


def after_errors(primary: Primary, report: Report) -> None:
    failing = {
        "an error in the same statement": f"SELECT 1 / (c.attempt - 1) FROM jobq.claim('{QUEUE}') AS c",
        "an error in the same function": f"DO $$ BEGIN PERFORM jobq.claim('{QUEUE}'); RAISE 'no'; END $$",
        "a rolled back transaction": f"BEGIN; {CLAIM}; ROLLBACK",
    }
    for what, sql in failing.items():
        with report.check(f"after {what}: synchronous_commit is on, and the next write waits"):
            primary.add_jobs(1)
            with primary.session() as session:
                sqlstate(session, sql)
                expect_equal(scalar(session, "SHOW synchronous_commit"), "on", "synchronous_commit")
                primary.expect_wait("INSERT INTO note VALUES ('after an error')", session)
    with report.check("a claim undone by an exception handler, then a write: it waits"):
        primary.add_jobs(1)
        primary.expect_wait(f"DO $$ BEGIN BEGIN PERFORM jobq.claim('{QUEUE}'); RAISE 'no'; EXCEPTION WHEN raise_exception THEN NULL; END; "
                            "INSERT INTO note VALUES ('handled'); END $$")


def failing_commit(primary: Primary, report: Report) -> None:
    with report.check("a claim alone whose commit fails (serialization): synchronous_commit is on, nothing is claimed, the next write waits"):
        primary.root.execute("SELECT jobq.drop_queue(%s, true), jobq.create_queue(%s)", [QUEUE, QUEUE])
        primary.add_jobs(1)
        with primary.session() as session, connect(primary.server, options="-c synchronous_commit=local") as rival, Background() as background:
            session.execute("SET default_transaction_isolation = 'serializable'")
            primary.root.execute("SELECT pg_advisory_lock(1)")
            # Reads what the rival writes, writes what the rival has read, and commits last.
            pivot = background.run(sqlstate, session, f"SELECT (SELECT count(*) FROM locked), c.id, pg_advisory_xact_lock_shared(1) FROM jobq.claim('{QUEUE}') AS c")
            until(lambda: wait_event(primary.root, session.info.backend_pid)[1] == "advisory", "the claim to be held up")
            rival.execute("BEGIN ISOLATION LEVEL SERIALIZABLE")
            rival.execute("SELECT count(*) FROM jobq._job")
            rival.execute("INSERT INTO locked VALUES (2)")
            rival.execute("COMMIT")
            primary.root.execute("SELECT pg_advisory_unlock(1)")
            state = pivot.result(60)
            report.note(f"SQLSTATE of the claim: {state}")
            expect_equal(state, "40001", "SQLSTATE of the claim")
            expect_equal(scalar(session, "SHOW synchronous_commit"), "on", "synchronous_commit")
            expect_equal(scalar(primary.root, "SELECT count(*) FROM jobq.running_jobs WHERE queue = %s", [QUEUE]), 0, "running jobs")
            session.execute("RESET default_transaction_isolation")
            primary.expect_wait("INSERT INTO note VALUES ('after a failed commit')", session)

