"""A steady stream of jobs of which 10 % are scheduled and 10 % fail once and are retried: how late do those start.

Prints one JSON line. The producer sends `rate` jobs a second for `seconds`; `workers` sessions work them off. A scheduled job is due
2 s after it was sent, a retried one 1 s after its failure; late is what the start differs from that.
"""

from __future__ import annotations

import json
import os
import threading
import time
from abc import ABC, abstractmethod

import psycopg
from psycopg.types.json import Jsonb

ORDER = json.loads(os.environ["BENCH"])  # style, rate, seconds, workers
DELAY_SECONDS = 2
RETRY_SECONDS = 1
POLL_SECONDS = 0.1
BATCH = 10

Job = tuple[object, dict, bool]  # what the queue knows it by, payload, whether this is the first attempt


class Style(ABC):
    @abstractmethod
    def enqueue(self, session: psycopg.Connection, content: dict, delay: int) -> None: ...

    @abstractmethod
    def claim(self, session: psycopg.Connection) -> list[Job]:
        """Up to BATCH jobs; waits for a while if there is none."""

    @abstractmethod
    def complete(self, session: psycopg.Connection, keys: list) -> None: ...

    @abstractmethod
    def retry(self, session: psycopg.Connection, key: object) -> None: ...


class Jobq(Style):
    def enqueue(self, session: psycopg.Connection, content: dict, delay: int) -> None:
        session.execute("SELECT jobq.enqueue('bench', %s, 'bench', delay => make_interval(secs => %s))", [Jsonb(content), delay])

    def claim(self, session: psycopg.Connection) -> list[Job]:
        jobs = session.execute("CALL jobq.claim_wait('bench', %s, '500 ms', 'bench')", [BATCH]).fetchone()[0]
        return [((job["id"], job["lease"]), job["payload"], job["attempt"] == 1) for job in jobs]

    def complete(self, session: psycopg.Connection, keys: list) -> None:
        session.execute("SELECT FROM jobq.complete_many(%s::uuid[], %s::bigint[])", [[id for id, _ in keys], [lease for _, lease in keys]])

    def retry(self, session: psycopg.Connection, key: object) -> None:
        session.execute("SELECT jobq.fail(%s, %s, 'not yet', retry_in => make_interval(secs => %s))", [*key, RETRY_SECONDS])


class Hand(Style):
    def enqueue(self, session: psycopg.Connection, content: dict, delay: int) -> None:
        session.execute("INSERT INTO hand (queue, payload, run_at) VALUES ('bench', %s, now() + make_interval(secs => %s))",
                        [Jsonb(content), delay])

    def claim(self, session: psycopg.Connection) -> list[Job]:
        rows = session.execute("""WITH c AS MATERIALIZED (SELECT id FROM hand
                WHERE queue = 'bench' AND state = 'pending' AND run_at <= now()
                ORDER BY priority, run_at, id LIMIT %s FOR UPDATE SKIP LOCKED)
            UPDATE hand SET state = 'running', attempt = attempt + 1, worker = 'bench',
                lease_expires_at = clock_timestamp() + interval '5 min'
            FROM c WHERE hand.id = c.id RETURNING hand.id, payload, attempt""", [BATCH]).fetchall()
        return polled([(id, content, attempt == 1) for id, content, attempt in rows])

    def complete(self, session: psycopg.Connection, keys: list) -> None:
        session.execute("DELETE FROM hand WHERE id = ANY (%s)", [keys])

    def retry(self, session: psycopg.Connection, key: object) -> None:
        session.execute("UPDATE hand SET state = 'pending', run_at = now() + make_interval(secs => %s) WHERE id = %s", [RETRY_SECONDS, key])


class Pgmq(Style):
    def enqueue(self, session: psycopg.Connection, content: dict, delay: int) -> None:
        session.execute("SELECT pgmq.send('bench', %s, %s::int)", [Jsonb(content), delay])

    def claim(self, session: psycopg.Connection) -> list[Job]:
        rows = session.execute("SELECT msg_id, message, read_ct FROM pgmq.read_with_poll('bench', 300, %s, 1, 100)", [BATCH]).fetchall()
        return [(id, content, count == 1) for id, content, count in rows]

    def complete(self, session: psycopg.Connection, keys: list) -> None:
        session.execute("SELECT pgmq.delete('bench', %s::bigint[])", [keys])

    def retry(self, session: psycopg.Connection, key: object) -> None:
        session.execute("SELECT FROM pgmq.set_vt('bench', %s::bigint, %s::int)", [key, RETRY_SECONDS])


class Procrastinate(Style):
    def enqueue(self, session: psycopg.Connection, content: dict, delay: int) -> None:
        session.execute("""SELECT procrastinate_defer_jobs_v1(ARRAY[ROW('bench', 'bench', 0, NULL, NULL, %s,
            now() + make_interval(secs => %s))::procrastinate_job_to_defer_v1])""", [Jsonb(content), delay])

    def claim(self, session: psycopg.Connection) -> list[Job]:
        row = session.execute("SELECT id, args, attempts FROM procrastinate_fetch_job_v2('{bench}', 1)").fetchone()
        return polled([(row[0], row[1], row[2] == 0)] if row and row[0] else [])

    def complete(self, session: psycopg.Connection, keys: list) -> None:
        for key in keys:
            session.execute("SELECT procrastinate_finish_job_v1(%s, 'succeeded', true)", [key])

    def retry(self, session: psycopg.Connection, key: object) -> None:
        session.execute("SELECT procrastinate_retry_job_v2(%s, now() + make_interval(secs => %s), NULL, NULL, NULL)", [key, RETRY_SECONDS])


STYLES: dict[str, type[Style]] = {"jobq": Jobq, "hand": Hand, "pgmq": Pgmq, "procrastinate": Procrastinate}


def polled(jobs: list[Job]) -> list[Job]:
    """For those without a way to wait: the pause of an empty-handed worker."""
    if not jobs:
        time.sleep(POLL_SECONDS)
    return jobs


class Tally:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.done = 0
        self.scheduled: list[float] = []
        self.retried: list[float] = []
        self.due: dict[object, float] = {}
        self.over = threading.Event()


def produce(style: Style, tally: Tally) -> int:
    jobs = int(ORDER["rate"] * ORDER["seconds"])
    start = time.monotonic()
    with psycopg.connect(autocommit=True) as session:
        for number in range(jobs):
            kind = {0: "scheduled", 1: "retried"}.get(number % 10, "plain")
            delay = DELAY_SECONDS if kind == "scheduled" else 0
            style.enqueue(session, {"number": number, "kind": kind, "due": time.time() + delay}, delay)
            time.sleep(max(0.0, start + (number + 1) / ORDER["rate"] - time.monotonic()))
    return jobs


def work(style: Style, tally: Tally) -> None:
    with psycopg.connect(autocommit=True) as session:
        while not tally.over.is_set():
            finished = []
            for key, content, first in style.claim(session):
                now = time.time()
                if content["kind"] == "retried" and first:
                    with tally.lock:
                        tally.due[content["number"]] = time.time() + RETRY_SECONDS
                    style.retry(session, key)
                    continue
                with tally.lock:
                    if content["kind"] == "scheduled":
                        tally.scheduled.append(1000 * (now - content["due"]))
                    elif content["kind"] == "retried":
                        tally.retried.append(1000 * (now - tally.due[content["number"]]))
                finished.append(key)
            if finished:
                style.complete(session, finished)
                with tally.lock:
                    tally.done += len(finished)


def main() -> None:
    style, tally = STYLES[ORDER["style"]](), Tally()
    workers = [threading.Thread(target=work, args=[style, tally], daemon=True) for _ in range(ORDER["workers"])]
    for worker in workers:
        worker.start()
    start = time.monotonic()
    jobs = produce(style, tally)
    sent = time.monotonic() - start
    deadline = time.monotonic() + 30
    while tally.done < jobs and time.monotonic() < deadline:
        time.sleep(0.02)
    took = time.monotonic() - start
    tally.over.set()
    for worker in workers:
        worker.join(10)
    print(json.dumps({"jobs": jobs, "done": tally.done, "sent_per_s": jobs / sent, "seconds": took, "scheduled_ms": tally.scheduled,
                      "retried_ms": tally.retried}), flush=True)


if __name__ == "__main__":
    main()
