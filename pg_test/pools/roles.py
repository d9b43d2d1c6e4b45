"""Who runs a job: the role itself, with nothing of jobq's rights; and what happens when the role, its rights or the function change."""

from __future__ import annotations

from cluster import Cluster
from live import connect, sqlstate
from report import Report, expect, expect_equal
from stage import EFFECT, Stage, literal, quoted, scene, stage

WHO = "RETURN to_jsonb(ARRAY[session_user, current_user, current_setting('role'), current_setting('is_superuser'), current_setting('search_path')]);"


@scene("session_user and current_user are the role, is_superuser is off, and nothing makes it somebody else; files and programs are refused")
def identity(server: Cluster, report: Report) -> None:
    with stage(server, "identity") as s:
        s.handler("who", WHO)
        harmless = ["RESET ROLE", "RESET SESSION AUTHORIZATION", "SET SESSION AUTHORIZATION DEFAULT", "SET ROLE NONE", "RESET ALL"]
        refused = {"SET SESSION AUTHORIZATION postgres": "42501", "SET ROLE postgres": "42501", "SET ROLE pg_execute_server_program": "42501",
                   "EXECUTE 'COPY effect TO PROGRAM ''true'''": "42501", "EXECUTE 'COPY effect FROM ''/etc/passwd'''": "42501",
                   "PERFORM pg_read_file('postgresql.conf')": "42501", "PERFORM lo_import('/etc/passwd')": "42501",
                   "EXECUTE 'ALTER ROLE identity SUPERUSER'": "42501", "EXECUTE 'SET jobq.allow_superuser_handlers = on'": "55P02",
                   "EXECUTE 'SET session_replication_role = replica'": "42501", "EXECUTE 'ALTER DATABASE postgres SET work_mem = 64'": "42501"}
        for n, statement in enumerate(harmless):
            s.handler(f"harmless-{n}", f"{statement}; {WHO}")
        for n, statement in enumerate(refused):
            s.handler(f"refused-{n}", f"{statement};", returns="void")
        s.start()
        expected = ["identity", "identity", "none", "off", '"$user", public']
        for n, statement in enumerate(harmless):
            expect_equal(s.run(f"harmless-{n}")["result"], expected, statement)
        for n, (statement, state) in enumerate(refused.items()):
            error = s.run(f"refused-{n}", state="failed", max_attempts=1)["last_error"]
            expect(error.startswith(f"{state}: "), f"{statement}: {error}")
        expect_equal(s.run("who")["result"], expected, "who the next job runs as")
        expect_equal(s.value("SELECT usename FROM pg_stat_activity WHERE pid = ANY (%s)", [s.pids()]), "identity", "who pg_stat_activity says it is")


@scene("nothing of jobq's is the role's: its tables, triggers, rules, policies, views and other roles' handlers are out of reach")
def out_of_reach(server: Cluster, report: Report) -> None:
    with stage(server, "reach") as s:
        tries = ["SELECT count(*) FROM jobq._job", "UPDATE jobq._handler SET run_as = 10", "INSERT INTO jobq._pool SELECT * FROM jobq._pool",
                 "DELETE FROM jobq._job", "TRUNCATE jobq._job", "SELECT * FROM jobq.jobs", "SELECT * FROM jobq._pool_workers()",
                 "CREATE TRIGGER planted AFTER UPDATE ON jobq._job FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
                 "CREATE TRIGGER planted AFTER INSERT ON jobq._pool FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()",
                 "CREATE RULE planted AS ON INSERT TO jobq._handler DO ALSO NOTHING", "CREATE POLICY planted ON jobq._job",
                 "ALTER TABLE jobq._job ENABLE ROW LEVEL SECURITY", "ALTER TABLE jobq._handler ALTER run_as SET DEFAULT 10",
                 "CREATE TABLE child (x int) INHERITS (jobq._pool)", "CREATE FUNCTION jobq.planted() RETURNS int LANGUAGE sql AS 'SELECT 1'",
                 "LOCK TABLE jobq._job", "COMMENT ON TABLE jobq._job IS 'x'", "SELECT jobq.create_pool('x')", "SELECT jobq.stop_pool('reach')",
                 "SELECT jobq.create_handler('x', NULL)", "SELECT jobq.grant_access('reach', 'admin')", "SELECT jobq.claim()"]
        s.handler("tries", "EXECUTE (job).payload ->> 'sql';", returns="void")
        s.start()
        for sql in tries:
            error = s.run("tries", {"sql": sql}, state="failed", max_attempts=1)["last_error"]
            expect(error.startswith("42501: "), f"{sql}: {error}")
        expect_equal(s.value("SELECT count(*) FROM pg_trigger WHERE tgname = 'planted'"), 0, "triggers planted")


@scene("roles, schemas and functions with blanks, quotes and upper case run jobs under their own names")
def odd_names(server: Cluster, report: Report) -> None:
    for name in ("Lab User", "o'x", 'a"b', "ünï"):
        with stage(server, name) as s:
            _with_odd_function(s)
            s.start()
            expect_equal(s.run("odd")["result"][:2], [name, name], "session_user and current_user")
            expect_equal(s.value("SELECT run_as FROM jobq.pools"), s.value("SELECT %s::regrole::text", [s.role]), "run_as in jobq.pools")


def _with_odd_function(s: Stage) -> None:
    function = f"{s.role}.{quoted(s.name)}"
    s.root.execute(f"CREATE FUNCTION {function}(job jobq.claimed_job) RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN {WHO} END $$")
    s.register("odd", f"{function}(jobq.claimed_job)")


@scene("who may create: NULL, unknown, superuser, not a member, NOLOGIN, no CONNECT, no EXECUTE: refused at once; a member may")
def creating(server: Cluster, report: Report) -> None:
    with stage(server, "creating") as s, connect(server) as admin:
        s.root.execute("CREATE ROLE creator LOGIN; GRANT creating TO creator; SELECT jobq.grant_access('creator', 'admin');"
                       "CREATE ROLE alien LOGIN; CREATE ROLE silent NOLOGIN; GRANT silent TO creator;"
                       "CREATE FUNCTION creating.f(job jobq.claimed_job) RETURNS void LANGUAGE sql AS ''; GRANT USAGE ON SCHEMA creating TO creator;"
                       "CREATE FUNCTION creating.private(job jobq.claimed_job) RETURNS void LANGUAGE sql AS '';"
                       "REVOKE EXECUTE ON FUNCTION creating.private FROM PUBLIC")
        try:
            admin.execute("SET SESSION AUTHORIZATION creator")
            handler = "SELECT jobq.create_handler('k', 'creating.f(jobq.claimed_job)', {})"
            pool = "SELECT jobq.create_pool('creating', run_as => {}, autostart => false)"
            for run_as, state in (("'postgres'", "42501"), ("'alien'", "42501"), ("'silent'", "42501"), ("4294967290::oid::regrole", "42704"),
                                  ("'nobody-there'", "42704")):
                expect_equal((sqlstate(admin, handler.format(run_as)), sqlstate(admin, pool.format(run_as))), (state, state), f"as {run_as}")
            expect_equal(sqlstate(admin, "SELECT jobq.create_handler('k', 'creating.private(jobq.claimed_job)', 'creating')"), "42501", "no EXECUTE")
            s.root.execute("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC; GRANT CONNECT ON DATABASE postgres TO creator")
            expect_equal((sqlstate(admin, handler.format("'creating'")), sqlstate(admin, pool.format("'creating'"))), ("42501", "42501"), "no CONNECT")
            s.root.execute("GRANT CONNECT ON DATABASE postgres TO PUBLIC")
            expect_equal((sqlstate(admin, handler.format("'creating'")), sqlstate(admin, pool.format("'creating'"))), ("ok", "ok"), "a member")
            expect_equal((sqlstate(admin, handler.format("'creating'")), sqlstate(admin, pool.format("'creating'"))), ("42710", "42710"), "twice")
            expect_equal(sqlstate(s.root, "SELECT jobq.create_pool('root')"), "42501", "a superuser for itself")
        finally:
            s.root.execute("GRANT CONNECT ON DATABASE postgres TO PUBLIC; DROP OWNED BY creator; DROP ROLE creator, alien, silent")


# What happens between creation and run, how it is undone, and what the error says.
CHANGES = {
    "EXECUTE taken": ("REVOKE ALL ON FUNCTION changes.works FROM PUBLIC, changes", "GRANT EXECUTE ON FUNCTION changes.works TO changes", "may not execute"),
    "function dropped": ("ALTER FUNCTION changes.works RENAME TO gone", "ALTER FUNCTION changes.gone RENAME TO works", "does not exist"),
    "another owner": ("ALTER FUNCTION changes.works OWNER TO squatter", "ALTER FUNCTION changes.works OWNER TO postgres", "another owner"),
    "LOGIN lost": ("ALTER ROLE changes NOLOGIN", "ALTER ROLE changes LOGIN", "may not log in"),
    "superuser now": ("ALTER ROLE changes SUPERUSER", "ALTER ROLE changes NOSUPERUSER", "superuser"),
    "membership lost": ("REVOKE changes FROM creator", "GRANT changes TO creator", "no member"),
    "CONNECT lost": ("REVOKE CONNECT ON DATABASE postgres FROM PUBLIC", "GRANT CONNECT ON DATABASE postgres TO PUBLIC", "may not connect"),
}


@scene("EXECUTE, owner, LOGIN, membership, CONNECT are looked at before every job: it fails with 42501 and the reason; the worker lives on")
def changes(server: Cluster, report: Report) -> None:
    with stage(server, "changes") as s, connect(server) as creator:
        s.root.execute("CREATE ROLE creator LOGIN; CREATE ROLE squatter; GRANT changes TO creator; SELECT jobq.grant_access('creator', 'admin');"
                       "GRANT USAGE ON SCHEMA changes TO creator; GRANT CREATE ON SCHEMA changes TO squatter;"
                       "CREATE FUNCTION changes.works(job jobq.claimed_job) RETURNS void LANGUAGE sql AS 'INSERT INTO changes.effect VALUES ((job).id)'")
        try:
            creator.execute("SET SESSION AUTHORIZATION creator")
            creator.execute("SELECT jobq.create_handler('works', 'changes.works(jobq.claimed_job)', 'changes')")
            s.start()
            pids = s.pids()
            for what, (sql, undo, reason) in CHANGES.items():
                s.run("works")
                s.root.execute(sql)
                error = s.run("works", state="failed", max_attempts=1)["last_error"]
                problem = s.value("SELECT problem FROM jobq.handlers")
                s.root.execute(undo)
                expect(error.startswith("42501: ") and reason in error, f"{what}: {error}")
                expect(problem and reason in problem, f"{what}: jobq.handlers says {problem}")
            s.run("works")
            expect_equal(s.pids(), pids, "the worker")
            expect_equal(s.effects(), [(None, len(CHANGES) + 1)], "effects")
            expect_equal(s.value("SELECT problem FROM jobq.handlers"), None, "problem in the end")
        finally:
            s.root.execute("GRANT CONNECT ON DATABASE postgres TO PUBLIC; DROP OWNED BY creator, squatter CASCADE; DROP ROLE creator, squatter")


@scene("a role that is dropped while its pool runs: jobs and pool say so, nothing crashes, the pool and the handler can be dropped")
def role_dropped(server: Cluster, report: Report) -> None:
    with stage(server, "doomed") as s:
        s.root.execute("CREATE FUNCTION public.doomed(job jobq.claimed_job) RETURNS void LANGUAGE sql AS ''")
        try:
            s.register("k", "public.doomed(jobq.claimed_job)")
            s.start()
            s.run("k")
            s.root.execute("DROP OWNED BY doomed CASCADE; DROP ROLE doomed")
            job = s.run("k", state="failed", max_attempts=1)
            expect("does not exist" in job["last_error"], job["last_error"])
            s.root.execute("SELECT jobq.restart_pool('doomed')")
            expect("role does not exist" in str(s.until_state("FATAL")), "the reason")
            expect("does not exist" in s.value("SELECT problem FROM jobq.handlers"), "problem")
            expect(s.value("SELECT count(*) FROM jobq.pools"), "the view answers")
        finally:
            s.root.execute("DROP FUNCTION public.doomed")


@scene("readers see handlers, pools and workers, also of schemas that they may not use; a role with access handler has snooze and discard, no more")
def readers(server: Cluster, report: Report) -> None:
    with stage(server, "readers") as s, connect(server) as reader:
        s.handler("k", "RETURN '1';")
        s.start()
        s.root.execute("CREATE ROLE reading LOGIN; SELECT jobq.grant_access('reading', 'reader')")
        try:
            reader.execute("SET SESSION AUTHORIZATION reading")
            for view in ("handlers", "pools", "pool_workers"):
                expect_equal(sqlstate(reader, f"SELECT * FROM jobq.{view}"), "ok", f"jobq.{view}")
            expect_equal(reader.execute("SELECT function, problem FROM jobq.handlers").fetchall(), [("readers.k(jobq.claimed_job)", None)], "jobq.handlers")
        finally:
            s.root.execute("DROP OWNED BY reading; DROP ROLE reading")
        names = s.root.execute("SELECT p.proname FROM pg_proc AS p WHERE p.pronamespace = 'jobq'::regnamespace "
                               f"AND has_function_privilege({literal(s.name)}, p.oid, 'EXECUTE') ORDER BY 1").fetchall()
        expect_equal([name for (name,) in names], ["discard", "snooze", "version"], "what a role with access handler may call")


@scene("a pool made in the transaction that drops jobq and creates it anew runs as its own role, not as that of the pool that had its number")
def reinstalled(server: Cluster, report: Report) -> None:
    server.psql("CREATE DATABASE again")
    server.psql("CREATE EXTENSION jobq; CREATE ROLE other LOGIN;"
                f"CREATE FUNCTION public.who() RETURNS jsonb LANGUAGE plpgsql AS $$ BEGIN {WHO} END $$", "again")
    before = Stage(server, "before", "again")
    try:
        before.set_up()
        before.handler("who", "RETURN public.who();")
        before.start(2)
        before.run("who")
        pids = before.pids()
        before.root.execute("""
            BEGIN; DROP EXTENSION jobq CASCADE; CREATE EXTENSION jobq; SELECT jobq.create_queue('before');
            CREATE FUNCTION public.k(job jobq.claimed_job) RETURNS jsonb LANGUAGE sql AS 'SELECT public.who()';
            SELECT jobq.create_handler('who', 'public.k(jobq.claimed_job)', 'other'), jobq.create_pool('before', 'before', 2, 'other'); COMMIT""")
        expect_equal(before.run("who")["result"][:2], ["other", "other"], "who runs the job")
        before.until_running(2)
        expect_equal(before.root.execute("SELECT DISTINCT usename FROM pg_stat_activity WHERE pid = ANY (%s)", [before.pids()]).fetchall(),
                     [("other",)], "whose the workers are")
        expect(not set(pids) & set(before.pids()), "none of the old processes is left")
    finally:
        before.root.close()
        for statement in ("DROP DATABASE again WITH (FORCE)", "DROP ROLE before", "DROP ROLE other"):
            server.psql(statement)
