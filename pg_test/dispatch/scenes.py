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
            "jobq.sweep_interval": "1h", "jobq.dispatch_slots": "1024", "jobq.tick_interval": "100ms"}

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
        rows = self.session.execute("SELECT id, lease FROM jobq.claim(%s, %s, 'w', kinds => %s)",
                                    [queues, self.dice.choice([1, 1, 5, 30, 300]), kinds]).fetchall()
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
        work = self.dice.choices([self.enqueue, self.enqueue_many, self.claim, self.finish, self.meddle], [30, 3, 30, 25, 6])[0]
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
            self.held = [held for held in self.held if scalar(
                self.session, "SELECT count(*) FROM jobq._job WHERE id = %s AND lease = %s AND state = 'r'", list(held))]

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
