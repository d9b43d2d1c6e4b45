"""The scenes. The server's sweep comes once an hour: what is found here was offered by the transactions themselves."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import psycopg
from cluster import Cluster
from live import PATIENCE_SECONDS, Background, Connection, connect, scalar, until
from report import Report, expect, expect_equal

# Few slots, so that queues push each other out of shared memory all the time.
SETTINGS = {"shared_preload_libraries": "jobq", "max_connections": "60", "max_prepared_transactions": "10", "fsync": "off",
            "jobq.sweep_interval": "1h", "jobq.dispatch_slots": "1024", "jobq.tick_interval": "100ms", "jobq.max_leases": "128"}

Scene = Callable[[Cluster, Report], None]
SCENES: list[tuple[str, Scene]] = []


def scene(what: str) -> Callable[[Scene], Scene]:
    def add(play: Scene) -> Scene:
        SCENES.append((what, play))
        return play

    return add


def pending(session: Connection) -> int:
    return scalar(session, "SELECT count(*) FROM jobq._job WHERE state = 'p'")


def drain(session: Connection, queues: list[str]) -> list[tuple[str, int, str]]:
    """Claims and completes until every queue says that it is empty: the rows claimed."""
    claimed: list[tuple[str, int, str]] = []
    for queue in queues:
        while rows := session.execute("SELECT id, lease, queue FROM jobq.claim(%s, 50)", [queue]).fetchall():
            session.execute("SELECT count(*) FROM jobq.complete_many(%s::uuid[], %s::bigint[])",
                            [[row[0] for row in rows], [row[1] for row in rows]])
            claimed += rows
    return claimed


def dispatch(session: Connection) -> str:
    return scalar(session, "SELECT detail FROM jobq.diagnose() WHERE check_name = 'dispatch'")


# ---- everybody does everything -----------------------------------------------------------------------------------------------------

QUEUES = ["alpha", "beta", "gamma"]
KINDS = ["red", "green", "blue"]
WORKERS = ["ann", "bob", "cleo"]


class Client:
    """One session that does one thing after the other, by a seed of its own."""

    def __init__(self, server: Cluster, seed: int) -> None:
        self.server = server
        self.dice = random.Random(seed)
        self.session = connect(server)
        self.held: list[tuple[str, int]] = []

    def close(self) -> None:
        self.session.close()

    def queue(self) -> str:
        return self.dice.choice(QUEUES)

    def enqueue(self) -> None:
        delay = self.dice.choice([None, None, None, "10 ms", "200 ms"])
        self.session.execute("SELECT jobq.enqueue(%s, queue => %s, priority => %s, delay => %s::interval)",
                             [self.dice.choice(KINDS), self.queue(), self.dice.randint(1, 3), delay])

    def enqueue_many(self) -> None:
        # More than a transaction can note one by one, and less.
        number = self.dice.choice([3, 40, 400])
        self.session.execute("SELECT count(*) FROM jobq.enqueue_many(%s, (SELECT jsonb_agg('{}'::jsonb) FROM generate_series(1, %s)), %s)",
                             [self.dice.choice(KINDS), number, self.queue()])

    def claim(self) -> None:
        queues = ",".join(self.dice.sample(QUEUES, self.dice.choice([1, 1, 2])))
        kinds = self.dice.choice([None, None, ["red"], ["green", "blue"]])
        rows = self.session.execute("SELECT id, lease FROM jobq.claim(%s, %s, %s, kinds => %s)",
                                    [queues, self.dice.choice([1, 1, 5, 30, 300]), self.dice.choice(WORKERS), kinds]).fetchall()
        self.held += rows

    def finish(self) -> None:
        for _ in range(min(len(self.held), 20)):
            id, lease = self.held.pop(self.dice.randrange(len(self.held)))
            call = self.dice.choice(["complete(%s, %s)", "complete(%s, %s)", "release(%s, %s)", "fail(%s, %s, 'no', '5 ms')",
                                     "release(%s, %s, '20 ms')"])
            self.session.execute(f"SELECT jobq.{call}", [id, lease])

    def some_pending(self) -> str | None:
        return scalar(self.session, "SELECT id FROM jobq._job WHERE state = 'p' AND id > %s::uuid ORDER BY id LIMIT 1",
                      [f"{self.dice.getrandbits(128):032x}" if self.dice.random() < 0.1 else "0" * 32])

    def meddle(self) -> None:
        id = self.some_pending()
        if id:
            call = self.dice.choice(["cancel(%s)", "reschedule(%s)", "reschedule(%s, clock_timestamp() + '30 ms')",
                                     "reschedule(%s, priority => 1)", "delete(%s)"])
            self.session.execute(f"SELECT jobq.{call}", [id])

    def step(self) -> None:
        work = self.dice.choices([self.enqueue, self.enqueue_many, self.claim, self.finish, self.meddle], [30, 1, 30, 25, 6])[0]
        fate = self.dice.choices(["alone", "commit", "rollback", "savepoint", "error"], [60, 8, 12, 12, 8])[0]
        before = list(self.held)
        try:
            if fate == "alone":
                work()
                return
            self.session.execute("BEGIN")
            if fate == "savepoint":
                self.enqueue()
                self.session.execute("SAVEPOINT s")
                work()
                self.claim()
                self.session.execute("ROLLBACK TO s")
                self.held = before
                self.session.execute("COMMIT")
                return
            work()
            if fate == "error":
                self.session.execute("SELECT 1 / 0")
            self.session.execute("COMMIT" if fate == "commit" else "ROLLBACK")
            if fate == "rollback":
                self.held = before
        except psycopg.Error as error:
            # Two of them wanted the same job, or it was the error that was asked for.
            expect(error.sqlstate in ("22012", "JQ001", "JQ002", "JQ003", "JQ004", "40P01", "57014"), f"{error.sqlstate}: {error}")
            self.held = before
            if self.session.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
                self.session.execute("ROLLBACK")
            # What a failed or undone call has not finished is held still, or finished by the time it is tried again.
            self.held = self.session.execute(
                "SELECT j.id, j.lease FROM jobq._job AS j JOIN unnest(%s::uuid[], %s::bigint[]) AS h (id, lease) USING (id, lease) "
                "WHERE j.state = 'r'", [[held[0] for held in self.held], [held[1] for held in self.held]]).fetchall()

    def let_go(self) -> None:
        for id, lease in self.held:
            self.session.execute("SELECT jobq.release(%s, %s)", [id, lease])


@scene("8 clients enqueue, claim, finish, cancel, roll back and fail, in 128 slots a stripe: no ready job is left that no claim gets")
def everybody(server: Cluster, report: Report) -> None:
    steps, seed = 1_500, random.randrange(1_000_000)
    report.note(f"seed {seed}, {steps} steps for each client")
    with connect(server) as root:
        for queue in QUEUES:
            root.execute("SELECT jobq.create_queue(%s, max_attempts => 1000, keep_completed => false)", [queue])
        clients = [Client(server, seed + n) for n in range(8)]

        def work(client: Client) -> None:
            for _ in range(steps):
                client.step()
            client.let_go()
            client.close()

        with Background() as background:
            for future in [background.run(work, client) for client in clients]:
                future.result(600)
        until(lambda: not scalar(root, "SELECT count(*) FROM jobq._job WHERE run_at > clock_timestamp()"), "scheduled jobs are due")
        left = pending(root)
        claimed = drain(root, QUEUES)
        report.note(f"{left} jobs were left, {len(claimed)} of them claimed; {dispatch(root)}")
        expect_equal(len({row[0] for row in claimed}), len(claimed), "no job came twice")
        expect_equal((len(claimed), pending(root)), (left, 0), "jobs that claims got, and that they did not")
        for queue in QUEUES:
            root.execute("SELECT jobq.drop_queue(%s, true)", [queue])


# ---- one thing at a time -----------------------------------------------------------------------------------------------------------

def queue_that_is_known(session: Connection, name: str) -> None:
    """A queue of which shared memory knows that it is empty: from here on every job must be offered."""
    session.execute("SELECT jobq.create_queue(%s, keep_completed => false)", [name])
    expect_equal(session.execute("SELECT id FROM jobq.claim(%s)", [name]).fetchall(), [], "jobs of a new queue")


ENQUEUE_MANY = "SELECT count(*) FROM jobq.enqueue_many('k', (SELECT jsonb_agg('{}'::jsonb) FROM generate_series(1, %s)), %s)"


@scene("more jobs than a transaction can note: enqueued, claimed and rolled back, in a subtransaction too: all come back")
def crowds(server: Cluster, report: Report) -> None:
    with connect(server) as root:
        queue_that_is_known(root, "crowd")
        root.execute(ENQUEUE_MANY, [1000, "crowd"])
        for undo in ("ROLLBACK", "ROLLBACK TO s"):
            root.execute("BEGIN; SAVEPOINT s")
            expect_equal(scalar(root, "SELECT count(*) FROM jobq.claim('crowd', 1000)"), 1000, f"claimed before {undo}")
            root.execute(undo)
            root.execute("COMMIT" if undo.endswith("s") else "SELECT 1")
        expect_equal(len(drain(root, ["crowd"])), 1000, "jobs claimed in the end")
        root.execute("BEGIN; SAVEPOINT s")
        root.execute(ENQUEUE_MANY, [1000, "crowd"])
        root.execute("ROLLBACK TO s")
        root.execute(ENQUEUE_MANY, [700, "crowd"])
        root.execute("COMMIT")
        expect_equal(len(drain(root, ["crowd"])), 700, "jobs enqueued after ROLLBACK TO")
        root.execute("SELECT jobq.drop_queue('crowd', true)")


@scene("a connection that dies in the middle of a claim: its jobs are there for the next one")
def dies(server: Cluster, report: Report) -> None:
    with connect(server) as root:
        queue_that_is_known(root, "dies")
        root.execute(ENQUEUE_MANY, [10, "dies"])
        victim = connect(server)
        victim.execute("BEGIN")
        expect_equal(scalar(victim, "SELECT count(*) FROM jobq.claim('dies', 10)"), 10, "claimed")
        expect_equal(scalar(root, "SELECT count(*) FROM jobq.claim('dies', 10)"), 0, "claimed beside it")
        root.execute("SELECT pg_terminate_backend(%s)", [victim.info.backend_pid])
        until(lambda: not scalar(root, "SELECT count(*) FROM pg_stat_activity WHERE pid = %s", [victim.info.backend_pid]), "it is gone")
        expect_equal(len(drain(root, ["dies"])), 10, "claimed after it died")
        root.execute("SELECT jobq.drop_queue('dies', true)")


@scene("statements that fail halfway, and that go by the table, lose no job: REPEATABLE READ, a trigger that fails")
def halfway(server: Cluster, report: Report) -> None:
    with connect(server) as root, connect(server) as other:
        queue_that_is_known(root, "halfway")
        root.execute(ENQUEUE_MANY, [10, "halfway"])
        # A claim by a statement takes rows that shared memory proposes to another one meanwhile; then it fails.
        root.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        expect_equal(scalar(root, "SELECT count(*) FROM jobq.claim('halfway', 10)"), 10, "claimed in REPEATABLE READ")
        expect_equal(scalar(other, "SELECT count(*) FROM jobq.claim('halfway', 10)"), 0, "claimed beside it")
        root.execute("ROLLBACK")
        expect_equal(scalar(other, "SELECT count(*) FROM jobq.claim('halfway', 10)"), 10, "claimed afterwards")
        other.execute("SELECT jobq.release(id, lease) FROM jobq._job")
        # A row with a trigger that fails: the statement has locked all ten by then.
        root.execute("""CREATE FUNCTION pg_temp.fails() RETURNS trigger LANGUAGE plpgsql AS
                        $$ BEGIN RAISE 'no'; END $$""")
        root.execute("CREATE TRIGGER fails BEFORE UPDATE ON jobq._job FOR EACH ROW EXECUTE FUNCTION pg_temp.fails()")
        try:
            root.execute("SELECT * FROM jobq.claim('halfway', 10)")
            raise AssertionError("the trigger did not fail")
        except psycopg.errors.RaiseException:
            root.execute("DROP TRIGGER fails ON jobq._job")
        expect_equal(len(drain(other, ["halfway"])), 10, "claimed after all")
        root.execute("SELECT jobq.drop_queue('halfway', true)")


@scene("a late heartbeat or completion that waited for a rescue, and holds the job's row until its end, gives it back")
def late(server: Cluster, report: Report) -> None:
    with connect(server) as root, connect(server) as worker, Background() as background:
        for call in ("SELECT held FROM jobq.heartbeat_many(ARRAY[%s], ARRAY[%s])",
                     "SELECT completed FROM jobq.complete_many(ARRAY[%s], ARRAY[%s], on_stale => 'skip')"):
            queue_that_is_known(root, "late")
            root.execute("SELECT jobq.enqueue('k', queue => 'late')")
            id, lease = worker.execute("SELECT id, lease FROM jobq.claim('late')").fetchone()
            with connect(server) as rescuer:
                rescuer.execute("BEGIN")
                expect_equal(scalar(rescuer, "SELECT jobq.rescue_zombies('1 ms')"), 1, "rescued")
                worker.execute("BEGIN")
                answer = background.run(scalar, worker, call, [id, lease])
                until(lambda: scalar(root, "SELECT count(*) FROM pg_stat_activity WHERE pid = %s AND wait_event_type = 'Lock'",
                                     [worker.info.backend_pid]), "the worker waits for the rescue")
                rescuer.execute("COMMIT")
            expect_equal(answer.result(60), False, "the answer to who lost the lease")
            # Whether the row is locked still is Postgres's affair; if it is, this claim lets the proposal go.
            first = scalar(root, "SELECT count(*) FROM jobq.claim('late')")
            worker.execute("COMMIT")
            expect_equal(first + scalar(root, "SELECT count(*) FROM jobq.claim('late')"), 1, f"claims that got the job after {call}")
            root.execute("SELECT jobq.release(id, lease) FROM jobq._job; SELECT jobq.drop_queue('late', true)")


@scene("what no transaction tells: COMMIT PREPARED and ROLLBACK PREPARED are seen at once, rows added by hand by the next sweep")
def untold(server: Cluster, report: Report) -> None:
    with connect(server) as root:
        queue_that_is_known(root, "untold")
        claimed = lambda: scalar(root, "SELECT count(*) FROM jobq.claim('untold', 100)")  # noqa: E731
        root.execute("BEGIN")
        root.execute(ENQUEUE_MANY, [5, "untold"])
        root.execute("PREPARE TRANSACTION 'jobs'")
        expect_equal(claimed(), 0, "claimed while it is prepared")
        root.execute("COMMIT PREPARED 'jobs'")
        expect_equal(claimed(), 5, "claimed after COMMIT PREPARED")
        root.execute("SELECT jobq.release(id, lease) FROM jobq._job")
        root.execute("BEGIN")
        expect_equal(claimed(), 5, "claimed by the transaction to be prepared")
        root.execute("PREPARE TRANSACTION 'claims'")
        expect_equal(claimed(), 0, "claimed while it is prepared")
        root.execute("ROLLBACK PREPARED 'claims'")
        expect_equal(claimed(), 5, "claimed after ROLLBACK PREPARED")
        root.execute("INSERT INTO jobq._job (id, enqueued_at, run_at, timeout_ms, queue_id, priority, max_attempts, scheduled, unique_pending, "
                     "kind, payload) SELECT gen_random_uuid(), enqueued_at, run_at, timeout_ms, queue_id, priority, max_attempts, "
                     "scheduled, unique_pending, kind, payload FROM jobq._job")
        expect_equal(claimed(), 0, "claimed before a sweep: else this shows nothing")
        root.execute("SELECT jobq.tick()")
        expect_equal(claimed(), 5, "claimed after a sweep")
        root.execute("SELECT jobq.drop_queue('untold', true)")


@scene("jobq.dispatch off and on again, jobs coming and going: nothing is forgotten")
def switched(server: Cluster, report: Report) -> None:
    def switch(value: str) -> None:
        server.configure({"jobq.dispatch": value})
        server.reload()
        with connect(server) as session:
            until(lambda: scalar(session, "SELECT current_setting('jobq.dispatch')") == value, f"jobq.dispatch = {value}")

    with connect(server) as root:
        queue_that_is_known(root, "switched")
        for value in ("off", "on"):
            root.execute(ENQUEUE_MANY, [10, "switched"])
            switch(value)
            until(lambda: scalar(root, "SELECT current_setting('jobq.dispatch')") == value, "this session has heard")
            expect_equal(scalar(root, "SELECT count(*) FROM jobq.claim('switched', 5)"), 5, f"claimed with dispatch {value}")
        expect_equal(len(drain(root, ["switched"])), 10, "claimed in the end")
        root.execute("SELECT jobq.drop_queue('switched', true)")


@scene("scheduled jobs: each is handed out when its time has come, and not before")
def scheduled(server: Cluster, report: Report) -> None:
    with connect(server) as root:
        queue_that_is_known(root, "scheduled")
        root.execute("SELECT jobq.enqueue('k', queue => 'scheduled', priority => 1 + n % 3, delay => n * interval '2 ms') "
                     "FROM generate_series(1, 300) AS n")
        came: list[str] = []
        deadline = time.monotonic() + PATIENCE_SECONDS
        while len(came) < 300:
            rows = root.execute("SELECT id, run_at <= clock_timestamp() FROM jobq.claim('scheduled', 7)").fetchall()
            expect(all(in_time for _, in_time in rows), "a job came before its time")
            came += [id for id, _ in rows]
            expect(time.monotonic() < deadline, f"only {len(came)} of 300 jobs came")
        expect_equal(len(set(came)), 300, "different jobs")
        root.execute("SELECT jobq.drop_queue('scheduled', true)")


@scene("after a crash of the server nothing is known and everything is found: 3000 jobs in 30 queues")
def restart(server: Cluster, report: Report) -> None:
    queues = [f"q{n:02}" for n in range(30)]
    with connect(server) as root:
        for queue in queues:
            queue_that_is_known(root, queue)
            root.execute(ENQUEUE_MANY, [100, queue])
    server.stop("immediate")
    server.start()
    with connect(server) as root:
        expect_equal(len(drain(root, queues)), 3000, "claimed after the restart")
        for queue in queues:
            root.execute("SELECT jobq.drop_queue(%s, true)", [queue])


@scene("600 queues, more than shared memory has places for: each hands out its jobs")
def many_queues(server: Cluster, report: Report) -> None:
    queues = [f"m{n:03}" for n in range(600)]
    with connect(server) as root:
        for queue in queues:
            queue_that_is_known(root, queue)
            root.execute(ENQUEUE_MANY, [3, queue])
        expect_equal(len(drain(root, queues)), 1800, "claimed")
        for queue in queues:
            root.execute("SELECT jobq.drop_queue(%s, true)", [queue])
