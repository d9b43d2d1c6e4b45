#!/usr/bin/env python3
"""The reference worker: a plain SQL client that takes jobs from a jobq queue and does them.

`Worker` and `Heartbeats` are the loop; take them as they are. `HANDLERS`, at the end, are the demo's jobs; put
your own there. A handler does the slow part of a job outside any transaction and returns a function. The worker
calls that function in one transaction together with jobq.complete(): what it writes there happens exactly once,
however often the job has to be started again.

    demo_worker.py --connect 'host=... dbname=...' --queue demo --name worker-1 --folder /where/the/documents/are
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import threading
import time
import zlib
from collections import Counter
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Callable

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.types.json import Jsonb

WAIT = "10 s"                            # how long one call waits for a job, asleep in the server
STEP_SECONDS = 0.1                       # how soon a pause hears that the worker is to stop
PAUSE_SECONDS = (2, 4, 8, 16, 30)        # after the first, second, ... error in a row
# A connection that waits is silent: without these a network that is gone would be noticed after hours.
KEEPALIVES = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}

LEASE_LOST = "JQ001"                     # somebody else has the job now: forget it
ALREADY_FINISHED = "JQ002"               # our earlier attempt to finish it did reach the server
NO_SUCH_JOB = "JQ003"
NOT_POSSIBLE_NOW = "JQ004"
ABORTED_TRANSACTION = "25P02"

# Runs in the finishing transaction and returns the job's result.
Writes = Callable[[psycopg.Connection], Any]


class LeaseLost(Exception):
    """The job is no longer ours. Whatever we would write for it must not be written."""


class StopJob(Exception):
    """The worker is asked to end; the job goes back to the queue."""


class CancelJob(Exception):
    """Somebody called jobq.cancel() for the job."""


class Job:
    """A claimed job. Handlers call `go_on` now and then: it tells progress and hears about reasons to stop."""

    def __init__(self, claimed: dict[str, Any], lease_seconds: float) -> None:
        self.id, self.lease, self.attempt = claimed["id"], claimed["lease"], claimed["attempt"]
        self.kind, self.payload = claimed["kind"], claimed["payload"]
        self.beat_seconds = max(lease_seconds / 3, 0.2)
        self.progress: float | None = None
        self.note: str | None = None
        self.stop: Exception | None = None

    def go_on(self, progress: float | None = None, note: str | None = None) -> None:
        if self.stop is not None:
            raise self.stop
        self.progress, self.note = progress, note


class Heartbeats(threading.Thread):
    """Keeps the lease of the job in hand, three times per lease. It needs a connection of its own: the worker's
    may be busy with a long statement, and inside a transaction a heartbeat would be seen by nobody."""

    def __init__(self, connect: Callable[[], psycopg.Connection]) -> None:
        super().__init__(daemon=True)
        self.connect = connect
        self.db: psycopg.Connection | None = None
        self.job: Job | None = None
        self.changed = threading.Event()

    def keep(self, job: Job | None) -> None:
        self.job = job
        self.changed.set()

    def run(self) -> None:
        while True:
            job = self.job
            if self.changed.wait(job.beat_seconds if job else None):
                self.changed.clear()                     # another job, or none: the time starts anew
            elif job is not None:
                self.beat(job)

    def beat(self, job: Job) -> None:
        try:
            if self.db is None or self.db.closed:
                self.db = self.connect()
            alive = self.db.execute("SELECT jobq.heartbeat(%s, %s, progress => %s, note => %s)",
                                    (job.id, job.lease, job.progress, job.note)).fetchone()
            if alive == (False,):
                job.stop = CancelJob()
        except psycopg.Error as error:
            if error.sqlstate in (LEASE_LOST, ALREADY_FINISHED, NO_SUCH_JOB):
                job.stop = LeaseLost()
            else:
                # The server may be away for a moment; two more beats fit into the lease.
                log(f"heartbeat: {one_line(error)}")
                if self.db is not None:
                    self.db.close()


class Worker:
    def __init__(self, conninfo: str, queue: str, name: str, lease_seconds: float,
                 handlers: dict[str, Callable[[Job], Writes]]) -> None:
        self.conninfo, self.queue, self.name, self.handlers = conninfo, queue, name, handlers
        self.lease_seconds = lease_seconds
        self.db: psycopg.Connection | None = None
        self.job: Job | None = None
        self.waiting = False                             # for a job, in the server
        self.stopping = False
        self.errors = 0                                  # in a row
        self.heartbeats = Heartbeats(self.connect)

    # The loop

    def run(self) -> None:
        signal.signal(signal.SIGTERM, self.ask_to_stop)
        signal.signal(signal.SIGINT, self.ask_to_stop)
        self.heartbeats.start()
        log(f"started, process {os.getpid()}")
        while not self.stopping:
            try:
                self.job = self.claim()
                if self.job is not None:
                    self.work(self.job)
            except psycopg.Error as error:
                self.recover(error)
        log("stopped")

    def ask_to_stop(self, *_: object) -> None:
        """A handler that calls go_on() stops in the middle; a short job is simply finished first."""
        self.stopping = True
        if self.job is not None:
            self.job.stop = StopJob()
        if self.waiting and self.db is not None:
            with suppress(psycopg.Error):                # the wait ends by itself too, only later
                self.db.cancel_safe(timeout=5)

    def claim(self) -> Job | None:
        """Waits in the server until there is a job; None when WAIT is over or the worker is asked to stop. The call is
        alone, in no transaction (autocommit): only then may it wait, and does the claim hold while we work."""
        db = self.connection()
        self.waiting = True
        try:
            [jobs] = db.execute(
                "CALL jobq.claim_wait(queue => %s, wait => %s, worker => %s, lease_for => %s, kinds => %s)",
                (self.queue, WAIT, self.name, timedelta(seconds=self.lease_seconds), list(self.handlers))).fetchone()
        except psycopg.errors.QueryCanceled:
            if not self.stopping:
                raise
            jobs = []                                    # a canceled call has claimed nothing
        finally:
            self.waiting = False
        self.errors = 0
        return Job(jobs[0], self.lease_seconds) if jobs else None

    def work(self, job: Job) -> None:
        self.heartbeats.keep(job)
        try:
            if self.stopping:
                raise StopJob
            writes = self.handlers[job.kind](job)
            self.finish(job, lambda db: complete(db, job, writes(db)))
        except LeaseLost:
            log(f"{job.kind} {job.id}: the lease is lost, forgetting it")
        except StopJob:
            self.finish(job, lambda db: db.execute("SELECT jobq.release(%s, %s)", (job.id, job.lease)))
            log(f"{job.kind} {job.id}: released")
        except CancelJob:
            self.fail(job, "stopped because it was cancelled", retry=False)
        except Exception as error:
            if is_transient(error):
                raise                                    # the server's trouble, not the job's
            self.fail(job, f"{type(error).__name__}: {error}", retry=not isinstance(error, FileNotFoundError))
        finally:
            self.heartbeats.keep(None)
            self.job = None

    def fail(self, job: Job, reason: str, retry: bool) -> None:
        log(f"{job.kind} {job.id}: attempt {job.attempt} failed: {reason}")
        self.finish(job, lambda db: db.execute("SELECT jobq.fail(%s, %s, %s, retry => %s)",
                                               (job.id, job.lease, reason, retry)))

    def finish(self, job: Job, transaction: Callable[[psycopg.Connection], object]) -> None:
        """Ends the job in one transaction. When the connection breaks in the middle nobody knows whether it was
        committed, so it is repeated: jobq answers JQ002 if it was, and everything in it rolls back."""
        while True:
            try:
                db = self.connection()
                with db.transaction():
                    transaction(db)
                self.errors = 0
                return
            except psycopg.Error as error:
                if error.sqlstate == ALREADY_FINISHED:
                    return
                if error.sqlstate in (LEASE_LOST, NO_SUCH_JOB, NOT_POSSIBLE_NOW):
                    log(f"{job.kind} {job.id}: {one_line(error)}; forgetting it")
                    return
                if self.stopping or not is_transient(error):
                    raise
                self.recover(error)

    # Connections and errors

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(self.conninfo, autocommit=True, connect_timeout=5, application_name=self.name,
                               **KEEPALIVES)

    def connection(self) -> psycopg.Connection:
        if self.db is None or self.db.closed:
            self.db = self.connect()
        if self.db.info.transaction_status != TransactionStatus.IDLE:
            self.db.rollback()                           # left behind by an error: it would answer all with 25P02
        return self.db

    def recover(self, error: psycopg.Error) -> None:
        log(one_line(error))
        if error.sqlstate == ABORTED_TRANSACTION and self.db is not None and not self.db.broken:
            self.db.rollback()
            return
        pause = PAUSE_SECONDS[min(self.errors, len(PAUSE_SECONDS) - 1)]
        self.errors += 1
        if self.db is not None:
            self.db.close()                              # the next use connects anew
        log(f"trying again in {pause} s")
        end = time.monotonic() + pause
        while time.monotonic() < end and not self.stopping:
            time.sleep(STEP_SECONDS)


def complete(db: psycopg.Connection, job: Job, result: Any) -> None:
    db.execute("SELECT jobq.complete(%s, %s, %s)", (job.id, job.lease, Jsonb(result)))


def is_transient(error: BaseException) -> bool:
    """A lost connection, or a class that Postgres documents as worth repeating: 08, 40, 53, 57."""
    if not isinstance(error, psycopg.Error):
        return False
    if error.sqlstate is None:
        return isinstance(error, psycopg.OperationalError)
    return error.sqlstate[:2] in ("08", "40", "53", "57")


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def log(message: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {NAME}: {message}", flush=True)


NAME = "worker"


# The demo's jobs

WORD = re.compile(rb"[A-Za-z]{4,}")
TAG = re.compile(rb"<(script|style)\b.*?</\1>|<[^>]*>|&[a-z]+;", re.DOTALL | re.IGNORECASE)
TOP_WORDS = 10


class StorageDidNotAnswer(Exception):
    """The transient fault of the demo: gone at the next attempt or the one after."""


def faults_of(path: str) -> int:
    """How many of a file's first attempts fail: one for about 6 % of the files, two for about 1 %."""
    share = zlib.crc32(path.encode()) % 100
    return 1 if share < 6 else 2 if share == 6 else 0


def index_document(job: Job) -> Writes:
    """Reads one file and counts it. The last file of a batch enqueues the batch's report, in the same transaction:
    the report exists exactly when all its documents do."""
    path, batch = job.payload["path"], job.payload["batch"]
    if job.attempt <= faults_of(path):
        raise StorageDidNotAnswer("the storage did not answer in time (a fault this demo makes up)")
    text = (FOLDER / path).read_bytes()
    size, lines = len(text), text.count(b"\n")
    if path.endswith((".html", ".htm")):
        text = TAG.sub(b" ", text)
    words = Counter(WORD.findall(text.lower()))
    result = {"lines": lines, "words": sum(words.values()), "bytes": size,
              "top_words": {word.decode(): count for word, count in words.most_common(TOP_WORDS)}}

    def writes(db: psycopg.Connection) -> dict:
        db.execute("INSERT INTO demo.document (job, batch, path, lines, words, bytes, top_words, worker)"
                   " VALUES (%s, %s, %s, %s, %s, %s, %s, %s)",
                   (job.id, batch, path, lines, result["words"], size, Jsonb(result["top_words"]), NAME))
        missing = db.execute("UPDATE demo.batch SET missing = missing - 1 WHERE id = %s RETURNING missing", (batch,))
        if missing.fetchone() == (0,):
            db.execute("SELECT jobq.enqueue('report_batch', %s, queue => 'demo', priority => 1, unique_key => %s)",
                       (Jsonb({"batch": batch}), f"report-{batch}"))
        return result

    return writes


def report_batch(job: Job) -> Writes:
    """Adds up the documents of a batch."""
    batch = job.payload["batch"]

    def writes(db: psycopg.Connection) -> dict:
        found = db.execute("SELECT lines, words, bytes, top_words FROM demo.document WHERE batch = %s", (batch,))
        rows = found.fetchall()
        lines, words, size = (sum(row[i] for row in rows) for i in range(3))
        top: Counter = Counter()
        for row in rows:
            top.update(row[3])
        result = {"documents": len(rows), "lines": lines, "words": words, "bytes": size,
                  "top_words": dict(top.most_common(TOP_WORDS))}
        db.execute("INSERT INTO demo.report (job, batch, documents, lines, words, bytes, worker)"
                   " VALUES (%s, %s, %s, %s, %s, %s, %s)", (job.id, batch, len(rows), lines, words, size, NAME))
        return result

    return writes


def compress_sample(job: Job) -> Writes:
    """A job that takes longer than its lease (it rests between two files): only heartbeats keep it."""
    paths, seconds = job.payload["paths"], job.payload["seconds"]
    before = after = 0
    for number, path in enumerate(paths):
        job.go_on(progress=round(100 * number / len(paths), 1), note=f"file {number + 1} of {len(paths)}")
        text = (FOLDER / path).read_bytes()
        before += len(text)
        after += len(zlib.compress(text))
        time.sleep(seconds / len(paths))

    def writes(db: psycopg.Connection) -> dict:
        db.execute("INSERT INTO demo.sample (job, documents, bytes, compressed, worker) VALUES (%s, %s, %s, %s, %s)",
                   (job.id, len(paths), before, after, NAME))
        return {"documents": len(paths), "bytes": before, "compressed": after}

    return writes


def poison(job: Job) -> Writes:
    """Takes its worker down each time, as a job does that needs more memory than there is."""
    time.sleep(0.5)
    log(f"poison {job.id}: this job kills its worker")
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("not reached")


HANDLERS = {job.__name__: job for job in (index_document, report_batch, compress_sample, poison)}
FOLDER = Path()


def main() -> int:
    global NAME, FOLDER
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connect", required=True, metavar="CONNINFO", help="where the database is, in libpq's words")
    parser.add_argument("--queue", required=True)
    parser.add_argument("--name", required=True, help="this worker's name; shown in jobq.workers")
    parser.add_argument("--lease", type=float, default=30, metavar="SECONDS",
                        help="how long a lost worker may go unnoticed (30)")
    parser.add_argument("--folder", required=True, type=Path, help="the folder that the paths in the jobs begin at")
    options = parser.parse_args()
    NAME, FOLDER = options.name, options.folder
    Worker(options.connect, options.queue, options.name, options.lease, HANDLERS).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
