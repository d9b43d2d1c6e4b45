"""The workloads. Each makes a queue of its own on one server and leaves its jobs there or drops them."""

from __future__ import annotations

import itertools
import re
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from cluster import Cluster
from live import PATIENCE_SECONDS, Background, Connection, connect, scalar, until
from report import Failed, Report, Skipped, expect, expect_equal

SETTINGS = {"shared_preload_libraries": "jobq", "max_connections": "150", "max_worker_processes": "16",
            # Nothing here is about durability; everything is about what concurrent transactions do to each other.
            "fsync": "off",
            # Autovacuum as it is; it only looks more often than once a minute, as the run is short.
            "autovacuum_naptime": "5s", "shared_buffers": "256MB", "max_wal_size": "4GB"}

Workload = Callable[[Cluster, Report], None]
WORKLOADS: list[tuple[str, Workload]] = []


def workload(what: str) -> Callable[[Workload], Workload]:
    def add(play: Workload) -> Workload:
        WORKLOADS.append((what, play))
        return play

    return add


def make_queue(session: Connection, name: str, jobs: int = 0) -> None:
    session.execute("SELECT jobq.create_queue(%s)", [name])
    for start in range(0, jobs, 10_000):
        session.execute("SELECT count(*) FROM jobq.enqueue_many('k', (SELECT jsonb_agg('{}'::jsonb) FROM generate_series(1, %s)), %s)",
                        [min(10_000, jobs - start), name])


def in_state(session: Connection, queue: str, state: str) -> int:
    letter = {"pending": "p", "running": "r"}[state]
    return scalar(session, "SELECT count(*) FROM jobq._job AS j JOIN jobq._queue AS q ON q.id = j.queue_id WHERE q.name = %s AND j.state = %s",
                  [queue, letter])


def deadlocks(session: Connection) -> int:
    return scalar(session, "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")


def set_and_reload(server: Cluster, name: str, value: str) -> None:
    server.configure({name: value})
    server.reload()
    with connect(server) as session:
        until(lambda: scalar(session, "SELECT current_setting(%s)", [name]) == value, f"{name} = {value}")


def all_at_once(server: Cluster, number: int, work: Callable[[Connection, int], Any]) -> list[Any]:
    """`work(session, n)` in so many sessions that start together; the first error of any is raised."""
    sessions = [connect(server) for _ in range(number)]
    barrier = threading.Barrier(number)

    def one(n: int) -> Any:
        barrier.wait(60)
        return work(sessions[n], n)

    try:
        with Background() as background:
            return [future.result(300) for future in [background.run(one, n) for n in range(number)]]
    finally:
        for session in sessions:
            session.close()


# ---- batch discipline --------------------------------------------------------------------------------------------------------------

NESTED_LOOPS = ("SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_sort = off; SET enable_hashagg = off; "
                "SET enable_material = off; SET enable_bitmapscan = off")
SWITCHES = ("hashjoin", "mergejoin", "nestloop", "sort", "hashagg", "material", "indexscan")


@workload("batch: 8 claimers, 20 000 jobs, nested loops: never more than the batch, no job twice, none left")
def claimers(server: Cluster, report: Report) -> None:
    with connect(server) as root:
        make_queue(root, "claimers", 20_000)

        def work(session: Connection, n: int) -> list[Any]:
            session.execute(NESTED_LOOPS)
            mine: list[Any] = []
            deadline = time.monotonic() + 2 * PATIENCE_SECONDS
            for batch in itertools.cycle((1, 3, 10, 100)):
                rows = session.execute("SELECT id, attempt FROM jobq.claim('claimers', %s, %s)", [batch, f"w{n}"]).fetchall()
                expect(len(rows) <= batch, f"batch {batch} gave {len(rows)} rows")
                expect(all(attempt == 1 for _, attempt in rows), "a job was handed out before")
                mine += [id for id, _ in rows]
                expect(time.monotonic() < deadline, "jobs are left that nobody gets")
                # Empty-handed while others still hold locks on rows: look again.
                if not rows and in_state(session, "claimers", "pending") == 0:
                    return mine

        shares = all_at_once(server, 8, work)
        ids = Counter(id for share in shares for id in share)
        expect_equal((len(ids), ids.total()), (20_000, 20_000), "different jobs and rows handed out")
        expect_equal(in_state(root, "claimers", "running"), 20_000, "running jobs: no claim changed more than it returned")
        report.note(f"shares of the 8 claimers: {sorted(map(len, shares))}")
        root.execute("SELECT jobq.drop_queue('claimers', true)")


@workload("batch: all 128 combinations of planner switches, batches of 1, 3 and 100, one session: never more than the batch")
def plan_abuse(server: Cluster, report: Report) -> None:
    with connect(server) as root, connect(server) as session:
        make_queue(root, "plans", 15_000)
        running = 0
        for switches in itertools.product(("on", "off"), repeat=len(SWITCHES)):
            session.execute("; ".join(f"SET enable_{name} = {value}" for name, value in zip(SWITCHES, switches, strict=True)))
            # The session keeps its plans: without this only the first combination would ever be planned.
            session.execute("DISCARD PLANS")
            for batch in (1, 3, 100):
                rows = session.execute("SELECT id FROM jobq.claim('plans', %s)", [batch]).fetchall()
                setting = ", ".join(f"{name} {value}" for name, value in zip(SWITCHES, switches, strict=True))
                expect_equal((len(rows), len(set(rows))), (batch, batch), f"rows and jobs of a batch of {batch} with {setting}")
                running += batch
            expect_equal(in_state(root, "plans", "running"), running, f"running jobs with {setting}")
        root.execute("SELECT jobq.drop_queue('plans', true)")


# ---- HOT ---------------------------------------------------------------------------------------------------------------------------

SINGLE = """SELECT id AS job_id, lease AS job_lease FROM jobq.claim('hot', 1, 'bench') \\gset
SELECT jobq.heartbeat(:job_id, :job_lease);
SELECT jobq.complete(:job_id, :job_lease);
"""


# A worker that claims a batch and then works through it, job by job; every call a transaction of its own.
WORK_THROUGH = """DO $$ DECLARE c record; done int := 0; BEGIN
    WHILE done < 1000 LOOP
        FOR c IN SELECT id, lease FROM jobq.claim('hot', 100) LOOP
            PERFORM jobq.heartbeat(c.id, c.lease);
            COMMIT;
            PERFORM jobq.complete(c.id, c.lease);
            COMMIT;
            done := done + 1;
        END LOOP;
    END LOOP; END $$"""


@workload("HOT: 100 000 cycles of claim, heartbeat and complete, with autovacuum as it is: over 95 % of the updates")
def hot(server: Cluster, report: Report) -> None:
    singles, batched, batch_clients = 50_000, 50_000, 5
    # The pauses of real commits are what lets others' snapshots move on.
    set_and_reload(server, "fsync", "on")
    with connect(server) as root:
        make_queue(root, "hot", singles + 1000)
        # The updates that came before are not this workload's.
        before = updates(root)
        pgbench(server, SINGLE, 8, singles // 8)
        after_singles = updates(root)
        report.note(f"{singles} cycles of single claims by 8 clients: HOT share {share(before, after_singles):.4f}")
        root.execute("SELECT jobq.drop_queue('hot', true)")
        make_queue(root, "hot", batched + 1000)
        all_at_once(server, batch_clients,
                    lambda session, _: [session.execute(WORK_THROUGH) for _ in range(batched // batch_clients // 1000)])
        after = updates(root)
        report.note(f"{batched} cycles of claims of 100 worked through by {batch_clients} clients: HOT share {share(after_singles, after):.4f}")
        report.note(f"all {singles + batched} cycles: HOT share {share(before, after):.4f} of {after[0] - before[0]} updates")
        root.execute("SELECT jobq.drop_queue('hot', true)")
        make_queue(root, "hot-dense", 10_000)
        all_at_once(server, 4, all_in_batches)
        dense = updates(root)
        report.note(f"10 000 cycles of 4 clients that claim 100, heartbeat all 100 at once and complete all 100: HOT share {share(after, dense):.4f}")
        vacuums = scalar(root, "SELECT autovacuum_count FROM pg_stat_user_tables WHERE relid = 'jobq._job'::regclass")
        report.note(f"autovacuum of jobq._job so far: {vacuums} times")
        # Claims; heartbeats write nothing.
        expect(after[0] - before[0] >= singles + batched, f"only {after[0] - before[0]} updates were counted")
        expect(share(before, after) > 0.95, f"HOT share {share(before, after):.4f}")
    set_and_reload(server, "fsync", "off")


def all_in_batches(session: Connection, _: int) -> None:
    """Nobody heartbeats right after the claim; it is the worst case: the third version of each row while the first is in use."""
    while rows := session.execute("SELECT id, lease FROM jobq.claim('hot-dense', 100)").fetchall():
        ids, leases = [row[0] for row in rows], [row[1] for row in rows]
        session.execute("SELECT count(*) FROM jobq.heartbeat_many(%s, %s)", [ids, leases])
        session.execute("SELECT count(*) FROM jobq.complete_many(%s, %s)", [ids, leases])


def updates(root: Connection) -> tuple[int, int]:
    """Updates and HOT updates of the job table, once every other session has told its numbers."""
    until(lambda: scalar(root, "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'") == 1, "the other sessions' end")
    root.execute("SELECT pg_stat_clear_snapshot()")
    return root.execute("SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relid = 'jobq._job'::regclass").fetchone()


def share(before: tuple[int, int], after: tuple[int, int]) -> float:
    return (after[1] - before[1]) / max(after[0] - before[0], 1)


def pgbench(server: Cluster, script: str, clients: int, transactions: int) -> None:
    with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
        file.write(script)
        file.flush()
        done = subprocess.run([server.install.program("pgbench"), "--no-vacuum", "--protocol", "prepared", "--client", str(clients),
                               "--jobs", "2", "--transactions", str(transactions), "--file", file.name],
                              env=server.env(), text=True, capture_output=True)
    processed = re.search(r"actually processed: (\d+)/", done.stdout)
    if done.returncode != 0 or processed is None or int(processed[1]) != clients * transactions:
        raise Failed(f"pgbench: {done.stdout[-300:]} {done.stderr[-600:]}")


# ---- rescue ------------------------------------------------------------------------------------------------------------------------


@workload("rescue: 50 sessions rescue 10 000 zombies at once: each once, no deadlock")
def rescues(server: Cluster, report: Report) -> None:
    # The maintainer would take some of them.
    set_and_reload(server, "jobq.enabled", "off")
    with connect(server) as root:
        make_queue(root, "zombies", 10_000)
        expect_equal(scalar(root, "SELECT count(*) FROM jobq.claim('zombies', 10000, lease_for => '1 s')"), 10_000, "claimed")
        deadlocks_before = deadlocks(root)
        until(lambda: scalar(root, "SELECT bool_and(lease_expires_at < clock_timestamp()) FROM jobq.running_jobs WHERE queue = 'zombies'"),
              "the leases to expire")

        def work(session: Connection, n: int) -> int:
            got = 0
            deadline = time.monotonic() + PATIENCE_SECONDS
            # Empty-handed while others still hold locks on rows: look again.
            while in_state(session, "zombies", "running"):
                got += scalar(session, "SELECT jobq.rescue_zombies(batch => %s)", [50 + 10 * n])
                expect(time.monotonic() < deadline, "zombies are left that nobody rescues")
            return got

        got = all_at_once(server, 50, work)
        expect_equal(sum(got), 10_000, "rescues reported")
        found = root.execute("SELECT state, attempt, crashes, jsonb_array_length(attempt_errors), count(*) FROM jobq.jobs "
                             "WHERE queue = 'zombies' GROUP BY 1, 2, 3, 4").fetchall()
        expect_equal(found, [("pending", 1, 1, 1, 10_000)], "state, attempt, crashes, errors of the jobs")
        expect_equal(deadlocks(root) - deadlocks_before, 0, "deadlocks")
        report.note(f"sessions that rescued something: {sum(n > 0 for n in got)} of 50")
        root.execute("SELECT jobq.drop_queue('zombies', true)")
    set_and_reload(server, "jobq.enabled", "on")


# ---- unique keys -------------------------------------------------------------------------------------------------------------------


@workload("unique key: 100 sessions enqueue the same key at once: one job, one id for all, no error")
def unique_key(server: Cluster, report: Report) -> None:
    with connect(server) as root:
        make_queue(root, "unique")
        for scope in ("NULL", """'{"unique_while": "pending"}'"""):
            key = f"key-{len(scope)}"
            ids = all_at_once(server, 100, lambda session, n: scalar(
                session, f"SELECT jobq.enqueue('k', jsonb_build_object('n', %s::int), 'unique', unique_key => %s, options => {scope})", [n, key]))
            expect_equal((len(ids), len(set(ids))), (100, 1), f"answers and different ids with options {scope}")
            expect_equal(root.execute("SELECT id FROM jobq.jobs WHERE queue = 'unique' AND unique_key = %s", [key]).fetchall(), [(ids[0],)],
                         f"jobs with options {scope}")
        ids = all_at_once(server, 20, lambda session, n: session.execute(
            "SELECT id, created FROM jobq.enqueue_jobs((SELECT jsonb_agg(jsonb_build_object('kind', 'k', 'queue', 'unique', 'unique_key', 'm' || k) "
            "ORDER BY k * %s %% 101) FROM generate_series(1, 50) AS k))", [n + 1]).fetchall())
        made = Counter(created for rows in ids for _, created in rows)
        expect_equal((made[True], made[False]), (50, 950), "jobs created and found by enqueue_jobs in different orders")


# ---- memory ------------------------------------------------------------------------------------------------------------------------


def private_mib(pid: int) -> float:
    """Memory of a process that it shares with nobody."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        raise Skipped("needs /proc") from None
    return int(re.search(r"^RssAnon:\s+(\d+) kB", status, re.MULTILINE)[1]) / 1024


@workload("memory: 200 000 enqueue calls in one statement: less than 200 MiB more")
def memory_of_enqueue(server: Cluster, report: Report) -> None:
    with connect(server) as session, connect(server) as root:
        pid = session.info.backend_pid
        make_queue(root, "memory")
        session.execute("SELECT jobq.enqueue('k', '{}', 'memory')")
        start = peak = private_mib(pid)
        with Background() as background:
            running = background.run(session.execute, "SELECT count(jobq.enqueue('k', '{\"a\": 1}', 'memory')) FROM generate_series(1, 200000)")
            while not running.done():
                peak = max(peak, private_mib(pid))
                time.sleep(0.02)
            expect_equal(running.result().fetchone(), (200_000,), "calls")
        report.note(f"200 000 enqueues: {start:.1f} MiB before, {peak:.1f} MiB at the most, {private_mib(pid):.1f} MiB after")
        expect(peak - start < 200, f"{peak - start:.0f} MiB more")


@workload("memory: 100 000 cycles of claim and complete in one session: flat")
def memory_of_cycles(server: Cluster, report: Report) -> None:
    with connect(server) as session, connect(server) as root:
        pid = session.info.backend_pid
        queue = "memory"
        if scalar(root, "SELECT count(*) FROM jobq.queues WHERE name = %s", [queue]) == 0:
            make_queue(root, queue, 100_000)
        cycles = """DO $$ DECLARE c record; BEGIN
            FOR i IN 1..10000 LOOP
                SELECT id, lease INTO STRICT c FROM jobq.claim('memory');
                PERFORM jobq.complete(c.id, c.lease);
                COMMIT;
            END LOOP; END $$"""
        sizes = []
        for _ in range(10):
            session.execute(cycles)
            sizes.append(private_mib(pid))
        report.note(f"MiB after each 10 000 cycles: {', '.join(f'{size:.1f}' for size in sizes)}")
        # What the first round builds up (plans, caches) stays; 1 MiB in 90 000 cycles would be 12 bytes a cycle.
        expect(sizes[-1] - sizes[0] < 1, f"{sizes[-1] - sizes[0]:.1f} MiB more after 90 000 cycles")
        root.execute("SELECT jobq.drop_queue('memory', true)")


# ---- lock order --------------------------------------------------------------------------------------------------------------------


@workload("lock order: two sessions complete the same jobs in opposite orders, 1000 times: one wins, no deadlock")
def opposite_orders(server: Cluster, report: Report) -> None:
    rounds, jobs = 1000, 10
    with connect(server) as root:
        make_queue(root, "orders", rounds * jobs)
        deadlocks_before = deadlocks(root)
        barrier = threading.Barrier(2)
        batch: list[tuple[Any, int]] = []

        def work(session: Connection, n: int) -> Counter[str]:
            outcomes: Counter[str] = Counter()
            for _ in range(rounds):
                if n == 0:
                    batch[:] = session.execute("SELECT id, lease FROM jobq.claim('orders', %s)", [jobs]).fetchall()
                barrier.wait(60)
                pairs = batch[:] if n == 0 else batch[::-1]
                try:
                    session.execute("SELECT count(*) FROM jobq.complete_many(%s, %s)", [[p[0] for p in pairs], [p[1] for p in pairs]])
                    outcomes["ok"] += 1
                except psycopg.Error as error:
                    outcomes[error.sqlstate or str(error)] += 1
                barrier.wait(60)
            return outcomes

        outcomes = sum(all_at_once(server, 2, work), Counter())
        report.note(f"outcomes: {dict(outcomes)}")
        expect_equal(outcomes, Counter({"ok": rounds, "JQ002": rounds}), "outcomes")
        expect_equal(deadlocks(root) - deadlocks_before, 0, "deadlocks")
        expect_equal(scalar(root, "SELECT count(*) FROM jobq.jobs WHERE queue = 'orders' AND state = 'completed'"), rounds * jobs, "completed jobs")
