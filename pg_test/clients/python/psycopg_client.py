"""jobq from psycopg 3: every function, in the forms a program would write.

With POOLER set, the same through pgbouncer in transaction mode.
"""

from __future__ import annotations

import json
import os
import threading
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID, uuid4

import psycopg
from psycopg.rows import dict_row, namedtuple_row
from psycopg.types.json import Json, Jsonb
from psycopg_pool import ConnectionPool

from checks import CONTRACT, all_seen, check, equal, eventually, read_as, run, true

URL = os.environ["DATABASE_URL"]
# pgbouncer before 1.21 knows no prepared statements: there they are switched off.
OPTIONS = {"autocommit": True, "row_factory": namedtuple_row, "prepare_threshold": None if os.environ.get("POOLER") else 5}


def value(db, sql, *parameters):
    return db.execute(sql, parameters).fetchone()[0]


def job(db, id):
    return db.execute("SELECT * FROM jobq.job(%s)", (id,)).fetchone()


def enqueue(db, kind="send_email", **options):
    named = "".join(f", {name} => %({name})s" for name in options)
    return db.execute(f"SELECT jobq.enqueue('{kind}'{named})", options).fetchone()[0]


def claim(db, **options):
    named = ", ".join(f"{name} => %({name})s" for name in options)
    return db.execute(f"SELECT * FROM jobq.claim({named})", options).fetchall()


def about(span, seconds):
    return abs(span.total_seconds() - seconds) < 2


def claimed(db, **options):
    """A job of its own, and held."""
    id = enqueue(db, **options)
    [held] = claim(db, worker="ada")
    equal(held.id, id)
    return held


@contextmanager
def refused(sqlstate, hint=None):
    try:
        yield
    except psycopg.Error as error:
        equal(error.sqlstate, sqlstate)
        if hint:
            true(hint in (error.diag.message_hint or ""), error.diag.message_hint)
    else:
        raise AssertionError(f"not refused with {sqlstate}")


# Producers


@check("enqueue: kind and payload")
def _(db):
    id = value(db, "SELECT jobq.enqueue('send_email', %s)", Jsonb({"to": "ada@example.org"}))
    equal(type(id), UUID)
    equal(id.version, 7)
    equal(job(db, id).payload, {"to": "ada@example.org"})


@check("enqueue: every option by name")
def _(db):
    value(db, "SELECT jobq.create_queue('mail')")
    id = db.execute(
        """SELECT jobq.enqueue('send_email', %(payload)s, queue => 'mail', priority => 1, delay => %(delay)s, max_attempts => 5,
                               timeout => %(timeout)s, unique_key => 'ada', headers => %(headers)s, options => %(options)s)""",
        {"payload": Jsonb([1, [2, 3]]), "delay": timedelta(seconds=90), "timeout": timedelta(minutes=2),
         "headers": Jsonb({"trace": "4bf9"}), "options": Jsonb({"unique_while": "pending"})}).fetchone()[0]
    made = job(db, id)
    equal((made.queue, made.kind, made.state, made.priority), ("mail", "send_email", "pending", 1))
    equal((made.payload, made.headers, made.max_attempts, made.attempt), ([1, [2, 3]], {"trace": "4bf9"}, 5, 0))
    equal((made.unique_key, made.worker, made.result, made.cancel_requested), ("ada", None, None, False))
    true(about(made.run_at - made.enqueued_at, 90), made.run_at)


@check("enqueue: run_at as datetime; run_at in the past is now; not together with delay; at most ten years ahead")
def _(db):
    at = datetime(2031, 5, 17, 8, 30, tzinfo=timezone.utc)
    equal(job(db, enqueue(db, run_at=at)).run_at, at)
    past = enqueue(db, run_at=datetime(2001, 1, 1, tzinfo=timezone.utc))
    equal([j.id for j in claim(db)], [past])
    with refused("22023"):
        enqueue(db, run_at=at, delay=timedelta(seconds=1))
    with refused("22023", hint="seconds"):
        enqueue(db, delay="90000000000")


@check("enqueue: every option NULL, by position")
def _(db):
    id = value(db, "SELECT jobq.enqueue(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)", "report", Jsonb({}), *[None] * 9)
    made = job(db, id)
    equal((made.queue, made.priority, made.max_attempts, made.headers), ("default", 2, 3, None))
    with refused("22004"):
        value(db, "SELECT jobq.enqueue('report', %s)", None)
    with refused("22004"):
        value(db, "SELECT jobq.enqueue(%s)", None)


@check("a payload encoded twice is refused, and so are bare values; Json instead of Jsonb finds no function")
def _(db):
    for payload in (json.dumps({"a": 1}), 7, True, None):
        with refused("22023"):
            enqueue(db, payload=Jsonb(payload))
    with refused("22023", hint="twice"):
        enqueue(db, payload=Jsonb(json.dumps({"a": 1})))
    with refused("22023"):
        enqueue(db, headers=Jsonb([1]))
    with refused("42883"):
        enqueue(db, payload=Json({"a": 1}))


@check("a payload comes back digit for digit")
def _(db):
    text = '{"n": 12345678901234567890.12345678901234567890, "e": "\\u00e9\\t", "deep": [[[[{}]]]]}'
    id = value(db, "SELECT jobq.enqueue('report', %s::jsonb)", text)
    kept = value(db, "SELECT payload::text FROM jobq.job(%s)", id)
    equal(json.loads(kept, parse_float=Decimal), json.loads(text, parse_float=Decimal))
    [held] = claim(db)
    equal(value(db, "SELECT %s::jsonb = payload FROM jobq.job(%s)", text, held.id), True)


@check("enqueue_many: one job for each payload, in order; arrays as payloads stay whole")
def _(db):
    value(db, "SELECT jobq.create_queue('bulk')")
    rows = db.execute("SELECT * FROM jobq.enqueue_many('resize', %s, queue => 'bulk', priority => 3)",
                      (Jsonb([{"n": 1}, {"n": 2}, {"n": 3}]),)).fetchall()
    equal([row.created for row in rows], [True, True, True])
    equal([job(db, row.id).payload for row in rows], [{"n": 1}, {"n": 2}, {"n": 3}])
    rows = db.execute("SELECT * FROM jobq.enqueue_many('resize', %s)", (Jsonb([[1, 2], [3, 4]]),)).fetchall()
    equal([job(db, row.id).payload for row in rows], [[1, 2], [3, 4]])
    rows = db.execute("SELECT * FROM jobq.enqueue_many(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
                      ("resize", Jsonb([{}]), *[None] * 8)).fetchall()
    equal(len(rows), 1)
    with refused("22023"):
        db.execute("SELECT * FROM jobq.enqueue_many('resize', %s)", (Jsonb({"not": "an array"}),))
    with refused("22023"):
        db.execute("SELECT * FROM jobq.enqueue_many('resize', %s)", (Jsonb([{}, "text"]),))


@check("enqueue_jobs: different jobs at once, all or nothing")
def _(db):
    value(db, "SELECT jobq.create_queue('mixed')")
    jobs = [{"kind": "send_email", "payload": {"to": "ada"}, "queue": "mixed", "unique_key": "ada", "priority": 1},
            {"kind": "report", "payload": [1, 2], "delay": "90 s", "timeout": "5 min", "headers": {"trace": "1"}},
            {"kind": "send_email", "queue": "mixed", "unique_key": "ada", "options": {"unique_while": "pending"}}]
    first, second, third = db.execute("SELECT * FROM jobq.enqueue_jobs(%s)", (Jsonb(jobs),)).fetchall()
    equal([first.created, second.created, third.created], [True, True, False])
    equal(third.id, first.id)
    equal((job(db, first.id).queue, job(db, second.id).queue, job(db, second.id).payload), ("mixed", "default", [1, 2]))
    with refused("42704"):
        db.execute("SELECT * FROM jobq.enqueue_jobs(%s)", (Jsonb([{"kind": "lone"}, {"kind": "b", "queue": "nowhere"}]),))
    equal(value(db, "SELECT count(*) FROM jobq.jobs WHERE kind = 'lone'"), 0)
    with refused("22023"):
        db.execute("SELECT * FROM jobq.enqueue_jobs(%s)", (Jsonb([{"kind": "a", "colour": "red"}]),))


@check("unique_key: the unfinished job's id, a running job counts unless unique_while says pending")
def _(db):
    first = enqueue(db, "sync", unique_key="account-7")
    equal(enqueue(db, "sync", unique_key="account-7"), first)
    claim(db)
    equal(enqueue(db, "sync", unique_key="account-7"), first)
    pending = Jsonb({"unique_while": "pending"})
    once = enqueue(db, "sync", unique_key="account-8", options=pending)
    claim(db)
    after = enqueue(db, "sync", unique_key="account-8", options=pending)
    true(after != once)
    equal(enqueue(db, "sync", unique_key="account-8", options=pending), after)


@check("enqueue is part of the caller's transaction")
def _(db):
    db.execute("CREATE TABLE invoices (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, total int, job_id uuid)")
    with db.transaction():
        [id] = db.execute("SELECT jobq.enqueue('send_invoice', %s)", (Jsonb({"total": 12}),)).fetchone()
        db.execute("INSERT INTO invoices (total, job_id) VALUES (12, %s)", (id,))
    equal(value(db, "SELECT state FROM jobq.jobs JOIN invoices ON job_id = jobs.id"), "pending")
    try:
        with db.transaction():
            lost = enqueue(db, "send_invoice")
            db.execute("INSERT INTO invoices (total, job_id) VALUES (13, %s)", (lost,))
            raise KeyError("the program changed its mind")
    except KeyError:
        pass
    equal(job(db, lost), None)
    equal([j.id for j in claim(db, batch=10)], [id])


# Workers


@check("claim, work, complete")
def _(db):
    id = enqueue(db, "add", payload=Jsonb({"a": 1, "b": 2}))
    broken = enqueue(db, "add", payload=Jsonb({"a": 1}))
    for held in db.execute("SELECT * FROM jobq.claim(batch => 10, worker => 'ada')").fetchall():
        try:
            result = Jsonb({"sum": held.payload["a"] + held.payload["b"]})
            db.execute("SELECT jobq.complete(%s, %s, %s)", (held.id, held.lease, result))
        except KeyError as error:
            db.execute("SELECT jobq.fail(%s, %s, %s)", (held.id, held.lease, repr(error)))
        equal((held.queue, held.kind, held.attempt), ("default", "add", 1))
    done = job(db, id)
    equal((done.state, done.result, done.worker, done.lease_expires_at), ("completed", {"sum": 3}, "ada", None))
    equal((job(db, broken).state, job(db, broken).last_error), ("pending", "KeyError('b')"))


@check("claim: every argument NULL, by position; nothing to do is no row")
def _(db):
    id = enqueue(db)
    rows = db.execute("SELECT * FROM jobq.claim(%s, %s, %s, %s, %s, %s)", [None] * 6).fetchall()
    equal([row.id for row in rows], [id])
    true(job(db, id).worker.startswith("pid-"))
    equal(db.execute("SELECT * FROM jobq.claim(%s, %s, %s, %s, %s, %s)", [None] * 6).fetchall(), [])


@check("claim: several queues in order, kinds, batch, priorities, lease_for, bind")
def _(db):
    for queue in ("high", "low"):
        value(db, "SELECT jobq.create_queue(%s)", queue)
    low, high = enqueue(db, "a", queue="low"), enqueue(db, "a", queue="high")
    urgent, other = enqueue(db, "a", queue="low", priority=1), enqueue(db, "b", queue="low")
    equal([j.id for j in claim(db, queue="high,low", batch=3, kinds=["a", "c"], bind="lease")], [high, urgent, low])
    equal([j.id for j in claim(db, queue="low", batch=10, lease_for=timedelta(minutes=1))], [other])
    true(about(job(db, other).lease_expires_at - job(db, other).claimed_at, 60), "the lease's length")
    for wrong in ({"batch": 0}, {"batch": 10001}, {"lease_for": "1 ms"}, {"bind": "forever"}, {"queue": ""}):
        with refused("22023"):
            claim(db, **wrong)
    with refused("42704"):
        claim(db, queue="nowhere")


@check("complete_and_claim: one call ends a job and brings the next one")
def _(db):
    first, second = enqueue(db, priority=1), enqueue(db)
    [held] = db.execute("SELECT * FROM jobq.complete_and_claim(%s::uuid[], %s::bigint[])", ([], [])).fetchall()
    equal(held.id, first)
    sql = "SELECT * FROM jobq.complete_and_claim(%s, %s, %s, worker => 'ada')"
    [following] = db.execute(sql, ([held.id], [held.lease], Jsonb([{"n": 7}]))).fetchall()
    equal((following.id, following.kind, following.payload, following.attempt), (second, "send_email", {}, 1))
    equal((job(db, first).state, job(db, first).result, job(db, second).worker), ("completed", {"n": 7}, "ada"))
    with refused("JQ002"):
        db.execute(sql, ([held.id], [held.lease], None))
    every = "SELECT * FROM jobq.complete_and_claim(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s)"
    equal(db.execute(every, ([following.id], [following.lease], *[None] * 8)).fetchall(), [])
    equal(job(db, second).state, "completed")


@check("claim_wait: an array of objects")
def _(db):
    id = enqueue(db, "add", payload=Jsonb({"a": 1, "b": 2}))
    [jobs] = db.execute("CALL jobq.claim_wait(wait => %s, worker => 'ada')", (timedelta(seconds=20),)).fetchone()
    for held in jobs:
        result = Jsonb({"sum": held["payload"]["a"] + held["payload"]["b"]})
        db.execute("SELECT jobq.complete(%s, %s, %s)", (held["id"], held["lease"], result))
    equal([(held["id"], held["attempt"], held["last_error"]) for held in jobs], [(str(id), 1, None)])
    true(type(held["lease"]) is int and 0 < held["lease"] < 2**53, held["lease"])
    equal((job(db, id).state, job(db, id).result, job(db, id).worker), ("completed", {"sum": 3}, "ada"))


@check("claim_wait: waits for a job that another connection enqueues; [] when the time is over; every argument by position")
def _(db):
    with psycopg.connect(URL, **OPTIONS) as another:
        sender = threading.Thread(target=enqueue, args=(another,))
        sender.start()
        every = "CALL jobq.claim_wait(%s, %s, %s, %s, %s, %s, %s, %s)"
        [held] = value(db, every, None, None, timedelta(hours=1), "ada", timedelta(minutes=1), ["send_email"], None, None)
        sender.join()
    equal((held["kind"], held["payload"]), ("send_email", {}))
    equal(value(db, "CALL jobq.claim_wait(wait => %s)", timedelta(milliseconds=1)), [])


@check("claim_wait inside a transaction: 25001; outside, an hour's wait is over at once when there is a job")
def _(db):
    id = enqueue(db)
    with refused("25001", hint="autocommit"), db.transaction():
        db.execute("CALL jobq.claim_wait()")
    [held] = value(db, "CALL jobq.claim_wait(wait => '1 hour')")
    equal((held["id"], held["attempt"]), (str(id), 1))


@check("a claim that is rolled back never was")
def _(db):
    id = enqueue(db)
    with db.transaction(force_rollback=True):
        equal([j.id for j in claim(db)], [id])
    [held] = claim(db)
    equal((held.id, held.attempt), (id, 1))


@check("the same call ten times over, as a prepared statement")
def _(db):
    ids = [enqueue(db, "add", payload=Jsonb({"n": n}), delay=None) for n in range(10)]
    for id in ids:
        [held] = claim(db, batch=1, worker="ada")
        equal(held.id, id)
        equal(value(db, "SELECT jobq.complete(%s, %s, %s)", held.id, held.lease, None), "completed")


@check("complete is part of the caller's transaction")
def _(db):
    held = claimed(db)
    with db.transaction(force_rollback=True):
        value(db, "SELECT jobq.complete(%s, %s)", held.id, held.lease)
    equal(job(db, held.id).state, "running")
    equal(value(db, "SELECT jobq.complete(%s, %s)", held.id, held.lease), "completed")


@check("heartbeat: whole and broken progress, note, lease_for; NULL by position")
def _(db):
    held = claimed(db)
    # On a second connection in real life: the first one is busy with the job's own work.
    equal(value(db, "SELECT jobq.heartbeat(%s, %s, progress => %s, note => %s)", held.id, held.lease, 50.5, "half"), True)
    equal((job(db, held.id).progress, job(db, held.id).note), (50.5, "half"))
    equal(value(db, "SELECT jobq.heartbeat(%s, %s, progress => %s)", held.id, held.lease, 60), True)
    equal(value(db, "SELECT jobq.heartbeat(%s, %s, progress => %s)", held.id, held.lease, Decimal("70.25")), True)
    equal(job(db, held.id).progress, 70.25)
    equal(value(db, "SELECT jobq.heartbeat(%s, %s, lease_for => %s)", held.id, held.lease, timedelta(hours=1)), True)
    true(job(db, held.id).lease_expires_at > held.lease_expires_at)
    equal(value(db, "SELECT jobq.heartbeat(%s, %s, %s, %s, %s)", held.id, held.lease, None, None, None), True)
    for wrong in (float("nan"), float("inf"), -1.0, 100.5):
        with refused("22023"):
            value(db, "SELECT jobq.heartbeat(%s, %s, progress => %s)", held.id, held.lease, wrong)


@check("heartbeat_many reports a lost lease and does not raise")
def _(db):
    a, b = claimed(db), claimed(db)
    rows = db.execute("SELECT * FROM jobq.heartbeat_many(%s, %s, lease_for => %s)",
                      ([a.id, b.id], [a.lease, b.lease + 1], timedelta(minutes=9))).fetchall()
    equal([tuple(row) for row in rows], [(a.id, True, False), (b.id, False, False)])
    rows = db.execute("SELECT * FROM jobq.heartbeat_many(%s, %s, %s)", ([b.id], [b.lease], None)).fetchall()
    equal([row.held for row in rows], [True])
    equal(db.execute("SELECT * FROM jobq.heartbeat_many(%s, %s)", ([], [])).fetchall(), [])


@check("complete_many: a result for each, arrays stay arrays, null is none")
def _(db):
    jobs = [claimed(db) for _ in range(4)]
    rows = db.execute("SELECT * FROM jobq.complete_many(%s, %s, %s)", (
        [j.id for j in jobs], [j.lease for j in jobs], Jsonb([[1, 2], [3, [4]], {"sum": 3}, None]))).fetchall()
    equal([(row.id, row.completed) for row in rows], [(j.id, True) for j in jobs])
    equal([job(db, j.id).result for j in jobs], [[1, 2], [3, [4]], {"sum": 3}, None])
    held = claimed(db)
    for results in (Jsonb([1, 2]), Jsonb({"not": "an array"})):
        with refused("22023"):
            db.execute("SELECT * FROM jobq.complete_many(%s, %s, %s)", ([held.id], [held.lease], results))
    with refused("22023"):
        db.execute("SELECT * FROM jobq.complete_many(%s, %s)", ([held.id, held.id], [held.lease, held.lease]))
    with refused("22023"):
        db.execute("SELECT * FROM jobq.complete_many(%s, %s)", ([held.id], [held.lease, held.lease]))
    rows = db.execute("SELECT * FROM jobq.complete_many(%s, %s, %s, %s)", ([held.id], [held.lease], None, None)).fetchall()
    equal([row.completed for row in rows], [True])


@check("complete_many: one stale lease refuses all, on_stale => 'skip' completes the rest")
def _(db):
    a, b = claimed(db), claimed(db)
    ids, leases = [a.id, b.id], [a.lease, b.lease - 1]
    with refused("JQ001"):
        db.execute("SELECT * FROM jobq.complete_many(%s, %s)", (ids, leases))
    equal(job(db, a.id).state, "running")
    rows = db.execute("SELECT * FROM jobq.complete_many(%s, %s, on_stale => 'skip')", (ids, leases)).fetchall()
    equal([tuple(row) for row in rows], [(a.id, True), (b.id, False)])
    equal((job(db, a.id).state, job(db, b.id).state), ("completed", "running"))


@check("fail: retried later, given up when told so, and after the last attempt")
def _(db):
    held = claimed(db)
    equal(value(db, "SELECT jobq.fail(%s, %s, %s, retry_in => %s)", held.id, held.lease, "no route", timedelta(0)), "pending")
    [held] = claim(db)
    equal((held.attempt, held.last_error), (2, "no route"))
    equal(value(db, "SELECT jobq.fail(%s, %s, %s, retry => false)", held.id, held.lease, "bad address"), "failed")
    failed = job(db, held.id)
    equal((failed.state, failed.last_error, len(failed.attempt_errors)), ("failed", "bad address", 2))
    once = claimed(db, max_attempts=1)
    equal(value(db, "SELECT jobq.fail(%s, %s, %s, %s, %s)", once.id, once.lease, None, None, None), "failed")


@check("fail: without retry_in the queue's backoff decides")
def _(db):
    backoff = Jsonb({"kind": "list", "delays": ["30s", "1h"]})
    equal(value(db, "SELECT jobq.create_queue('slow', backoff => %s)", backoff), True)
    enqueue(db, queue="slow")
    [held] = claim(db, queue="slow")
    before = datetime.now(timezone.utc)
    equal(value(db, "SELECT jobq.fail(%s, %s, 'busy')", held.id, held.lease), "pending")
    after = datetime.now(timezone.utc)
    true(before <= job(db, held.id).run_at - timedelta(seconds=30) <= after, job(db, held.id).run_at)
    with refused("22023"):
        value(db, "SELECT jobq.alter_queue('slow', backoff => %s)", Jsonb({"kind": "linear", "bass": "10s"}))


@check("release gives the attempt back, now or later")
def _(db):
    held = claimed(db)
    equal(value(db, "SELECT jobq.release(%s, %s)", held.id, held.lease), "pending")
    [held] = claim(db)
    equal(held.attempt, 1)
    before = datetime.now(timezone.utc)
    equal(value(db, "SELECT jobq.release(%s, %s, delay => %s)", held.id, held.lease, timedelta(minutes=5)), "pending")
    equal(claim(db), [])
    true(job(db, held.id).run_at >= before + timedelta(minutes=5), job(db, held.id).run_at)


@check("cancel: a worker learns it at its heartbeat; fail and release then end the job, complete completes it")
def _(db):
    waiting = enqueue(db)
    equal(value(db, "SELECT jobq.cancel(%s)", waiting), "cancelled")
    equal(value(db, "SELECT jobq.cancel(%s)", waiting), "cancelled")
    ends = {"fail": "cancelled", "release": "cancelled", "complete": "completed"}
    for verb, end in ends.items():
        held = claimed(db)
        equal(value(db, "SELECT jobq.cancel(%s)", held.id), "running")
        equal(job(db, held.id).cancel_requested, True)
        equal(value(db, "SELECT jobq.heartbeat(%s, %s)", held.id, held.lease), False)
        [row] = db.execute("SELECT * FROM jobq.heartbeat_many(%s, %s)", ([held.id], [held.lease])).fetchall()
        equal(tuple(row), (held.id, True, True))
        equal(value(db, f"SELECT jobq.{verb}(%s, %s)", held.id, held.lease), end)
        equal((job(db, held.id).state, job(db, held.id).cancel_requested), (end, False))


# Leases and errors


def rescued_and_taken_over(db):
    """A job whose first worker died, and its second worker's claim."""
    enqueue(db)
    [first] = claim(db, worker="first", lease_for=timedelta(seconds=1))
    # The background worker does the same by itself.
    eventually(lambda: value(db, "SELECT jobq.rescue_zombies()") >= 0 and job(db, first.id).state == "pending")
    [second] = claim(db, worker="second")
    equal((second.id, second.attempt, second.crashes), (first.id, 2, 1))
    true(second.lease > first.lease and "first" in second.last_error, second.last_error)
    return first, second


@check("a zombie that shares the connection cannot finish another's attempt: JQ001, not an OperationalError")
def _(db):
    first, second = rescued_and_taken_over(db)
    calls = {"complete": "SELECT jobq.complete(%s, %s)", "fail": "SELECT jobq.fail(%s, %s)",
             "release": "SELECT jobq.release(%s, %s)", "heartbeat": "SELECT jobq.heartbeat(%s, %s)"}
    for call in calls.values():
        try:
            value(db, call, first.id, first.lease)
            raise AssertionError(f"not refused: {call}")
        except psycopg.Error as error:
            equal(error.sqlstate, "JQ001")
            # Programs repeat what raised an OperationalError.
            true(not isinstance(error, psycopg.OperationalError), type(error))
            true("second" in error.diag.message_detail, error.diag.message_detail)
            true(str(second.lease) not in f"{error}{error.diag.message_detail}{error.diag.message_hint}", "the lease is secret")
    equal(job(db, second.id).state, "running")
    equal(value(db, "SELECT jobq.complete(%s, %s)", second.id, second.lease), "completed")


@check("a lost lease takes the worker's own writes with it, and the connection stays usable")
def _(db):
    first, second = rescued_and_taken_over(db)
    db.execute("CREATE TABLE effects (job uuid)")
    with refused("JQ001"), db.transaction():
        db.execute("INSERT INTO effects VALUES (%s)", (first.id,))
        value(db, "SELECT jobq.complete(%s, %s)", first.id, first.lease)
    equal(value(db, "SELECT count(*) FROM effects"), 0)


@check("a repeated complete is JQ002, from whichever finishing call")
def _(db):
    held = claimed(db)
    value(db, "SELECT jobq.complete(%s, %s)", held.id, held.lease)
    for call in ("complete", "fail", "release", "heartbeat"):
        with refused("JQ002"):
            value(db, f"SELECT jobq.{call}(%s, %s)", held.id, held.lease)
    with refused("JQ002"):
        db.execute("SELECT * FROM jobq.complete_many(%s, %s)", ([held.id], [held.lease]))


@check("JQ003: no such job; JQ004: not from this state; 22004: a required argument is NULL")
def _(db):
    for call in ("cancel", "reschedule", "retry"):
        with refused("JQ003"):
            value(db, f"SELECT jobq.{call}(%s)", uuid4())
    with refused("JQ003"):
        value(db, "SELECT jobq.complete(%s, %s)", uuid4(), 1)
    held = claimed(db)
    for call in ("delete", "reschedule", "retry"):
        with refused("JQ004"):
            value(db, f"SELECT jobq.{call}(%s)", held.id)
    with refused("22004"):
        value(db, "SELECT jobq.complete(%s, %s)", held.id, None)
    equal(db.execute("SELECT * FROM jobq.job(%s)", (uuid4(),)).fetchall(), [])


@check("a lease survives JSON")
def _(db):
    enqueue(db)
    text = value(db, "SELECT row_to_json(c)::text FROM jobq.claim() AS c")
    held = json.loads(json.dumps(json.loads(text)))
    true(0 < held["lease"] < 2**53, held["lease"])
    equal(int(float(held["lease"])), held["lease"])
    equal(value(db, "SELECT jobq.complete(%s, %s)", held["id"], held["lease"]), "completed")


@check("four workers on a pool, each call on whichever connection is free: no job twice, none lost")
def _(db):
    value(db, "SELECT jobq.create_queue('pool')")
    payloads = [{"n": n} for n in range(100)]
    db.execute("SELECT * FROM jobq.enqueue_many('add', %s, queue => 'pool')", (Jsonb(payloads),))
    done = []

    def work(pool, name):
        while True:
            with pool.connection() as one:
                rows = claim(one, queue="pool", worker=name)
            if not rows:
                return
            with pool.connection() as another:
                equal(value(another, "SELECT jobq.complete(%s, %s)", rows[0].id, rows[0].lease), "completed")
            done.append(rows[0].payload["n"])

    with ConnectionPool(URL, kwargs=OPTIONS, min_size=4, max_size=4) as pool:
        workers = [threading.Thread(target=work, args=(pool, f"worker-{n}")) for n in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
    equal(sorted(done), list(range(100)))


@check("rescue_zombies: a lease that has ended, and older_than for one that has not")
def _(db):
    held = claimed(db)
    equal(value(db, "SELECT jobq.rescue_zombies(%s, %s)", None, None) >= 0, True)
    equal(job(db, held.id).state, "running")
    eventually(lambda: value(db, "SELECT jobq.rescue_zombies(older_than => %s, batch => 100)", timedelta(milliseconds=1)) >= 0
               and job(db, held.id).state == "pending")
    equal((job(db, held.id).attempt, job(db, held.id).crashes), (1, 1))


# Operators


@check("reschedule: later, another priority, and now")
def _(db):
    id = enqueue(db)
    at = datetime.now(timezone.utc) + timedelta(hours=1)
    equal(value(db, "SELECT jobq.reschedule(%s, %s, priority => 1, max_attempts => 7)", id, at), "pending")
    equal((job(db, id).run_at, job(db, id).priority, job(db, id).max_attempts), (at, 1, 7))
    equal(claim(db), [])
    equal(value(db, "SELECT jobq.reschedule(%s, %s, %s, %s)", id, None, None, None), "pending")
    equal([(j.id, j.priority) for j in claim(db)], [(id, 1)])


@check("retry and retry_failed: attempts start over, the errors stay")
def _(db):
    value(db, "SELECT jobq.create_queue('flaky', max_attempts => 1)")
    for kind in ("a", "a", "b"):
        enqueue(db, kind, queue="flaky")
    for held in claim(db, queue="flaky", batch=3):
        equal(value(db, "SELECT jobq.fail(%s, %s, 'down')", held.id, held.lease), "failed")
    equal(value(db, "SELECT jobq.retry(%s)", held.id), "pending")
    again = job(db, held.id)
    equal((again.state, again.attempt, again.finished_at, len(again.attempt_errors)), ("pending", 0, None, 1))
    equal(value(db, "SELECT jobq.retry_failed(queue => 'flaky', kind => 'a', batch => 1)"), 1)
    equal(value(db, "SELECT jobq.retry_failed(%s, %s, %s)", "flaky", None, None), 1)
    cancelled = enqueue(db)
    value(db, "SELECT jobq.cancel(%s)", cancelled)
    equal(value(db, "SELECT jobq.retry(%s)", cancelled), "pending")


@check("delete one job, purge finished ones")
def _(db):
    value(db, "SELECT jobq.create_queue('bin', max_attempts => 1)")
    id = enqueue(db, queue="bin")
    equal(value(db, "SELECT jobq.delete(%s)", id), True)
    equal(value(db, "SELECT jobq.delete(%s)", id), False)
    for verb in ("complete", "fail"):
        enqueue(db, queue="bin")
        [held] = claim(db, queue="bin")
        value(db, f"SELECT jobq.{verb}(%s, %s)", held.id, held.lease)
    equal(value(db, "SELECT jobq.purge('bin', 'failed', %s)", timedelta(days=1)), 0)
    equal(value(db, "SELECT jobq.purge('bin', 'failed', %s, batch => 100)", timedelta(0)), 1)
    equal(value(db, "SELECT jobq.purge(%s, %s, %s, %s)", "bin", "completed", timedelta(0), None), 1)
    for wrong in ("pending", "running", "dead"):
        with refused("22023"):
            value(db, "SELECT jobq.purge('bin', %s, %s)", wrong, timedelta(0))
    with refused("22004"):
        value(db, "SELECT jobq.purge('bin', 'failed', %s)", None)


@check("queues: create, alter, pause, resume, drop")
def _(db):
    equal(value(db, """SELECT jobq.create_queue('press', default_priority => 1, max_attempts => 5, lease_for => %s, timeout => %s,
                backoff => %s, max_crashes => 2, retention => %s, keep_completed => false, max_depth => 3)""", timedelta(minutes=1),
                timedelta(minutes=2), Jsonb({"kind": "linear", "base": "10s"}), timedelta(days=1)), True)
    with db.cursor(row_factory=dict_row) as rows:
        queue = rows.execute("SELECT * FROM jobq.queues WHERE name = 'press'").fetchone()
    wanted = {"paused": False, "default_priority": 1, "max_attempts": 5, "lease_seconds": 60.0, "timeout_seconds": 120.0,
              "max_crashes": 2, "retention_seconds": 86400.0, "keep_completed": False, "max_depth": 3, "pending": 0}
    equal({name: queue[name] for name in wanted}, wanted)
    equal(value(db, "SELECT jobq.alter_queue('press', max_attempts => 6)"), True)
    equal(value(db, "SELECT jobq.alter_queue('press', max_attempts => 6)"), False)
    equal(value(db, "SELECT jobq.alter_queue(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)", "press", *[None] * 10), False)
    with refused("42710"):
        value(db, "SELECT jobq.create_queue(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)", "press", *[None] * 10)
    db.execute("SELECT * FROM jobq.enqueue_many('print', %s, queue => 'press')", (Jsonb([{}, {}, {}]),))
    with refused("53400"):
        enqueue(db, queue="press")
    equal([value(db, "SELECT jobq.pause('press')"), value(db, "SELECT jobq.pause('press')")], [True, False])
    equal(claim(db, queue="press"), [])
    equal([value(db, "SELECT jobq.resume('press')"), value(db, "SELECT jobq.resume('press')")], [True, False])
    equal(len(claim(db, queue="press")), 1)
    with refused("2BP01", hint="force"):
        value(db, "SELECT jobq.drop_queue('press')")
    equal(value(db, "SELECT jobq.drop_queue('press', force => true)"), 3)
    value(db, "SELECT jobq.create_queue('idle')")
    equal(value(db, "SELECT jobq.drop_queue(%s, %s)", "idle", None), 0)
    for call in ("SELECT jobq.enqueue('print', queue => 'press')", "SELECT jobq.pause('press')", "SELECT jobq.alter_queue('press')"):
        with refused("42704"):
            value(db, call)
    with refused("22023"):
        value(db, "SELECT jobq.create_queue('a,b')")


@check("grant_access: a producer enqueues and does not claim")
def _(db):
    role = os.environ["CLIENT_ROLE"]
    equal(value(db, "SELECT jobq.grant_access(%s, %s)", role, "producer"), True)
    equal(value(db, "SELECT jobq.grant_access(role => %s, access => %s)", role, "producer"), False)
    with db.transaction():
        db.execute(f"SET LOCAL ROLE {role}")
        equal(type(enqueue(db)), UUID)
    with refused("42501"), db.transaction():
        db.execute(f"SET LOCAL ROLE {role}")
        claim(db)
    equal(value(db, "SELECT jobq.revoke_access(%s, %s)", role, "producer"), True)
    with refused("42501"), db.transaction():
        db.execute(f"SET LOCAL ROLE {role}")
        enqueue(db)
    with refused("22023"):
        value(db, "SELECT jobq.grant_access(%s, 'owner')", role)
    with refused("42704"):
        value(db, "SELECT jobq.grant_access('nobody_of_this_name', 'producer')")


@check("duties by hand: tick, resume_after_restore")
def _(db):
    true(value(db, "SELECT jobq.tick()") >= 0)
    equal(value(db, "SELECT jobq.resume_after_restore()"), False)


# Looking


@check("where state = %s, and the state arrives as str")
def _(db):
    held = claimed(db)
    rows = db.execute("SELECT id, state FROM jobq.jobs WHERE state = %s AND id = %s", ("running", held.id)).fetchall()
    equal([tuple(row) for row in rows], [(held.id, "running")])


@check("stats, diagnose, version")
def _(db):
    value(db, "SELECT jobq.create_queue('counted', max_attempts => 1)")
    for verb in ("complete", "fail"):
        enqueue(db, queue="counted")
        [held] = claim(db, queue="counted")
        value(db, f"SELECT jobq.{verb}(%s, %s)", held.id, held.lease)
    for delay in (0, 0, 600):
        enqueue(db, queue="counted", delay=timedelta(seconds=delay))
    claim(db, queue="counted", worker="ada")
    [s] = db.execute("SELECT * FROM jobq.stats(%s)", ("counted",)).fetchall()
    equal((s.queue, s.pending, s.scheduled, s.running, s.failed, s.completed_today, s.failed_today, s.workers),
          ("counted", 1, 1, 1, 1, 1, 1, 1))
    true(0 <= s.oldest_pending_seconds < 600, s.oldest_pending_seconds)
    true({"default", "counted"} <= {row.queue for row in db.execute("SELECT * FROM jobq.stats(%s)", (None,)).fetchall()})
    with refused("42704"):
        db.execute("SELECT * FROM jobq.stats('nowhere')")
    checks = db.execute("SELECT * FROM jobq.diagnose()").fetchall()
    true(len(checks) > 5 and {row.status for row in checks} <= {"ok", "warn", "error"}, checks)
    equal([row for row in checks if row.status == "error"], [])
    true(any(character.isdigit() for character in value(db, "SELECT jobq.version()")))
    true("no such job" in value(db, "SELECT jobq.why('00000000-0000-0000-0000-000000000000')"))


@check("the catalog has the contract's functions and rows, and nothing returns void, interval or an enum")
def _(db):
    functions = db.execute("""
        SELECT p.proname AS name, t.typname AS type, count(*) OVER (PARTITION BY p.proname) AS overloads
        FROM pg_proc p JOIN pg_type t ON t.oid = p.prorettype
        WHERE p.pronamespace = 'jobq'::regnamespace AND p.proname NOT LIKE '\\_%' ORDER BY 1""").fetchall()
    names = {"int4": "integer", "int8": "bigint", "bool": "boolean"}
    equal({f.name: names.get(f.type, f.type) for f in functions}, dict(sorted(CONTRACT["functions"].items())))
    equal([f.name for f in functions if f.overloads > 1], [])
    rows: dict[str, dict[str, str]] = {}
    for row in db.execute("""
            SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod) AS type
            FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
            WHERE c.relnamespace = 'jobq'::regnamespace AND c.relkind IN ('v', 'c') AND c.relname NOT LIKE '\\_%'
              AND a.attnum > 0 AND NOT a.attisdropped ORDER BY c.relname, a.attnum""").fetchall():
        rows.setdefault(row.relname, {})[row.attname] = row.type
    for name, columns in CONTRACT["rows"].items():
        equal(list(rows[name].items()), list(columns.items()))
    equal(sorted(set(rows) - set(CONTRACT["rows"]) - set(CONTRACT["views"]) - set(CONTRACT["operated_rows"])), [])
    plain = {t for columns in CONTRACT["rows"].values() for t in columns.values()}
    equal({f"{name}.{c}": t for name, columns in rows.items() for c, t in columns.items() if t not in plain}, {})


@check("every column of every row arrives as a Python type of its own")
def _(db):
    judge = read_as({
        "uuid": (UUID,), "text": (str,), "boolean": (bool,), "integer": (int,), "bigint": (int,), "double precision": (float,),
        "timestamp with time zone": (datetime,), "jsonb": (dict, list)})

    def read(row_type, sql, *parameters):
        with db.cursor(row_factory=dict_row) as cursor:
            rows = cursor.execute(sql, parameters).fetchall()
        for row in rows:
            judge(row_type, row)
        return rows

    value(db, "SELECT jobq.create_queue('all', timeout => '1 h', max_depth => 50)")
    one = {"kind": "all", "queue": "all", "payload": {"n": 1}, "headers": {"h": 1}, "unique_key": "k", "max_attempts": 2}
    read("enqueued_job", "SELECT * FROM jobq.enqueue_jobs(%s)", Jsonb([one]))
    read("enqueued_job", "SELECT * FROM jobq.enqueue_many('all', %s, queue => 'all')", Jsonb([[1], [2]]))
    [held] = read("claimed_job", "SELECT * FROM jobq.claim('all', worker => 'ada')")
    value(db, "SELECT jobq.fail(%s, %s, 'once', '0 s')", held["id"], held["lease"])
    value(db, "SELECT jobq.reschedule(%s, priority => 1)", held["id"])
    [held] = read("claimed_job", "SELECT * FROM jobq.claim('all', worker => 'ada')")
    value(db, "SELECT jobq.heartbeat(%s, %s, progress => 12.5, note => 'on it')", held["id"], held["lease"])
    read("held_job", "SELECT * FROM jobq.heartbeat_many(%s, %s)", [held["id"]], [held["lease"]])
    read("jobs", "SELECT * FROM jobq.job(%s)", held["id"])
    read("queue_stats", "SELECT * FROM jobq.stats()")
    for view in CONTRACT["views"]:
        true(bool(read(view, f"SELECT * FROM jobq.{view}")) or view == "failed_jobs", f"{view} is empty")
    read("finished_job", "SELECT * FROM jobq.complete_many(%s, %s, %s)", [held["id"]], [held["lease"]], Jsonb([[1]]))
    read("jobs", "SELECT * FROM jobq.job(%s)", held["id"])
    [held] = read("claimed_job", "SELECT * FROM jobq.claim('all', worker => 'ada')")
    value(db, "SELECT jobq.fail(%s, %s, 'no', retry => false)", held["id"], held["lease"])
    true(bool(read("failed_jobs", "SELECT * FROM jobq.failed_jobs")))
    read("check_result", "SELECT * FROM jobq.diagnose()")
    all_seen("check_result.hint")


def on_a_connection(work):
    with psycopg.connect(URL, **OPTIONS) as db:
        work(db)


if __name__ == "__main__":
    run(on_a_connection)
