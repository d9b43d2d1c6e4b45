"""Many idle sessions that wait for jobs, one producer that enqueues a job now and then: how long until a waiter has it.

Prints one JSON line: latencies as the programs see them, by the server's clock from the begin of the call that enqueues to the
claim, and of the call that enqueues; how often waiting backends went to sleep again for each job; their processor time while nothing
happens, and how many hold a snapshot.
All sessions are served by one loop on their sockets; a waiter that has got a job completes it and waits again.
"""

from __future__ import annotations

import json
import os
import select
import time
from abc import ABC, abstractmethod
from datetime import datetime
from pathlib import Path

import psycopg
from psycopg import pq
from psycopg.types.json import Jsonb

ORDER = json.loads(os.environ["BENCH"])  # style, waiters, jobs, gap_ms, idle_seconds
PATIENCE_SECONDS = 20
MEASURING_SECONDS_MAX = 30


class Style(ABC):
    """How one kind of queue waits, asynchronously: a statement is sent, its result read when the socket has it."""

    enqueue: str
    # By the server's clock, of the job taken last; None: this queue does not tell.
    inside_ms: float | None = None

    @abstractmethod
    def wait(self, session: psycopg.Connection) -> None:
        """Sends what makes this session wait."""

    @abstractmethod
    def taken(self, session: psycopg.Connection) -> float | None:
        """The socket has something: when the job was sent, if this session has got one now."""

    def finish(self, session: psycopg.Connection) -> None:
        """Completes the job that was taken."""


class Jobq(Style):
    enqueue = "SELECT jobq.enqueue('bench', %s, 'bench')"
    LEASE_SECONDS = 3600

    def wait(self, session: psycopg.Connection) -> None:
        session.pgconn.send_query(b"CALL jobq.claim_wait('bench', 1, '10 min', 'bench', '1 h')")

    def taken(self, session: psycopg.Connection) -> float | None:
        jobs = json.loads(rows(session)[0][0])
        if not jobs:
            self.wait(session)
            return None
        self.job = jobs[0]
        self.inside_ms = 1000 * (moment(self.job["lease_expires_at"]) - moment(self.job["enqueued_at"]) - self.LEASE_SECONDS)
        return self.job["payload"]["sent"]

    def finish(self, session: psycopg.Connection) -> None:
        session.execute("SELECT jobq.complete(%s, %s)", [self.job["id"], self.job["lease"]])


class Hand(Style):
    """LISTEN; whoever is told tries to take the job, and most find that another was faster."""

    enqueue = "WITH n AS (INSERT INTO hand (queue, payload) VALUES ('bench', %s)) SELECT pg_notify('bench', '')"

    def wait(self, session: psycopg.Connection) -> None:
        session.execute("LISTEN bench")

    def taken(self, session: psycopg.Connection) -> float | None:
        session.pgconn.consume_input()
        if not any(iter(session.pgconn.notifies, None)):
            return None
        row = session.execute("""UPDATE hand SET state = 'running', attempt = attempt + 1, worker = 'bench',
                lease_expires_at = clock_timestamp() + interval '1 h'
            WHERE id = (SELECT id FROM hand WHERE queue = 'bench' AND state = 'pending' AND run_at <= now()
                        ORDER BY priority, run_at, id LIMIT 1 FOR UPDATE SKIP LOCKED)
            RETURNING id, payload, extract(epoch FROM lease_expires_at - run_at) - 3600""").fetchone()
        if row is None:
            return None
        self.id = row[0]
        self.inside_ms = 1000 * float(row[2])
        return row[1]["sent"]

    def finish(self, session: psycopg.Connection) -> None:
        session.execute("DELETE FROM hand WHERE id = %s", [self.id])


class Pgmq(Style):
    """read_with_poll with its defaults: looks every 100 ms for 5 s."""

    enqueue = "SELECT pgmq.send('bench', %s)"

    def wait(self, session: psycopg.Connection) -> None:
        session.pgconn.send_query(b"SELECT msg_id, message FROM pgmq.read_with_poll('bench', 300, 1)")

    def taken(self, session: psycopg.Connection) -> float | None:
        found = rows(session)
        if not found:
            self.wait(session)
            return None
        self.id, message = found[0]
        return json.loads(message)["sent"]

    def finish(self, session: psycopg.Connection) -> None:
        session.execute("SELECT pgmq.delete('bench', %s::bigint)", [int(self.id)])


def moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


STYLES: dict[str, type[Style]] = {"jobq": Jobq, "hand": Hand, "pgmq": Pgmq}


def rows(session: psycopg.Connection) -> list[tuple[str, ...]]:
    """The whole answer to what was sent with send_query; its first bytes are there."""
    found: list[tuple[str, ...]] = []
    while (result := session.pgconn.get_result()) is not None:
        if result.status == pq.ExecStatus.FATAL_ERROR:
            raise RuntimeError(result.error_message.decode())
        columns = range(result.nfields)
        found += [tuple((result.get_value(row, column) or b"").decode() for column in columns) for row in range(result.ntuples)]
    return found


def main() -> None:
    style = STYLES[ORDER["style"]]()
    sessions = [psycopg.connect(autocommit=True) for _ in range(ORDER["waiters"])]
    producer = psycopg.connect(autocommit=True)
    by_socket = {session.fileno(): session for session in sessions}
    poll = select.epoll()
    for session in sessions:
        style.wait(session)
        poll.register(session.fileno(), select.EPOLLIN)
    time.sleep(1)
    busy = idle_cpu(style, poll, by_socket)
    pids = [session.info.backend_pid for session in sessions]
    holding = producer.execute("SELECT count(*) FROM pg_stat_activity WHERE backend_xmin IS NOT NULL AND pid = ANY (%s)",
                               [pids]).fetchone()[0]
    sleeps_before = sum(map(sleeps, pids))
    latencies: list[float] = []
    inside: list[float] = []
    calls: list[float] = []
    end = time.monotonic() + MEASURING_SECONDS_MAX
    for number in range(ORDER["jobs"] + 1):
        # A thousand pollers leave no processor for anybody.
        if latencies and time.monotonic() > end:
            break
        taken, call = one_job(style, producer, poll, by_socket)
        if number > 0:  # the first one plans the statements
            latencies.append(taken)
            calls.append(call)
            if style.inside_ms is not None:
                inside.append(style.inside_ms)
        until = time.monotonic() + ORDER["gap_ms"] / 1000
        serve(style, poll, by_socket, until)
    slept = (sum(map(sleeps, pids)) - sleeps_before) / (len(latencies) + 1)
    print(json.dumps({"latencies_ms": latencies, "inside_ms": inside, "calls_ms": calls, "sleeps_per_job": slept,
                      "cpu_ms_per_s": busy, "holding_snapshot": holding}), flush=True)


def one_job(style: Style, producer: psycopg.Connection, poll: select.epoll, by_socket: dict[int, psycopg.Connection]) -> tuple[float, float]:
    """Milliseconds from before the call that enqueues to the job being in a waiter's hands, and those of the call."""
    sent = time.time()
    producer.execute(style.enqueue, [Jsonb({"sent": sent})])
    call = 1000 * (time.time() - sent)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if (taken := serve(style, poll, by_socket, time.monotonic() + 1, stop=True)) is not None:
            return taken, call
    raise RuntimeError(f"no waiter got the job within {PATIENCE_SECONDS} s")


def serve(style: Style, poll: select.epoll, by_socket: dict[int, psycopg.Connection], until: float, stop: bool = False) -> float | None:
    """Reads what arrives; with `stop` up to the first job, which is completed, and tells how long that job took to arrive."""
    while (left := until - time.monotonic()) > 0:
        for socket, _ in poll.poll(left):
            session = by_socket[socket]
            if (sent := style.taken(session)) is not None:
                took = 1000 * (time.time() - sent)
                style.finish(session)
                style.wait(session)
                if stop:
                    return took
    return None


def idle_cpu(style: Style, poll: select.epoll, by_socket: dict[int, psycopg.Connection]) -> float:
    """Processor milliseconds that all waiting backends together use in a second."""
    pids = [session.info.backend_pid for session in by_socket.values()]
    before, start = sum(map(cpu_ns, pids)), time.monotonic()
    serve(style, poll, by_socket, start + ORDER["idle_seconds"])
    return (sum(map(cpu_ns, pids)) - before) / 1e6 / (time.monotonic() - start)


def sleeps(pid: int) -> int:
    """How often the process has given up the processor by itself, to wait for something."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches:"))


def cpu_ns(pid: int) -> int:
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


if __name__ == "__main__":
    main()
