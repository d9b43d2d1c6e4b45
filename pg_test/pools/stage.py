"""What a scene plays on: a queue, a role, the role's schema and a pool, all of one name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cluster import Cluster
from live import Connection, connect, scalar, until
from psycopg.types.json import Jsonb
from report import Report, expect, expect_equal

SETTINGS = {"shared_preload_libraries": "jobq", "max_connections": "60", "max_worker_processes": "40", "fsync": "off",
            "jobq.tick_interval": "100ms", "jobq.rescue_grace": "1s"}

Scene = Callable[[Cluster, Report], None]
SCENES: list[tuple[str, Scene]] = []


def scene(what: str) -> Callable[[Scene], Scene]:
    def add(play: Scene) -> Scene:
        SCENES.append((what, play))
        return play

    return add


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


class Stage:
    """The superuser's session, and what it set up under one name."""

    def __init__(self, server: Cluster, name: str, dbname: str = "postgres") -> None:
        self.server = server
        self.name = name
        self.dbname = dbname
        self.role = quoted(name)
        # Queue and pool names have no spaces and no quotes.
        self.queue = self.pool = "".join(c if c.isascii() and c.isalnum() else "-" for c in name)
        self.root = connect(server, dbname=dbname)

    def value(self, sql: str, parameters: Any = None) -> Any:
        return scalar(self.root, sql, parameters)

    def set_up(self, **queue: Any) -> None:
        options = {"backoff": Jsonb({"kind": "constant", "base": "10ms", "jitter": 0}), **queue}
        given = "".join(f", {option} => %({option})s" for option in options)
        self.root.execute(f"SELECT jobq.create_queue(%(name)s{given})", {"name": self.queue, **options})
        self.root.execute(f"CREATE ROLE {self.role} LOGIN; CREATE SCHEMA {self.role} AUTHORIZATION {self.role};"
                          f"SELECT jobq.grant_access({literal(self.role)}, 'handler')")
        self.root.execute(f"CREATE TABLE {self.role}.effect (job uuid, attempt int, note text);"
                          f"ALTER TABLE {self.role}.effect OWNER TO {self.role}")

    def tear_down(self) -> None:
        """Leaves nothing behind, whatever the scene has left of it."""
        self.root.execute("SELECT jobq.drop_handler(kind) FROM jobq.handlers; SELECT jobq.drop_pool(name) FROM jobq.pools")
        self.root.execute("SELECT pg_terminate_backend(pid) FROM jobq._pool_workers() WHERE job IS NOT NULL")
        until(lambda: self.value("SELECT NOT EXISTS (SELECT FROM jobq._pool_workers())"), "no worker is left")
        # What is completed would outlive its queue, and be the next one's of that name.
        self.root.execute("SELECT jobq.purge(q.name, state, '0') FROM jobq.queues AS q, unnest('{completed,failed,cancelled}'::text[]) AS state;"
                          "SELECT jobq.drop_queue(name, true) FROM jobq.queues WHERE name <> 'default'")
        if self.value("SELECT to_regrole(%s) IS NOT NULL", [self.role]):
            self.root.execute(f"DROP OWNED BY {self.role} CASCADE; DROP ROLE {self.role}")
        self.root.close()

    def handler(self, kind: str, body: str, *, returns: str | None = "jsonb", inout: bool = False) -> None:
        """Has `body`, PL/pgSQL statements about the row `job`, run for a kind; `returns` None: a procedure, which `inout` has a result."""
        name = f"{self.role}.{quoted(kind)}"
        what = "PROCEDURE" if returns is None else "FUNCTION"
        self.root.execute(f"CREATE OR REPLACE {what} {name}(job jobq.claimed_job{', INOUT result jsonb' if inout else ''}) "
                          f"{f'RETURNS {returns}' if returns else ''} LANGUAGE plpgsql AS $body$ BEGIN {body} END $body$")
        self.register(kind, f"{name}(jobq.claimed_job{', jsonb' if inout else ''})")

    def register(self, kind: str, function: str) -> None:
        self.root.execute("SELECT jobq.create_handler(%s, %s::regprocedure, %s::regrole)", [kind, function, self.role])

    def start(self, size: int = 1, **options: Any) -> None:
        """Makes the pool; with autostart, waits until all its workers run."""
        options = {"queue": self.queue, "start_seconds": 0, **options}
        given = "".join(f", {option} => %({option})s" for option in options)
        self.root.execute(f"SELECT jobq.create_pool(%(pool)s, size => %(size)s, run_as => %(role)s::regrole{given})",
                          {"pool": self.pool, "size": size, "role": self.role, **options})
        if options.get("autostart", True):
            self.until_running(size)

    def until_running(self, size: int) -> None:
        running = "SELECT count(*) = %s AND bool_and(state = 'RUNNING') FROM jobq.pool_workers WHERE pool = %s"
        until(lambda: self.value(running, [size, self.pool]) or (size == 0 and not self.pids()), f"{size} workers run")

    def until_state(self, state: str) -> str | None:
        """Until all workers are in that state: the reason."""
        return until(lambda: self.root.execute("SELECT reason FROM jobq.pools WHERE name = %s AND state = %s", [self.pool, state]).fetchone(),
                     f"the pool is {state}")[0]

    def pids(self) -> list[int]:
        return [row[0] for row in self.root.execute("SELECT pid FROM jobq.pool_workers WHERE pool = %s AND pid IS NOT NULL ORDER BY number",
                                                    [self.pool]).fetchall()]

    def enqueue(self, kind: str, payload: Any = None, **options: Any) -> str:
        options = {"queue": self.queue, **options}
        given = "".join(f", {option} => %({option})s" for option in options)
        return self.value(f"SELECT jobq.enqueue(%(kind)s, %(payload)s{given})::text", {"kind": kind, "payload": Jsonb(payload or {}), **options})

    def enqueue_many(self, kind: str, number: int) -> None:
        self.root.execute("SELECT count(*) FROM jobq.enqueue_many(%s, (SELECT jsonb_agg('{}'::jsonb) FROM generate_series(1, %s)), %s)",
                          [kind, number, self.queue])

    def job(self, id: str) -> dict[str, Any]:
        return self.value("SELECT to_jsonb(j) FROM jobq.job(%s) AS j", [id])

    def until_job(self, id: str, condition: Callable[[dict[str, Any]], Any], what: str) -> dict[str, Any]:
        return until(lambda: (job := self.job(id)) and condition(job) and job, f"{what}: {self.job(id)}")

    def until_busy(self, id: str) -> dict[str, Any]:
        """Until a worker's process runs the job."""
        until(lambda: self.value("SELECT count(*) FROM jobq.pool_workers WHERE job = %s", [id]), f"a worker runs {id}: {self.job(id)}")
        return self.job(id)

    def ends(self, id: str, state: str) -> dict[str, Any]:
        """Until the job is over: the job, in that state."""
        job = self.until_job(id, lambda job: job["finished_at"], "the job is over")
        expect(job["state"] == state, f"expected {state}, got {job['state']}: {job['last_error']}")
        return job

    def run(self, kind: str, payload: Any = None, state: str = "completed", **options: Any) -> dict[str, Any]:
        """Enqueues a job and waits until it is over."""
        return self.ends(self.enqueue(kind, payload, **options), state)

    def until_all_over(self, seconds: float = 60) -> None:
        until(lambda: not self.value("SELECT count(*) FROM jobq._job"), "all jobs are over", seconds)

    def effects(self, where: str = "true") -> list[tuple[Any, ...]]:
        return self.root.execute(f"SELECT note, count(*) FROM {self.role}.effect WHERE {where} GROUP BY note ORDER BY note").fetchall()

    def expect_each_once(self, number: int) -> None:
        """So many jobs are completed, each with one effect, which is that of its last attempt."""
        sql = f"""SELECT (SELECT count(*) FROM jobq.jobs WHERE queue = %s AND state = 'completed'), count(*), count(DISTINCT e.job),
                         count(*) FILTER (WHERE j.state IS DISTINCT FROM 'completed')
                  FROM {self.role}.effect AS e LEFT JOIN jobq.jobs AS j ON j.id = e.job"""
        row = self.root.execute(sql, [self.queue]).fetchone()
        expect_equal(row, (number, number, number, 0), "jobs completed, effects, jobs with effects, effects of jobs that did not complete")


def literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


EFFECT = "INSERT INTO effect VALUES ((job).id, (job).attempt, (job).payload ->> 'note');"


@contextmanager
def stage(server: Cluster, name: str, dbname: str = "postgres", **queue: Any) -> Iterator[Stage]:
    one = Stage(server, name, dbname)
    try:
        one.set_up(**queue)
        yield one
    finally:
        one.tear_down()
