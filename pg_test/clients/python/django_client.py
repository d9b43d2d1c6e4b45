"""jobq from Django (psycopg 3, parameters bound by the client; some checks again bound by the server)."""

from __future__ import annotations

import json
import os
import threading
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import django
from django.conf import settings
from django.db import OperationalError, connection, connections, models, transaction
from django.db.models import F, Func, Value
from django.db.models.functions import JSONObject
from django.db.utils import Error

from checks import CONTRACT, all_seen, check, equal, eventually, read_as, run, true

url = urlsplit(os.environ["DATABASE_URL"])
DATABASE = {"ENGINE": "django.db.backends.postgresql", "NAME": url.path[1:], "USER": url.username, "PASSWORD": url.password,
            "HOST": url.hostname, "PORT": url.port}
settings.configure(USE_TZ=True, DATABASES={
    "default": DATABASE, "server_bound": {**DATABASE, "OPTIONS": {"server_side_binding": True}}})
django.setup()


class Invoice(models.Model):
    total = models.IntegerField()
    job_id = models.UUIDField(null=True)

    class Meta:
        app_label = "shop"
        db_table = "invoices"


class Job(models.Model):
    """The view as a model. Django quotes the name, hence the quotes between schema and view."""

    id = models.UUIDField(primary_key=True)
    queue = models.TextField()
    kind = models.TextField()
    state = models.TextField()
    payload = models.JSONField()
    result = models.JSONField(null=True)
    progress = models.FloatField(null=True)
    enqueued_at = models.DateTimeField()

    class Meta:
        app_label = "shop"
        managed = False
        db_table = 'jobq"."jobs'


class Enqueue(Func):
    """jobq.enqueue inside a query; arguments by position."""

    function = "jobq.enqueue"
    output_field = models.UUIDField()


def value(sql, *parameters, using="default"):
    with connections[using].cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetchone()[0]


def rows(sql, *parameters, using="default"):
    with connections[using].cursor() as cursor:
        cursor.execute(sql, parameters)
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row)) for row in cursor.fetchall()]


def enqueue(kind="send_email", queue=None):
    return value("SELECT jobq.enqueue(%s, queue => %s)", kind, queue)


def claimed(queue=None):
    """A job of its own, and held."""
    enqueue(queue=queue)
    return rows("SELECT * FROM jobq.claim(%s, worker => 'ada')", queue)[0]


@contextmanager
def refused(sqlstate):
    try:
        yield
    except Error as error:
        equal(error.__cause__.sqlstate, sqlstate)
    else:
        raise AssertionError(f"not refused with {sqlstate}")


# Producers


@check("cursor.execute: json.dumps for the payload, timedelta for the delay")
def _():
    with connection.cursor() as cursor:
        cursor.execute("SELECT jobq.enqueue('send_email', %s, delay => %s)", [json.dumps({"to": "ada"}), timedelta(seconds=90)])
        [id] = cursor.fetchone()
    true(isinstance(id, UUID))
    equal((Job.objects.get(id=id).payload, Job.objects.get(id=id).state), ({"to": "ada"}, "pending"))


@check("every option NULL, by position; named arguments; both ways of binding")
def _():
    for using in connections:
        id = value("SELECT jobq.enqueue(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)", "report", "[1]", *[None] * 9, using=using)
        equal((Job.objects.get(id=id).queue, Job.objects.get(id=id).payload), ("default", [1]))
        id = value("SELECT jobq.enqueue('report', headers => %s, priority => %s, run_at => %s, max_attempts => %s)",
                   json.dumps({"trace": "4bf9"}), 1, datetime(2031, 5, 17, tzinfo=timezone.utc), 5, using=using)
        [made] = rows("SELECT * FROM jobq.job(%s)", id)
        equal((made["priority"], made["run_at"].year, made["max_attempts"]), (1, 2031, 5))


@check("Func: one job for each row of a queryset, in one statement")
def _():
    with connection.schema_editor() as schema:
        schema.create_model(Invoice)
    Invoice.objects.bulk_create([Invoice(total=1), Invoice(total=2)])
    with transaction.atomic():
        enqueued = Invoice.objects.annotate(job=Enqueue(Value("send_invoice"), JSONObject(invoice=F("id")), Value(None), Value(1)))
        for invoice in enqueued:
            invoice.job_id = invoice.job
            invoice.save(update_fields=["job_id"])
    payloads = [Job.objects.get(id=i.job_id).payload for i in Invoice.objects.order_by("id")]
    equal(payloads, [{"invoice": i.id} for i in Invoice.objects.order_by("id")])


@check("a payload encoded twice is refused")
def _():
    with refused("22023"):
        value("SELECT jobq.enqueue('report', %s)", json.dumps(json.dumps({"a": 1})))


@check("enqueue_many: arrays as payloads stay whole; enqueue_jobs: different jobs at once")
def _():
    made = rows("SELECT * FROM jobq.enqueue_many('resize', %s)", json.dumps([[1, 2], [3, 4]]))
    equal([Job.objects.get(id=row["id"]).payload for row in made], [[1, 2], [3, 4]])
    jobs = [{"kind": "sync", "unique_key": "k"}, {"kind": "report"}, {"kind": "sync", "unique_key": "k"}]
    made = rows("SELECT * FROM jobq.enqueue_jobs(%s)", json.dumps(jobs))
    equal([row["created"] for row in made], [True, True, False])


@check("enqueue and models in one atomic block: rolled back together, committed together")
def _():
    try:
        with transaction.atomic():
            invoice = Invoice.objects.create(total=13)
            lost = enqueue("send_invoice")
            raise KeyError("the program changed its mind")
    except KeyError:
        pass
    equal((Job.objects.filter(id=lost).exists(), Invoice.objects.filter(total=13).exists()), (False, False))
    with transaction.atomic(), connection.cursor() as cursor:
        invoice = Invoice.objects.create(total=14)
        cursor.execute("SELECT jobq.enqueue('send_invoice', %s)", [json.dumps({"invoice": invoice.id})])
        [invoice.job_id] = cursor.fetchone()
        invoice.save()
    equal(Job.objects.get(id=Invoice.objects.get(total=14).job_id).payload, {"invoice": invoice.id})


# Workers


@check("claim, work, complete")
def _():
    value("SELECT jobq.enqueue('add', %s)", json.dumps({"a": 1, "b": 2}))
    with connection.cursor() as cursor:
        cursor.execute("SELECT id, lease, kind, payload FROM jobq.claim(worker => 'ada')")
        id, lease, kind, payload = cursor.fetchone()
        payload = json.loads(payload)  # jsonb in raw queries arrives as str
        result = json.dumps({"sum": payload["a"] + payload["b"]})
        cursor.execute("SELECT jobq.complete(%s, %s, %s)", [id, lease, result])
    equal((kind, Job.objects.get(id=id).result), ("add", {"sum": 3}))


@check("claim: every argument NULL, by position; several queues and kinds; a claim that is rolled back never was")
def _():
    id = enqueue()
    every = "SELECT * FROM jobq.claim(%s, %s, %s, %s, %s, %s)"
    with transaction.atomic():
        equal([row["id"] for row in rows(every, *[None] * 6)], [id])
        transaction.set_rollback(True)
    for using in connections:
        [held] = rows(every, *[None] * 6, using=using)
        equal((held["id"], held["attempt"]), (id, 1))
        equal(value("SELECT jobq.release(%s, %s)", id, held["lease"], using=using), "pending")
    value("SELECT jobq.cancel(%s)", id)
    value("SELECT jobq.create_queue('high')")
    low, high = enqueue("a"), enqueue("b", queue="high")
    several = rows("SELECT * FROM jobq.claim(%s, %s, kinds => %s, lease_for => %s)", "high,default", 2, ["a", "b"], timedelta(minutes=1))
    equal([row["id"] for row in several], [high, low])


@check("heartbeat: whole and broken progress, both ways of binding; heartbeat_many")
def _():
    held = claimed()
    for using in connections:
        for progress in (60, 50.5, None):
            beat = "SELECT jobq.heartbeat(%s, %s, %s, %s, %s)"
            equal(value(beat, held["id"], held["lease"], timedelta(minutes=9), progress, None, using=using), True)
        equal(Job.objects.get(id=held["id"]).progress, 50.5)
        both = rows("SELECT * FROM jobq.heartbeat_many(%s::uuid[], %s)", [held["id"], uuid4()], [held["lease"], 1], using=using)
        equal([(row["held"], row["cancel_requested"]) for row in both], [(True, False), (False, False)])


@check("complete_many: a result for each, arrays stay arrays, null is none; on_stale")
def _():
    jobs = [claimed() for _ in range(3)]
    ids, leases = [j["id"] for j in jobs], [jobs[0]["lease"], jobs[1]["lease"], jobs[2]["lease"] - 1]
    sql = "SELECT * FROM jobq.complete_many(%s::uuid[], %s, %s, %s)"
    results = json.dumps([[1, 2], None, [3]])
    with refused("JQ001"):
        rows(sql, ids, leases, results, None)
    equal([row["completed"] for row in rows(sql, ids, leases, results, "skip")], [True, True, False])
    equal([Job.objects.get(id=id).result for id in ids], [[1, 2], None, None])


@check("complete_and_claim: one call ends a job and brings the next one, both ways of binding")
def _():
    sql = "SELECT * FROM jobq.complete_and_claim(%s::uuid[], %s::bigint[], %s)"
    for using in connections:
        first, second = enqueue("a"), enqueue("b")
        [held] = rows(sql, [], [], None, using=using)
        equal(held["id"], first)
        [following] = rows(sql, [held["id"]], [held["lease"]], json.dumps([{"n": 7}]), using=using)
        equal((following["id"], following["kind"], following["payload"], following["attempt"]), (second, "b", "{}", 1))
        equal((Job.objects.get(id=first).state, Job.objects.get(id=first).result), ("completed", {"n": 7}))
        with refused("JQ002"):
            rows(sql, [held["id"]], [held["lease"]], None, using=using)
        every = "SELECT * FROM jobq.complete_and_claim(%s::uuid[], %s::bigint[], %s, %s, %s, %s, %s, %s, %s, %s)"
        equal(rows(every, [following["id"]], [following["lease"]], *[None] * 8, using=using), [])
        equal(Job.objects.get(id=second).state, "completed")


@check("claim_wait: an array of objects")
def _():
    sent = value("SELECT jobq.enqueue('add', %s)", json.dumps({"a": 1, "b": 2}))
    with connection.cursor() as cursor:
        cursor.execute("CALL jobq.claim_wait(wait => %s, worker => 'ada')", [timedelta(seconds=20)])
        [jobs] = cursor.fetchone()
        for held in json.loads(jobs):
            result = json.dumps({"sum": held["payload"]["a"] + held["payload"]["b"]})
            cursor.execute("SELECT jobq.complete(%s, %s, %s)", [held["id"], held["lease"], result])
    equal((held["id"], held["attempt"], held["last_error"]), (str(sent), 1, None))
    true(type(held["lease"]) is int and 0 < held["lease"] < 2**53, held["lease"])
    equal((Job.objects.get(id=sent).state, Job.objects.get(id=sent).result), ("completed", {"sum": 3}))


@check("claim_wait: waits for a job that another connection enqueues; [] when the time is over; every argument by position")
def _():
    def send():
        # A thread has connections of its own.
        enqueue("later")
        connection.close()

    every = "CALL jobq.claim_wait(%s, %s, %s, %s, %s, %s, %s, %s)"
    for using in connections:
        sender = threading.Thread(target=send)
        sender.start()
        options = [None, None, timedelta(hours=1), "ada", timedelta(minutes=1), ["later"], None, None]
        [held] = json.loads(value(every, *options, using=using))
        sender.join()
        equal((held["kind"], held["payload"]), ("later", {}))
        equal(value("CALL jobq.claim_wait(wait => %s)", timedelta(milliseconds=1), using=using), "[]")


@check("claim_wait inside atomic: 25001; outside, an hour's wait is over at once when there is a job")
def _():
    id = enqueue()
    with refused("25001"), transaction.atomic():
        value("CALL jobq.claim_wait()")
    [held] = json.loads(value("CALL jobq.claim_wait(wait => '1 hour')"))
    equal((held["id"], held["attempt"]), (str(id), 1))


@check("fail, release, cancel")
def _():
    held = claimed()
    equal(value("SELECT jobq.fail(%s, %s, %s, %s)", held["id"], held["lease"], "no route", timedelta(0)), "pending")
    [held] = rows("SELECT * FROM jobq.claim()")
    equal((held["attempt"], held["last_error"]), (2, "no route"))
    equal(value("SELECT jobq.fail(%s, %s, retry => %s)", held["id"], held["lease"], False), "failed")
    held = claimed()
    equal(value("SELECT jobq.cancel(%s)", held["id"]), "running")
    equal(value("SELECT jobq.heartbeat(%s, %s)", held["id"], held["lease"]), False)
    equal(value("SELECT jobq.release(%s, %s, %s)", held["id"], held["lease"], None), "cancelled")


@check("a lost lease is JQ001 and no OperationalError; a repeated complete is JQ002; the connection stays usable")
def _():
    held = claimed()
    eventually(lambda: value("SELECT jobq.rescue_zombies(older_than => %s)", timedelta(milliseconds=1)) >= 0
               and Job.objects.get(id=held["id"]).state == "pending")
    [again] = rows("SELECT * FROM jobq.claim(worker => 'bob')")
    try:
        with transaction.atomic():
            Invoice.objects.create(total=99)
            value("SELECT jobq.complete(%s, %s)", held["id"], held["lease"])
        raise AssertionError("not refused")
    except Error as error:
        equal(error.__cause__.sqlstate, "JQ001")
        true(not isinstance(error, OperationalError), type(error))
        true("bob" in error.__cause__.diag.message_detail, error)
        true(str(again["lease"]) not in str(error), "the lease is secret")
    equal(Invoice.objects.filter(total=99).exists(), False)
    equal(value("SELECT jobq.complete(%s, %s)", again["id"], again["lease"]), "completed")
    for call in ("complete", "fail", "release", "heartbeat"):
        with refused("JQ002"):
            value(f"SELECT jobq.{call}(%s, %s)", again["id"], again["lease"])
    with refused("JQ003"):
        value("SELECT jobq.cancel(%s)", uuid4())
    with refused("JQ004"):
        value("SELECT jobq.retry(%s)", again["id"])


@check("a lease survives JSON")
def _():
    enqueue()
    [row] = json.loads(value("SELECT jsonb_agg(c)::text FROM jobq.claim() AS c"), parse_int=float)
    equal(value("SELECT jobq.complete(%s, %s)", row["id"], int(row["lease"])), "completed")


# Operators


@check("reschedule, retry, retry_failed, delete, purge")
def _():
    id = enqueue()
    later = datetime.now(timezone.utc) + timedelta(hours=1)
    equal(value("SELECT jobq.reschedule(%s, %s, %s, %s)", id, later, 1, None), "pending")
    equal(value("SELECT jobq.cancel(%s)", id), "cancelled")
    equal(value("SELECT jobq.retry(%s)", id), "pending")
    equal([value("SELECT jobq.delete(%s)", id), value("SELECT jobq.delete(%s)", id)], [True, False])
    value("SELECT jobq.create_queue('bin', max_attempts => 1)")
    for retried in (1, 0):
        held = claimed(queue="bin")
        equal(value("SELECT jobq.fail(%s, %s, 'down')", held["id"], held["lease"]), "failed")
        if retried:
            equal(value("SELECT jobq.retry_failed(%s, %s, %s)", "bin", None, None), 1)
            value("SELECT jobq.cancel(%s)", held["id"])
    equal(value("SELECT jobq.purge(%s, %s, %s, %s)", "bin", "failed", timedelta(0), None), 1)
    with refused("22004"):
        value("SELECT jobq.purge(%s, %s, %s)", "bin", "failed", None)


@check("queues: create, alter, pause, resume, drop")
def _():
    create = "SELECT jobq.create_queue(%s, lease_for => %s, backoff => %s, max_depth => %s)"
    equal(value(create, "press", timedelta(minutes=1), json.dumps({"kind": "constant", "base": "10s"}), 5), True)
    equal(value("SELECT lease_seconds FROM jobq.queues WHERE name = %s", "press"), 60.0)
    equal([value("SELECT jobq.alter_queue('press', keep_completed => %s)", False) for _ in range(2)], [True, False])
    equal([value("SELECT jobq.pause('press')"), value("SELECT jobq.resume('press')")], [True, True])
    enqueue(queue="press")
    with refused("2BP01"):
        value("SELECT jobq.drop_queue('press')")
    equal(value("SELECT jobq.drop_queue(%s, %s)", "press", True), 1)
    with refused("42704"):
        enqueue(queue="press")


@check("grant_access, revoke_access, tick, resume_after_restore")
def _():
    for using, access in (("default", "admin"), ("server_bound", "reader")):
        grant = "SELECT jobq.grant_access(%s, %s), jobq.revoke_access(%s, %s)"
        equal(list(rows(grant, *[os.environ["CLIENT_ROLE"], access] * 2, using=using)[0].values()), [True, True])
    true(value("SELECT jobq.tick()") >= 0)
    equal(value("SELECT jobq.resume_after_restore()"), False)


# Looking


@check("Job.objects.filter(state=...), newest first; stats; version")
def _():
    older, newer = enqueue("listed"), enqueue("listed")
    waiting = Job.objects.filter(state="pending", kind="listed").order_by("-id")
    equal([job.id for job in waiting], [newer, older])
    equal(Job.objects.using("server_bound").filter(state="pending", kind="listed").count(), 2)
    equal(rows("SELECT * FROM jobq.stats(%s)", "default")[0]["queue"], "default")
    true(isinstance(value("SELECT jobq.version()"), str))
    true(isinstance(value("SELECT jobq.why('00000000-0000-0000-0000-000000000000')"), str))


@check("every column of every row arrives as a Python type of its own")
def _():
    judge = read_as({
        "uuid": (UUID,), "text": (str,), "boolean": (bool,), "integer": (int,), "bigint": (int,), "double precision": (float,),
        "timestamp with time zone": (datetime,), "jsonb": (str,)})

    def read(row_type, sql, *parameters):
        found = rows(sql, *parameters)
        for row in found:
            judge(row_type, row)
        return found

    value("SELECT jobq.create_queue('all', timeout => '1 h', max_depth => 50)")
    one = {"kind": "all", "queue": "all", "payload": {"n": 1}, "headers": {"h": 1}, "unique_key": "k", "max_attempts": 2}
    read("enqueued_job", "SELECT * FROM jobq.enqueue_jobs(%s)", json.dumps([one]))
    read("enqueued_job", "SELECT * FROM jobq.enqueue_many('all', %s, queue => 'all')", "[[1], [2]]")
    [held] = read("claimed_job", "SELECT * FROM jobq.claim('all', worker => 'ada')")
    value("SELECT jobq.fail(%s, %s, 'once', '0 s')", held["id"], held["lease"])
    value("SELECT jobq.reschedule(%s, priority => 1)", held["id"])
    [held] = read("claimed_job", "SELECT * FROM jobq.claim('all', worker => 'ada')")
    value("SELECT jobq.heartbeat(%s, %s, progress => 12.5, note => 'on it')", held["id"], held["lease"])
    read("held_job", "SELECT * FROM jobq.heartbeat_many(%s::uuid[], %s)", [held["id"]], [held["lease"]])
    read("jobs", "SELECT * FROM jobq.job(%s)", held["id"])
    read("queue_stats", "SELECT * FROM jobq.stats()")
    for view in CONTRACT["views"]:
        read(view, f"SELECT * FROM jobq.{view}")
    read("finished_job", "SELECT * FROM jobq.complete_many(%s::uuid[], %s, '[[1]]')", [held["id"]], [held["lease"]])
    read("jobs", "SELECT * FROM jobq.job(%s)", held["id"])
    read("check_result", "SELECT * FROM jobq.diagnose()")
    all_seen("check_result.hint")


if __name__ == "__main__":
    run(lambda work: work())
