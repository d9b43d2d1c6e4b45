"""jobq with psycopg: claim_wait while idle, complete_and_claim while there is work; batches, two connections."""

from __future__ import annotations

import os
import sys
import threading

import psycopg
from meter import ORDER, Meter, chunks, pause, payload, say
from psycopg.types.json import Jsonb

CONNECTIONS = 2


def setup() -> None:
    with psycopg.connect(autocommit=True) as session:
        session.execute("CREATE EXTENSION jobq")
        session.execute("SELECT jobq.create_queue('bench', keep_completed => %s)", ["BENCH_KEEP" in os.environ])


def produce() -> None:
    with psycopg.connect(autocommit=True) as session:
        say(ready=True)
        for size in chunks():
            if size == 1:
                session.execute("SELECT jobq.enqueue('bench', %s, 'bench')", [Jsonb(payload())])
            else:
                session.execute("SELECT FROM jobq.enqueue_many('bench', %s, 'bench')", [Jsonb([payload() for _ in range(size)])])
            pause()
    say(jobs=ORDER["jobs"])


def work(meter: Meter) -> None:
    with psycopg.connect(autocommit=True) as session:
        while not meter.full.is_set():
            answer = session.execute("CALL jobq.claim_wait('bench', %s, '500 ms', 'bench')", [ORDER["batch"]]).fetchone()
            held = [(job["id"], job["lease"], job["payload"]) for job in answer[0]]
            while held:
                for _, _, content in held:
                    meter.started(content["sent"])
                ids, leases = [id for id, _, _ in held], [lease for _, lease, _ in held]
                finished = len(held)
                held = session.execute("""SELECT id, lease, payload
                    FROM jobq.complete_and_claim(%s::uuid[], %s::bigint[], NULL, 'bench', %s, 'bench')""",
                                       [ids, leases, ORDER["batch"]]).fetchall()
                meter.finished(finished)


def consume() -> None:
    meter = Meter()
    workers = [threading.Thread(target=work, args=[meter]) for _ in range(CONNECTIONS)]
    for worker in workers:
        worker.start()
    say(ready=True)
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    {"setup": setup, "produce": produce, "consume": consume}[sys.argv[1]]()
