"""jobq from SQLAlchemy 2 (psycopg): its ORM session and the queue share one transaction."""

from __future__ import annotations

import json
import os
import threading
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from uuid import UUID, uuid4

from sqlalchemy import ARRAY, BigInteger, Text, Uuid, bindparam, cast, create_engine, func, literal, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import DBAPIError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from checks import CONTRACT, all_seen, check, equal, eventually, read_as, run, true

engine = create_engine(os.environ["DATABASE_URL"].replace("postgresql://", "postgresql+psycopg://"))


class Base(DeclarativeBase):
    pass


class Invoice(Base):
    __tablename__ = "invoices"
    id: Mapped[int] = mapped_column(primary_key=True)
    total: Mapped[int]
    job_id: Mapped[UUID | None]


class Job(Base):
    """The view, mapped: read-only."""

    __tablename__ = "jobs"
    __table_args__ = {"schema": "jobq", "info": {"view": True}}
    id: Mapped[UUID] = mapped_column(primary_key=True)
    queue: Mapped[str]
    kind: Mapped[str]
    state: Mapped[str]
    priority: Mapped[int]
    payload: Mapped[dict | list] = mapped_column(JSONB)
    result: Mapped[dict | list | None] = mapped_column(JSONB)
    attempt: Mapped[int]
    progress: Mapped[float | None]
    attempt_errors: Mapped[list | None] = mapped_column(JSONB)


def call(session, name, *arguments):
    """A function by position: func cannot write =>, so NULL stands for what is left out."""
    return session.scalar(select(getattr(func.jobq, name)(*arguments)))


def claimed(session, queue=None):
    """A job of its own, and held."""
    call(session, "enqueue", "send_email", literal({}, JSONB), queue)
    session.commit()
    return session.execute(text("SELECT * FROM jobq.claim(:queue, worker => 'ada')"), {"queue": queue}).one()


@contextmanager
def refused(session, sqlstate):
    try:
        with session.begin_nested():
            yield
    except DBAPIError as error:
        equal(error.orig.sqlstate, sqlstate)
    else:
        raise AssertionError(f"not refused with {sqlstate}")


# Producers


@check("func.jobq.enqueue: by position, NULL for what is left out")
def _(session):
    id = session.scalar(select(func.jobq.enqueue("send_email", literal({"to": "ada@example.org"}, JSONB), None, 1)))
    true(isinstance(id, UUID))
    made = session.get(Job, id)
    equal((made.queue, made.priority, made.payload), ("default", 1, {"to": "ada@example.org"}))
    id = call(session, "enqueue", "report", literal([1, [2]], JSONB), *[None] * 9)
    equal((session.get(Job, id).payload, session.get(Job, id).priority), ([1, [2]], 2))


@check("text: named arguments, CAST(:p AS jsonb) instead of :p::jsonb")
def _(session):
    sql = text("SELECT jobq.enqueue('send_email', CAST(:payload AS jsonb), delay => :delay, unique_key => :key)")
    values = {"payload": json.dumps({"a": 1}), "delay": timedelta(seconds=90), "key": "ada"}
    first = session.scalar(sql, values)
    equal(session.scalar(sql, values), first)
    equal(session.scalar(text("SELECT run_at > enqueued_at + interval '80 s' FROM jobq.job(:id)"), {"id": first}), True)


@check("a payload encoded twice is refused")
def _(session):
    with refused(session, "22023"):
        call(session, "enqueue", "report", literal(json.dumps({"a": 1}), JSONB))


@check("enqueue_many: arrays as payloads stay whole; enqueue_jobs: different jobs at once")
def _(session):
    many = func.jobq.enqueue_many("resize", literal([[1, 2], [3, 4]], JSONB)).table_valued("id", "created")
    rows = session.execute(select(many)).all()
    equal([session.get(Job, row.id).payload for row in rows], [[1, 2], [3, 4]])
    jobs = literal([{"kind": "sync", "unique_key": "k"}, {"kind": "report"}, {"kind": "sync", "unique_key": "k"}], JSONB)
    rows = session.execute(select(func.jobq.enqueue_jobs(jobs).table_valued("id", "created"))).all()
    equal([row.created for row in rows], [True, True, False])


@check("enqueue and ORM objects in one session: rolled back together, committed together")
def _(session):
    Base.metadata.create_all(engine, tables=[Invoice.__table__])
    session.add(Invoice(total=13))
    lost = call(session, "enqueue", "send_invoice", literal({"total": 13}, JSONB))
    session.rollback()
    equal((session.get(Job, lost), session.scalars(select(Invoice)).all()), (None, []))

    invoice = Invoice(total=12)
    session.add(invoice)
    session.flush()
    invoice.job_id = session.scalar(select(func.jobq.enqueue("send_invoice", literal({"invoice": invoice.id}, JSONB))))
    session.commit()
    with Session(engine) as another:
        sent = another.scalars(select(Job).join(Invoice, Invoice.job_id == Job.id)).one()
        equal((sent.state, sent.payload), ("pending", {"invoice": invoice.id}))


# Workers


@check("claim as a table-valued function, complete in the transaction of the job's own writes")
def _(session):
    call(session, "enqueue", "add", literal({"a": 1, "b": 2}, JSONB))
    session.commit()
    claim = func.jobq.claim(None, 1, "ada").table_valued("id", "lease", "kind", "payload")
    held = session.execute(select(claim)).one()
    session.commit()
    result = literal({"sum": held.payload["a"] + held.payload["b"]}, JSONB)
    session.execute(select(func.jobq.complete(held.id, held.lease, result)))
    session.commit()
    equal((session.get(Job, held.id).state, session.get(Job, held.id).result), ("completed", {"sum": 3}))


@check("claim: every argument NULL, by position; several queues and kinds; a claim that is rolled back never was")
def _(session):
    id = call(session, "enqueue", "a")
    session.commit()
    every = select(func.jobq.claim(*[None] * 6).table_valued("id", "attempt"))
    equal(tuple(session.execute(every).one()), (id, 1))
    session.rollback()
    equal(tuple(session.execute(every).one()), (id, 1))
    call(session, "create_queue", "high")
    low, high = call(session, "enqueue", "a"), call(session, "enqueue", "b", literal({}, JSONB), "high")
    session.commit()
    several = func.jobq.claim("high,default", 2, None, None, cast(["a", "b"], ARRAY(Text)), "lease")
    equal(session.scalars(select(several.table_valued("id").c.id)).all(), [high, low])


@check("heartbeat: whole and broken progress; heartbeat_many")
def _(session):
    held = claimed(session)
    for progress in (50.5, 60, None):
        equal(call(session, "heartbeat", held.id, held.lease, None, progress, None), True)
    sql = text("SELECT jobq.heartbeat(:id, :lease, lease_for => :more, progress => :progress, note => :note)")
    equal(session.scalar(sql, {"id": held.id, "lease": held.lease, "more": timedelta(minutes=9), "progress": 70.25, "note": "on"}), True)
    equal(session.get(Job, held.id).progress, 70.25)
    many = func.jobq.heartbeat_many(bindparam("ids", [held.id, uuid4()], ARRAY(Uuid)), bindparam("leases", [held.lease, 1], ARRAY(BigInteger)))
    rows = session.execute(select(many.table_valued("held", "cancel_requested"))).all()
    equal([tuple(row) for row in rows], [(True, False), (False, False)])


@check("complete_many: a result for each, arrays stay arrays, null is none; on_stale")
def _(session):
    jobs = [claimed(session) for _ in range(3)]
    sql = text("SELECT * FROM jobq.complete_many(:ids, :leases, CAST(:results AS jsonb), :on_stale)")
    values = {"ids": [j.id for j in jobs], "leases": [jobs[0].lease, jobs[1].lease, jobs[2].lease - 1],
              "results": json.dumps([[1, 2], None, [3]]), "on_stale": None}
    with refused(session, "JQ001"):
        session.execute(sql, values)
    rows = session.execute(sql, {**values, "on_stale": "skip"}).all()
    equal([row.completed for row in rows], [True, True, False])
    equal([session.get(Job, j.id).result for j in jobs], [[1, 2], None, None])


@check("complete_and_claim: one call ends a job and brings the next one")
def _(session):
    first, second = call(session, "enqueue", "a"), call(session, "enqueue", "b", literal([2], JSONB))
    session.commit()
    sql = text("SELECT * FROM jobq.complete_and_claim(CAST(:ids AS uuid[]), CAST(:leases AS bigint[]), CAST(:results AS jsonb))")
    held = session.execute(sql, {"ids": [], "leases": [], "results": None}).one()
    equal(held.id, first)
    session.commit()
    following = session.execute(sql, {"ids": [held.id], "leases": [held.lease], "results": json.dumps([{"n": 7}])}).one()
    equal((following.id, following.kind, following.payload, following.attempt), (second, "b", [2], 1))
    equal((session.get(Job, first).state, session.get(Job, first).result), ("completed", {"n": 7}))
    with refused(session, "JQ002"):
        session.execute(sql, {"ids": [held.id], "leases": [held.lease], "results": None})
    ids, leases = bindparam("ids", [following.id], ARRAY(Uuid)), bindparam("leases", [following.lease], ARRAY(BigInteger))
    every = func.jobq.complete_and_claim(ids, leases, *[None] * 8)
    equal(session.execute(select(every.table_valued("id"))).all(), [])
    equal(session.get(Job, second).state, "completed")


@check("claim_wait on an AUTOCOMMIT connection: an array of objects")
def _(session):
    id = call(session, "enqueue", "add", literal({"a": 1, "b": 2}, JSONB))
    session.commit()
    wait = text("CALL jobq.claim_wait(wait => :wait, worker => :worker)")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
        for held in db.scalar(wait, {"wait": timedelta(seconds=20), "worker": "ada"}):
            result = literal({"sum": held["payload"]["a"] + held["payload"]["b"]}, JSONB)
            db.execute(select(func.jobq.complete(UUID(held["id"]), held["lease"], result)))
    equal((held["id"], held["attempt"], held["last_error"]), (str(id), 1, None))
    true(type(held["lease"]) is int and 0 < held["lease"] < 2**53, held["lease"])
    equal((session.get(Job, id).state, session.get(Job, id).result), ("completed", {"sum": 3}))


@check("claim_wait: waits for a job that another connection enqueues; [] when the time is over; every argument by position")
def _(session):
    def send():
        with engine.begin() as another:
            another.execute(select(func.jobq.enqueue("send_email")))

    sender = threading.Thread(target=send)
    sender.start()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
        every = text("CALL jobq.claim_wait(:queue, :batch, :wait, :worker, :lease_for, :kinds, :bind, NULL)")
        values = {"queue": None, "batch": None, "worker": "ada", "lease_for": timedelta(minutes=1), "kinds": ["send_email"], "bind": None}
        [held] = db.scalar(every, {**values, "wait": timedelta(hours=1)})
        sender.join()
        equal((held["kind"], held["payload"]), ("send_email", {}))
        equal(db.scalar(every, {**values, "wait": timedelta(milliseconds=1)}), [])


@check("claim_wait in a session's transaction: 25001; outside, an hour's wait is over at once when there is a job")
def _(session):
    id = call(session, "enqueue", "a")
    session.commit()
    with refused(session, "25001"):
        session.execute(text("CALL jobq.claim_wait()"))
    session.rollback()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
        [held] = db.scalar(text("CALL jobq.claim_wait(wait => '1 hour')"))
    equal((held["id"], held["attempt"]), (str(id), 1))


@check("fail, release, cancel")
def _(session):
    held = claimed(session)
    equal(call(session, "fail", held.id, held.lease, "no route", timedelta(0)), "pending")
    session.commit()
    held = session.execute(text("SELECT * FROM jobq.claim()")).one()
    equal((held.attempt, held.last_error), (2, "no route"))
    equal(call(session, "release", held.id, held.lease, None), "pending")
    session.commit()
    held = session.execute(text("SELECT * FROM jobq.claim()")).one()
    equal(call(session, "fail", held.id, held.lease, None, None, False), "failed")
    held = claimed(session)
    equal(call(session, "cancel", held.id), "running")
    equal(call(session, "heartbeat", held.id, held.lease), False)
    equal(call(session, "fail", held.id, held.lease), "cancelled")


@check("a lost lease is JQ001 and no OperationalError; a repeated complete is JQ002; nothing invalidates the connection")
def _(session):
    held = claimed(session)
    session.commit()

    def rescued():
        call(session, "rescue_zombies", timedelta(milliseconds=1))
        session.commit()
        return session.get(Job, held.id, populate_existing=True).state == "pending"

    eventually(rescued)
    again = session.execute(text("SELECT * FROM jobq.claim(worker => 'bob')")).one()
    session.commit()
    try:
        call(session, "complete", held.id, held.lease)
        raise AssertionError("not refused")
    except DBAPIError as error:
        equal((error.orig.sqlstate, error.connection_invalidated), ("JQ001", False))
        true(not isinstance(error, OperationalError), type(error))
        true("bob" in error.orig.diag.message_detail, error.orig.diag.message_detail)
        true(str(again.lease) not in str(error.orig), "the lease is secret")
    session.rollback()
    equal(call(session, "complete", again.id, again.lease), "completed")
    session.commit()
    for name in ("complete", "fail", "release", "heartbeat"):
        with refused(session, "JQ002"):
            call(session, name, again.id, again.lease)
    with refused(session, "JQ003"):
        call(session, "cancel", uuid4())
    with refused(session, "JQ004"):
        call(session, "retry", again.id)


@check("a lease survives JSON")
def _(session):
    call(session, "enqueue", "a")
    session.commit()
    row = session.scalar(text("SELECT to_jsonb(c) FROM jobq.claim() AS c"))
    held = json.loads(json.dumps(row), parse_int=float)
    equal(call(session, "complete", UUID(held["id"]), int(held["lease"])), "completed")


# Operators


@check("reschedule, retry, retry_failed, delete, purge")
def _(session):
    id = call(session, "enqueue", "a")
    at = datetime.now(timezone.utc) + timedelta(hours=1)
    equal(call(session, "reschedule", id, at, 1, None), "pending")
    equal(call(session, "cancel", id), "cancelled")
    equal(call(session, "retry", id), "pending")
    equal([call(session, "delete", id), call(session, "delete", id)], [True, False])
    call(session, "create_queue", "bin", None, 1)
    for retried in (1, 0):
        held = claimed(session, queue="bin")
        equal(call(session, "fail", held.id, held.lease, "down"), "failed")
        if retried:
            equal(call(session, "retry_failed", "bin", None, None), 1)
            call(session, "cancel", held.id)
    session.commit()
    equal(call(session, "purge", "bin", "failed", timedelta(0), None), 1)
    with refused(session, "22004"):
        call(session, "purge", "bin", "failed", None)


@check("queues: create, alter, pause, resume, drop")
def _(session):
    backoff = literal({"kind": "constant", "base": "10s"}, JSONB)
    equal(call(session, "create_queue", "press", None, 5, timedelta(minutes=1), None, backoff), True)
    row = session.execute(text("SELECT * FROM jobq.queues WHERE name = :name"), {"name": "press"}).one()
    equal((row.lease_seconds, row.max_attempts, row.backoff["kind"]), (60.0, 5, "constant"))
    equal([call(session, "alter_queue", "press", 1), call(session, "alter_queue", "press", 1)], [True, False])
    equal([call(session, "pause", "press"), call(session, "resume", "press")], [True, True])
    call(session, "enqueue", "a", literal({}, JSONB), "press")
    with refused(session, "2BP01"):
        call(session, "drop_queue", "press", None)
    equal(call(session, "drop_queue", "press", True), 1)
    with refused(session, "42704"):
        call(session, "pause", "press")


@check("grant_access, revoke_access, tick, resume_after_restore")
def _(session):
    sql = "SELECT jobq.{}(CAST(CAST(:role AS text) AS regrole), :access)"
    values = {"role": os.environ["CLIENT_ROLE"], "access": "worker"}
    equal(session.scalar(text(sql.format("grant_access")), values), True)
    equal(session.scalar(text(sql.format("revoke_access")), values), True)
    session.commit()
    true(call(session, "tick") >= 0)
    equal(call(session, "resume_after_restore"), False)


# Looking


@check("select(Job).where(Job.state == ...), newest first")
def _(session):
    older, newer = call(session, "enqueue", "listed"), call(session, "enqueue", "listed")
    query = select(Job).where(Job.state == "pending", Job.kind == "listed").order_by(Job.id.desc())
    equal([job.id for job in session.scalars(query)], [newer, older])
    equal(session.execute(select(func.jobq.stats("default").table_valued("queue"))).scalar_one(), "default")
    true(isinstance(call(session, "version"), str))
    true("no such job" in session.scalar(text("SELECT jobq.why('00000000-0000-0000-0000-000000000000')")))


@check("every column of every row arrives as a Python type of its own")
def _(session):
    judge = read_as({
        "uuid": (UUID,), "text": (str,), "boolean": (bool,), "integer": (int,), "bigint": (int,), "double precision": (float,),
        "timestamp with time zone": (datetime,), "jsonb": (dict, list)})

    def read(row_type, sql, **values):
        rows = session.execute(text(sql), values).mappings().all()
        for row in rows:
            judge(row_type, dict(row))
        return rows

    call(session, "create_queue", "all", None, None, None, timedelta(hours=1), *[None] * 4, 50)
    one = {"kind": "all", "queue": "all", "payload": {"n": 1}, "headers": {"h": 1}, "unique_key": "k", "max_attempts": 2}
    read("enqueued_job", "SELECT * FROM jobq.enqueue_jobs(CAST(:jobs AS jsonb))", jobs=json.dumps([one, {**one, "unique_key": "l"}]))
    session.commit()
    claim = "SELECT * FROM jobq.claim('all', worker => 'ada')"
    [held] = read("claimed_job", claim)
    call(session, "fail", held["id"], held["lease"], "once", timedelta(0))
    call(session, "reschedule", held["id"], None, 1)
    session.commit()
    [held] = read("claimed_job", claim)
    call(session, "heartbeat", held["id"], held["lease"], None, 12.5, "on it")
    read("held_job", "SELECT * FROM jobq.heartbeat_many(:ids, :leases)", ids=[held["id"]], leases=[held["lease"]])
    read("jobs", "SELECT * FROM jobq.job(:id)", id=held["id"])
    read("queue_stats", "SELECT * FROM jobq.stats()")
    for view in CONTRACT["views"]:
        read(view, f"SELECT * FROM jobq.{view}")
    read("finished_job", "SELECT * FROM jobq.complete_many(:ids, :leases, '[[1]]')", ids=[held["id"]], leases=[held["lease"]])
    read("jobs", "SELECT * FROM jobq.job(:id)", id=held["id"])
    read("check_result", "SELECT * FROM jobq.diagnose()")
    all_seen("check_result.hint")


def on_a_connection(work):
    with Session(engine) as session:
        work(session)


if __name__ == "__main__":
    run(on_a_connection)
