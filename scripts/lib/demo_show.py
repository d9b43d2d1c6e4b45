"""What happens during the demo: the jobs that are enqueued, and the harm that is done to the workers."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg.rows import namedtuple_row
from psycopg.types.json import Jsonb

from demo_check import Plan
from demo_crew import Crew, Death
from demo_input import Corpus
from demo_screen import Screen, View

LEASE_SECONDS = 3
BATCH_FILES = 25
SECONDS_AHEAD = (1, 8)            # how far ahead the scheduled jobs are
SECONDS_AFTER_ARRIVAL_MAX = 120   # then the demo gives up waiting
SAMPLE_FILES_MAX = 100

WORKER_ROLE = "demo_worker"
POOL_ROLE = "demo_inside"
POOL_SIZE = 2
TICK_SECONDS = 1
# The demo's own tables have no unique constraints: something that is done twice shall be seen.
SETUP = f"""
    CREATE EXTENSION jobq;
    SELECT jobq.create_queue('demo', max_attempts => 5,
        backoff => '{{"kind": "exponential", "base": "1s", "factor": 2, "max": "8s", "jitter": 0.1}}');
    CREATE SCHEMA demo;
    CREATE TABLE demo.batch (id int, missing int);
    CREATE TABLE demo.document (job uuid, batch int, path text, lines bigint, words bigint, bytes bigint,
                                top_words jsonb, worker text, written_at timestamptz DEFAULT clock_timestamp());
    CREATE TABLE demo.report (job uuid, batch int, documents int, lines bigint, words bigint, bytes bigint,
                              worker text, written_at timestamptz DEFAULT clock_timestamp());
    CREATE TABLE demo.sample (job uuid, documents int, bytes bigint, compressed bigint,
                              worker text, written_at timestamptz DEFAULT clock_timestamp());
    CREATE INDEX ON demo.batch (id);
    CREATE INDEX ON demo.document (batch);
    CREATE ROLE {WORKER_ROLE} LOGIN;
    SELECT jobq.grant_access('{WORKER_ROLE}', 'worker'), jobq.grant_access('{WORKER_ROLE}', 'producer');
    GRANT USAGE ON SCHEMA demo TO {WORKER_ROLE};
    GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA demo TO {WORKER_ROLE};
    -- Jobs that run inside the server need no worker process.
    CREATE TABLE demo.total (job uuid, tick timestamptz, documents bigint, words bigint, pid int);
    CREATE ROLE {POOL_ROLE} LOGIN;
    GRANT USAGE ON SCHEMA demo TO {POOL_ROLE};
    GRANT SELECT ON demo.document TO {POOL_ROLE};
    GRANT INSERT ON demo.total TO {POOL_ROLE};
    CREATE FUNCTION demo.count_words(job jobq.claimed_job) RETURNS void LANGUAGE sql AS $$
        INSERT INTO demo.total
        SELECT job.id, (job.headers ->> 'jobq_tick')::timestamptz, count(*), sum(words), pg_backend_pid() FROM demo.document $$;
    SELECT jobq.create_queue('inside');
    SELECT jobq.create_handler('count_words', 'demo.count_words(jobq.claimed_job)', run_as => '{POOL_ROLE}');
    SELECT jobq.create_pool('inside', 'inside', size => {POOL_SIZE}, run_as => '{POOL_ROLE}')"""


class JobVanished(Exception):
    """A job was lost. The show is over."""


class Show:
    """Each part is a small script of its own, a generator that goes on by one step at every tick of `run`: one
    enqueues the documents, the others wait for their moment and then do some harm."""

    def __init__(self, db: psycopg.Connection, corpus: Corpus, crew: Crew, screen: Screen,
                 arrival_seconds: int) -> None:
        self.db, self.crew, self.screen, self.corpus = db, crew, screen, corpus
        self.arrival_seconds = arrival_seconds
        self.seconds_max = arrival_seconds + SECONDS_AFTER_ARRIVAL_MAX
        self.plan = Plan(corpus)
        self.waves = _waves(list(corpus.sizes), arrival_seconds)
        batches = sum(_batches(wave) for wave in self.waves)
        self.expected = len(corpus.sizes) + batches + 4          # two samples, the poison, the lost file
        self.rescue = "no worker was killed"
        self.began = time.monotonic()

    def run(self) -> bool:
        """Until all parts are over and the queue is empty. False: it took too long."""
        parts = [self.documents(), self.poison(), self.lost_file(), self.kill_a_worker(), self.restart_a_worker(),
                 self.schedule()]
        while self.seconds() < self.seconds_max:
            parts = [part for part in parts if next(part, "over") != "over"]
            for death in self.crew.replace_dead():
                self.tell_death(death)
            if self.screen.due():
                view = self.look()
                self.screen.show(view, self.crew.names())
                if not parts and view.pending + view.scheduled + view.running == 0:
                    return True
            time.sleep(0.05)
        return False

    def seconds(self) -> float:
        return time.monotonic() - self.began

    def until(self, second: float) -> Iterator[None]:
        while self.seconds() < second:
            yield

    # The parts

    def documents(self) -> Iterator[None]:
        """Files arrive: a heap of them at once, then some every second."""
        heap, *rest = self.waves
        self.enqueue_wave(heap)
        self.screen.event(f"{len(heap):,} files enqueued at once, {sum(map(len, rest)):,} more come within"
                          f" {self.arrival_seconds} s")
        for second, wave in enumerate(rest, start=1):
            yield from self.until(second)
            self.enqueue_wave(wave)
        self.screen.event("all files are enqueued")

    def poison(self) -> Iterator[None]:
        yield from self.until(1)
        self.plan.poison = job = self.enqueue("poison", {})
        self.screen.event(f"poison job {_short(job)} enqueued: it kills each worker that runs it")
        while self.job(job).state != "failed":
            yield
        self.screen.event(f"poison job {_short(job)} is given up after {self.job(job).crashes} lost workers")

    def lost_file(self) -> Iterator[None]:
        """A file that is gone when its job runs: the worker says that trying again is no use."""
        yield from self.until(1)
        self.plan.lost_file = self.enqueue("index_document", {"path": "no-such-folder/no-such-file", "batch": -1})

    def kill_a_worker(self) -> Iterator[None]:
        yield from self.until(2)
        self.plan.orphaned = job = self.enqueue_sample()
        while (row := self.job(job)).state != "running" or (row.progress or 0) < 35:
            yield
        victim, killed = row.worker, time.monotonic()
        self.crew.signal(victim, signal.SIGKILL)
        self.screen.event(f"{victim} killed (SIGKILL) at {row.progress:.0f} % of {row.kind} {_short(job)}")
        while (row := self.job(job)).crashes == 0:
            yield
        after = time.monotonic() - killed
        self.rescue = f"{victim} was killed while it ran job {job};\n    the server rescued the job {after:.1f} s later"
        self.screen.event(f"job {_short(job)} rescued by the server {after:.1f} s later (lease {LEASE_SECONDS} s)")
        while (row := self.job(job)).state != "completed":
            yield
        self.rescue += f", {row.worker} finished it at attempt {row.attempt}"
        self.screen.event(f"job {_short(job)} finished by {row.worker} at attempt {row.attempt}")

    def restart_a_worker(self) -> Iterator[None]:
        """A worker that is asked to stop puts its job back: somebody else goes on at once."""
        yield from self.until(self.arrival_seconds / 2)
        job = self.enqueue_sample()
        while (row := self.job(job)).state != "running" or (row.progress or 0) < 20:
            yield
        worker = row.worker
        self.crew.signal(worker, signal.SIGTERM)
        self.screen.event(f"{worker} asked to stop (SIGTERM) at {row.progress:.0f} % of {row.kind} {_short(job)}")
        while self.job(job).worker == worker:
            yield
        self.screen.event(f"job {_short(job)} put back by {worker} (released)")
        while (row := self.job(job)).state != "completed":
            yield
        self.screen.event(f"job {_short(job)} finished by {row.worker}, still at attempt {row.attempt}")

    def schedule(self) -> Iterator[None]:
        """A job every second, run inside the server; one of the processes that run it is terminated."""
        self.db.execute("SELECT jobq.schedule('totals', %s, 'count_words', queue => 'inside', catch_up => 'all')",
                        (f"{TICK_SECONDS} s",))
        self.screen.event(f"scheduled: count the words every {TICK_SECONDS} s, in a pool of {POOL_SIZE} inside the server")
        yield from self.until(self.arrival_seconds / 3)
        running = "SELECT count(*) FROM jobq.pool_workers WHERE state = 'RUNNING'"
        while self.db.execute(running).fetchone() != (POOL_SIZE,):
            yield
        pid, = self.db.execute("SELECT min(pid) FROM jobq.pool_workers").fetchone()
        self.db.execute("SELECT pg_terminate_backend(%s)", (pid,))
        self.screen.event(f"a worker of the pool is terminated (process {pid})")
        gone = "SELECT count(*) FROM jobq.pool_workers WHERE pid <> %s AND state IN ('STARTING', 'RUNNING')"
        while self.db.execute(gone, (pid,)).fetchone() != (POOL_SIZE,):
            yield
        self.screen.event("the pool has as many workers as before")
        yield from self.until(self.arrival_seconds)
        self.db.execute("SELECT jobq.unschedule('totals')")
        left = "SELECT count(*) FROM jobq.jobs WHERE queue = 'inside' AND state IN ('pending', 'running')"
        while self.db.execute(left).fetchone() != (0,):
            yield

    # Enqueueing

    def enqueue_wave(self, paths: list[str]) -> None:
        """Priorities are mixed, one job in eight is seconds ahead. The batches of a wave and their jobs are added in
        one transaction: no worker can see half of it."""
        first, count = len(self.plan.batches), _batches(paths)
        payloads = [{"path": path, "batch": first + i % count} for i, path in enumerate(paths)]
        ahead = payloads[7::8]
        now = [payload for i, payload in enumerate(payloads) if i % 8 != 7]
        with self.db.transaction():
            for batch in range(first, first + count):
                self.plan.batches[batch] = sum(payload["batch"] == batch for payload in payloads)
                self.db.execute("INSERT INTO demo.batch VALUES (%s, %s)", (batch, self.plan.batches[batch]))
            for priority in (1, 2, 3):
                if some := now[priority - 1::3]:
                    self.enqueue_now(some, priority)
            if ahead:
                self.enqueue_ahead(ahead)

    def enqueue_now(self, payloads: list[dict], priority: int) -> None:
        self.note_documents(payloads, self.db.execute(
            "SELECT id FROM jobq.enqueue_many('index_document', %s, queue => 'demo', priority => %s)",
            (Jsonb(payloads), priority)))

    def enqueue_ahead(self, payloads: list[dict]) -> None:
        least, most = SECONDS_AHEAD
        jobs = [{"kind": "index_document", "payload": payload, "queue": "demo",
                 "delay": f"{least + i % (most - least + 1)} s"} for i, payload in enumerate(payloads)]
        self.note_documents(payloads, self.db.execute("SELECT id FROM jobq.enqueue_jobs(%s)", (Jsonb(jobs),)))

    def note_documents(self, payloads: list[dict], rows: psycopg.Cursor) -> None:
        for payload, (job,) in zip(payloads, rows.fetchall(), strict=True):
            self.plan.documents[payload["path"]] = str(job)

    def enqueue(self, kind: str, payload: dict) -> str:
        row = self.db.execute("SELECT jobq.enqueue(%s, %s, queue => 'demo', priority => 1)", (kind, Jsonb(payload)))
        return str(row.fetchone()[0])

    def enqueue_sample(self) -> str:
        """A job that takes twice its lease."""
        paths = sorted(self.corpus.sizes)
        paths = random.Random(2).sample(paths, min(SAMPLE_FILES_MAX, len(paths)))
        job = self.enqueue("compress_sample", {"paths": paths, "seconds": 2 * LEASE_SECONDS})
        self.plan.samples.append(job)
        return job

    # Looking

    def job(self, id: str) -> Any:
        with self.db.cursor(row_factory=namedtuple_row) as cursor:
            row = cursor.execute("SELECT * FROM jobq.job(%s)", (id,)).fetchone()
        if row is None:
            raise JobVanished(f"job {id} is neither unfinished nor finished: it was lost")
        return row

    def look(self) -> View:
        pending, scheduled, running, failed = self.db.execute(
            "SELECT pending, scheduled, running, failed FROM jobq.stats('demo')").fetchone()
        completed = dict(self.db.execute("SELECT name, completed FROM jobq.workers").fetchall())
        doing = self.db.execute("SELECT worker, kind, progress, note FROM jobq.running_jobs WHERE queue = 'demo'")
        return View(pending, scheduled, running, failed, sum(completed.values()), self.expected, completed,
                    {worker: kind if progress is None else f"{kind}, {progress:.0f} %, {note}"
                     for worker, kind, progress, note in doing})

    def tell_death(self, death: Death) -> None:
        held = self.db.execute("SELECT kind FROM jobq.running_jobs WHERE worker = %s", (death.name,)).fetchone()
        during = f" while it ran {held[0]}" if held else ""
        self.screen.event(f"{death.name} {death.how}{during}, {death.successor} takes its place")


def _waves(paths: list[str], seconds: int) -> list[list[str]]:
    """One file of five at once, the others spread over so many seconds."""
    random.Random(1).shuffle(paths)
    heap = len(paths) // 5
    cuts = [heap + (len(paths) - heap) * i // seconds for i in range(seconds + 1)]
    return [paths[:heap], *(paths[a:b] for a, b in zip(cuts, cuts[1:]))]


def _batches(paths: list[str]) -> int:
    return -(-len(paths) // BATCH_FILES)


def _short(job: str) -> str:
    """Ids begin with the time; their end tells them apart."""
    return f"...{job[-6:]}"
