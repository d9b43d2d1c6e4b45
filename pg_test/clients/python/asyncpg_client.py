"""jobq from asyncpg."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from uuid import UUID, uuid4

import asyncpg
import asyncpg.pgproto.pgproto

from checks import CONTRACT, all_seen, check, equal, read_as, run, true

URL = os.environ["DATABASE_URL"]


async def prepare(db):
    # Without a codec asyncpg takes and gives JSON as text.
    await db.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)


async def job(db, id):
    return await db.fetchrow("SELECT * FROM jobq.job($1)", id)


async def enqueue(db, kind="send_email", payload=None, queue=None):
    return await db.fetchval("SELECT jobq.enqueue($1, $2, $3)", kind, payload or {}, queue)


async def claimed(db, queue=None):
    """A job of its own, and held."""
    await enqueue(db, queue=queue)
    return await db.fetchrow("SELECT * FROM jobq.claim($1, worker => 'ada')", queue)


@contextmanager
def refused(sqlstate):
    try:
        yield
    except asyncpg.PostgresError as error:
        equal(error.sqlstate, sqlstate)
    else:
        raise AssertionError(f"not refused with {sqlstate}")


# Producers


@check("enqueue: payload as dict, timedelta as delay, datetime as run_at")
async def _(db):
    id = await db.fetchval("SELECT jobq.enqueue('send_email', $1, delay => $2, priority => $3)",
                           {"to": "ada@example.org"}, timedelta(seconds=90), 1)
    true(isinstance(id, UUID))
    made = await job(db, id)
    equal((made["payload"], made["priority"], made["state"]), ({"to": "ada@example.org"}, 1, "pending"))
    at = datetime(2031, 5, 17, 8, 30, tzinfo=timezone.utc)
    id = await db.fetchval("SELECT jobq.enqueue('send_email', run_at => $1, headers => $2, timeout => $3)",
                           at, {"trace": "4bf9"}, timedelta(minutes=2))
    made = await job(db, id)
    equal((made["run_at"], made["headers"]), (at, {"trace": "4bf9"}))


@check("enqueue: every option NULL, by position")
async def _(db):
    id = await db.fetchval("SELECT jobq.enqueue($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)", "report", {}, *[None] * 9)
    made = await job(db, id)
    equal((made["queue"], made["priority"], made["max_attempts"]), ("default", 2, 3))


@check("a payload encoded twice is refused")
async def _(db):
    with refused("22023"):
        await enqueue(db, payload=json.dumps({"a": 1}))


@check("enqueue_many: arrays as payloads stay whole; enqueue_jobs: different jobs at once")
async def _(db):
    rows = await db.fetch("SELECT * FROM jobq.enqueue_many('resize', $1)", [[1, 2], [3, 4]])
    equal([(await job(db, row["id"]))["payload"] for row in rows], [[1, 2], [3, 4]])
    jobs = [{"kind": "sync", "unique_key": "account-7"}, {"kind": "report", "payload": [1]}, {"kind": "sync", "unique_key": "account-7"}]
    rows = await db.fetch("SELECT * FROM jobq.enqueue_jobs($1)", jobs)
    equal([row["created"] for row in rows], [True, True, False])
    equal(rows[2]["id"], rows[0]["id"])


@check("enqueue is part of the caller's transaction")
async def _(db):
    await db.execute("CREATE TABLE invoices (id int GENERATED ALWAYS AS IDENTITY, job_id uuid)")
    async with db.transaction():
        kept = await db.fetchval("SELECT jobq.enqueue('send_invoice', $1)", {"total": 12})
        await db.execute("INSERT INTO invoices (job_id) VALUES ($1)", kept)
    try:
        async with db.transaction():
            lost = await enqueue(db, "send_invoice")
            await db.execute("INSERT INTO invoices (job_id) VALUES ($1)", lost)
            raise KeyError("the program changed its mind")
    except KeyError:
        pass
    equal(await db.fetchval("SELECT count(*) FROM invoices"), 1)
    equal([row["id"] for row in await db.fetch("SELECT * FROM jobq.claim(batch => 10)")], [kept])


# Workers


@check("claim, work, complete")
async def _(db):
    await enqueue(db, "add", {"a": 1, "b": 2})
    held = await db.fetchrow("SELECT * FROM jobq.claim(worker => 'ada', kinds => $1)", ["add"])
    # On a second connection, while the first one works.
    await db.fetchval("SELECT jobq.heartbeat($1, $2, progress => $3)", held["id"], held["lease"], 50.5)
    result = {"sum": held["payload"]["a"] + held["payload"]["b"]}
    await db.fetchval("SELECT jobq.complete($1, $2, $3)", held["id"], held["lease"], result)
    done = await job(db, held["id"])
    equal((done["state"], done["result"], done["progress"]), ("completed", {"sum": 3}, 50.5))


@check("claim: every argument NULL, by position; several queues; a claim that is rolled back never was")
async def _(db):
    id = await enqueue(db)
    transaction = db.transaction()
    await transaction.start()
    equal([row["id"] for row in await db.fetch("SELECT * FROM jobq.claim(batch => 2)")], [id])
    await transaction.rollback()
    rows = await db.fetch("SELECT * FROM jobq.claim($1, $2, $3, $4, $5, $6)", *[None] * 6)
    equal([(row["id"], row["attempt"]) for row in rows], [(id, 1)])
    await db.fetchval("SELECT jobq.create_queue('high')")
    low, high = await enqueue(db), await enqueue(db, queue="high")
    equal([row["id"] for row in await db.fetch("SELECT * FROM jobq.claim('high,default', $1)", 2)], [high, low])


@check("heartbeat with whole and broken progress, heartbeat_many")
async def _(db):
    held = await claimed(db)
    for progress in (50.5, 60, None):
        equal(await db.fetchval("SELECT jobq.heartbeat($1, $2, $3, $4, $5)", held["id"], held["lease"], None, progress, None), True)
    equal((await job(db, held["id"]))["progress"], 60.0)
    rows = await db.fetch("SELECT * FROM jobq.heartbeat_many($1, $2, $3)", [held["id"], uuid4()], [held["lease"], 1], timedelta(minutes=9))
    equal([(row["held"], row["cancel_requested"]) for row in rows], [(True, False), (False, False)])


@check("complete_many: a result for each, arrays stay arrays, null is none; on_stale")
async def _(db):
    jobs = [await claimed(db) for _ in range(3)]
    ids, leases = [j["id"] for j in jobs], [j["lease"] for j in jobs]
    with refused("JQ001"):
        await db.fetch("SELECT * FROM jobq.complete_many($1, $2)", ids, [leases[0], leases[1], leases[2] - 1])
    rows = await db.fetch("SELECT * FROM jobq.complete_many($1, $2, $3, 'skip')", ids, [leases[0], leases[1], leases[2] - 1],
                          [[1, 2], None, [3]])
    equal([(row["id"], row["completed"]) for row in rows], list(zip(ids, [True, True, False])))
    equal([(await job(db, id))["result"] for id in ids], [[1, 2], None, None])
    equal(len(await db.fetch("SELECT * FROM jobq.complete_many($1, $2, $3, $4)", [], [], None, None)), 0)


@check("complete_and_claim: one call ends a job and brings the next one")
async def _(db):
    first, second = await enqueue(db), await enqueue(db, payload={"n": 2})
    [held] = await db.fetch("SELECT * FROM jobq.complete_and_claim($1, $2)", [], [])
    equal(held["id"], first)
    sql = "SELECT * FROM jobq.complete_and_claim($1, $2, $3, worker => 'ada')"
    [following] = await db.fetch(sql, [held["id"]], [held["lease"]], [{"n": 7}])
    equal((following["id"], following["payload"], following["attempt"]), (second, {"n": 2}, 1))
    done = await job(db, first)
    equal((done["state"], done["result"], (await job(db, second))["worker"]), ("completed", {"n": 7}, "ada"))
    with refused("JQ002"):
        await db.fetch(sql, [held["id"]], [held["lease"]], None)
    every = "SELECT * FROM jobq.complete_and_claim($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)"
    equal(await db.fetch(every, [following["id"]], [following["lease"]], *[None] * 8), [])
    equal((await job(db, second))["state"], "completed")


@check("claim_wait: an array of objects")
async def _(db):
    id = await enqueue(db, "add", {"a": 1, "b": 2})
    jobs = await db.fetchval("CALL jobq.claim_wait(wait => $1, worker => 'ada')", timedelta(seconds=20))
    for held in jobs:
        result = {"sum": held["payload"]["a"] + held["payload"]["b"]}
        await db.fetchval("SELECT jobq.complete($1, $2, $3)", held["id"], held["lease"], result)
    equal([(held["id"], held["attempt"], held["last_error"]) for held in jobs], [(str(id), 1, None)])
    true(type(held["lease"]) is int and 0 < held["lease"] < 2**53, held["lease"])
    equal(((await job(db, id))["state"], (await job(db, id))["result"]), ("completed", {"sum": 3}))


@check("claim_wait: waits for a job that another connection enqueues; [] when the time is over; every argument by position")
async def _(db):
    another = await asyncpg.connect(URL)
    try:
        await prepare(another)
        every = "CALL jobq.claim_wait($1, $2, $3, $4, $5, $6, $7, $8)"
        waiting = another.fetchval(every, None, None, timedelta(hours=1), "ada", timedelta(minutes=1), ["send_email"], None, None)
        [held], id = await asyncio.gather(waiting, enqueue(db))
        equal((held["id"], held["payload"]), (str(id), {}))
    finally:
        await another.close()
    equal(await db.fetchval("CALL jobq.claim_wait(wait => $1)", timedelta(milliseconds=1)), [])


@check("claim_wait inside a transaction: 25001; outside, an hour's wait is over at once when there is a job")
async def _(db):
    id = await enqueue(db)
    with refused("25001"):
        async with db.transaction():
            await db.fetchval("CALL jobq.claim_wait()")
    [held] = await db.fetchval("CALL jobq.claim_wait(wait => '1 hour')")
    equal((held["id"], held["attempt"]), (str(id), 1))


@check("fail, release, cancel")
async def _(db):
    held = await claimed(db)
    equal(await db.fetchval("SELECT jobq.fail($1, $2, $3, $4)", held["id"], held["lease"], "no route", timedelta(0)), "pending")
    held = await db.fetchrow("SELECT * FROM jobq.claim()")
    equal((held["attempt"], held["last_error"]), (2, "no route"))
    equal(await db.fetchval("SELECT jobq.release($1, $2, $3)", held["id"], held["lease"], None), "pending")
    held = await db.fetchrow("SELECT * FROM jobq.claim()")
    equal(await db.fetchval("SELECT jobq.fail($1, $2, $3, $4, $5)", held["id"], held["lease"], "no", None, False), "failed")
    held = await claimed(db)
    equal(await db.fetchval("SELECT jobq.cancel($1)", held["id"]), "running")
    equal(await db.fetchval("SELECT jobq.heartbeat($1, $2)", held["id"], held["lease"]), False)
    equal(await db.fetchval("SELECT jobq.fail($1, $2)", held["id"], held["lease"]), "cancelled")


@check("a lost lease is JQ001 and no connection error; a repeated complete is JQ002; the connection stays usable")
async def _(db):
    held = await claimed(db)
    async with asyncio.timeout(60):
        while (await job(db, held["id"]))["state"] == "running":
            await db.fetchval("SELECT jobq.rescue_zombies(older_than => $1)", timedelta(milliseconds=1))
    again = await db.fetchrow("SELECT * FROM jobq.claim(worker => 'bob')")
    try:
        async with db.transaction():
            await db.fetchval("SELECT jobq.complete($1, $2)", held["id"], held["lease"])
        raise AssertionError("not refused")
    except asyncpg.PostgresError as error:
        equal(error.sqlstate, "JQ001")
        true(not isinstance(error, (asyncpg.PostgresConnectionError, asyncpg.ObjectNotInPrerequisiteStateError)), type(error))
        true("bob" in error.detail and str(again["lease"]) not in error.detail, error.detail)
    equal(await db.fetchval("SELECT jobq.complete($1, $2)", again["id"], again["lease"]), "completed")
    with refused("JQ002"):
        await db.fetchval("SELECT jobq.complete($1, $2)", again["id"], again["lease"])
    for call in ("cancel", "retry", "reschedule"):
        with refused("JQ003"):
            await db.fetchval(f"SELECT jobq.{call}($1)", uuid4())
    with refused("JQ004"):
        await db.fetchval("SELECT jobq.retry($1)", again["id"])


@check("a lease survives JSON")
async def _(db):
    await enqueue(db)
    # jsonb through the codec, as rows come from an HTTP gateway.
    [held] = await db.fetchval("SELECT jsonb_agg(c) FROM jobq.claim() AS c")
    held = json.loads(json.dumps(held), parse_int=float)
    equal(await db.fetchval("SELECT jobq.complete($1, $2)", held["id"], int(held["lease"])), "completed")


@check("four workers on a pool, each call on whichever connection is free: no job twice, none lost")
async def _(db):
    await db.fetchval("SELECT jobq.create_queue('pool')")
    await db.fetch("SELECT * FROM jobq.enqueue_many('add', $1, 'pool')", [{"n": n} for n in range(100)])
    done = []

    async def work(name):
        while held := await pool.fetchrow("SELECT * FROM jobq.claim('pool', 1, $1)", name):
            equal(await pool.fetchval("SELECT jobq.complete($1, $2)", held["id"], held["lease"]), "completed")
            done.append(held["payload"]["n"])

    async with asyncpg.create_pool(URL, min_size=4, max_size=4, init=prepare) as pool:
        await asyncio.gather(*(work(f"worker-{n}") for n in range(4)))
    equal(sorted(done), list(range(100)))


# Operators


@check("reschedule, retry, retry_failed, delete, purge")
async def _(db):
    id = await enqueue(db)
    at = datetime.now(timezone.utc) + timedelta(hours=1)
    equal(await db.fetchval("SELECT jobq.reschedule($1, $2, $3, $4)", id, at, None, 7), "pending")
    equal(((await job(db, id))["run_at"], (await job(db, id))["max_attempts"]), (at, 7))
    equal(await db.fetchval("SELECT jobq.cancel($1)", id), "cancelled")
    equal(await db.fetchval("SELECT jobq.retry($1)", id), "pending")
    equal([await db.fetchval("SELECT jobq.delete($1)", id) for _ in range(2)], [True, False])
    await db.fetchval("SELECT jobq.create_queue('bin', max_attempts => 1)")
    for retried in (1, 0):
        held = await claimed(db, queue="bin")
        await db.fetchval("SELECT jobq.fail($1, $2, 'down')", held["id"], held["lease"])
        if retried:
            equal(await db.fetchval("SELECT jobq.retry_failed($1, $2, $3)", "bin", None, None), 1)
            equal(await db.fetchval("SELECT jobq.cancel($1)", held["id"]), "cancelled")
    equal(await db.fetchval("SELECT jobq.purge($1, $2, $3, $4)", "bin", "failed", timedelta(0), None), 1)
    with refused("22004"):
        await db.fetchval("SELECT jobq.purge($1, $2, $3)", "bin", "failed", None)


@check("queues: create, alter, pause, resume, drop")
async def _(db):
    equal(await db.fetchval("SELECT jobq.create_queue($1, lease_for => $2, backoff => $3, max_depth => $4)",
                            "press", timedelta(minutes=1), {"kind": "constant", "base": "10s"}, 3), True)
    equal(await db.fetchval("SELECT lease_seconds FROM jobq.queues WHERE name = $1", "press"), 60.0)
    equal([await db.fetchval("SELECT jobq.alter_queue('press', keep_completed => $1)", False) for _ in range(2)], [True, False])
    equal([await db.fetchval("SELECT jobq.pause('press')"), await db.fetchval("SELECT jobq.resume('press')")], [True, True])
    await enqueue(db, queue="press")
    with refused("2BP01"):
        await db.fetchval("SELECT jobq.drop_queue('press')")
    equal(await db.fetchval("SELECT jobq.drop_queue('press', $1)", True), 1)
    with refused("42704"):
        await enqueue(db, queue="press")


@check("grant_access, revoke_access, tick, resume_after_restore")
async def _(db):
    # asyncpg sends a role's name as text: no cast needed.
    equal(await db.fetchval("SELECT jobq.grant_access($1, $2)", os.environ["CLIENT_ROLE"], "reader"), True)
    equal(await db.fetchval("SELECT jobq.revoke_access($1, $2)", os.environ["CLIENT_ROLE"], "reader"), True)
    true(await db.fetchval("SELECT jobq.tick()") >= 0)
    equal(await db.fetchval("SELECT jobq.resume_after_restore()"), False)


# Looking


@check("where state = $1, and the state arrives as str; version")
async def _(db):
    held = await claimed(db)
    rows = await db.fetch("SELECT id, state FROM jobq.jobs WHERE state = $1", "running")
    true((held["id"], "running") in [tuple(row) for row in rows])
    equal(await db.fetchval("SELECT count(*) FROM jobq.stats($1)", "default"), 1)
    true(isinstance(await db.fetchval("SELECT jobq.version()"), str))
    true(isinstance(await db.fetchval("SELECT jobq.why('00000000-0000-0000-0000-000000000000')"), str))


@check("every column of every row arrives as a Python type of its own")
async def _(db):
    judge = read_as({
        "uuid": (asyncpg.pgproto.pgproto.UUID,), "text": (str,), "boolean": (bool,), "integer": (int,), "bigint": (int,),
        "double precision": (float,), "timestamp with time zone": (datetime,), "jsonb": (dict, list)})

    async def read(row_type, sql, *parameters):
        rows = [dict(row) for row in await db.fetch(sql, *parameters)]
        for row in rows:
            judge(row_type, row)
        return rows

    await db.fetchval("SELECT jobq.create_queue('all', timeout => '1 h', max_depth => 50)")
    one = {"kind": "all", "queue": "all", "payload": {"n": 1}, "headers": {"h": 1}, "unique_key": "k", "max_attempts": 2}
    await read("enqueued_job", "SELECT * FROM jobq.enqueue_jobs($1)", [one])
    await read("enqueued_job", "SELECT * FROM jobq.enqueue_many('all', $1, queue => 'all')", [[1], [2]])
    [held] = await read("claimed_job", "SELECT * FROM jobq.claim('all', worker => 'ada')")
    await db.fetchval("SELECT jobq.fail($1, $2, 'once', $3)", held["id"], held["lease"], timedelta(0))
    await db.fetchval("SELECT jobq.reschedule($1, priority => 1)", held["id"])
    [held] = await read("claimed_job", "SELECT * FROM jobq.claim('all', worker => 'ada')")
    await db.fetchval("SELECT jobq.heartbeat($1, $2, progress => 12.5, note => 'on it')", held["id"], held["lease"])
    await read("held_job", "SELECT * FROM jobq.heartbeat_many($1, $2)", [held["id"]], [held["lease"]])
    await read("jobs", "SELECT * FROM jobq.job($1)", held["id"])
    await read("queue_stats", "SELECT * FROM jobq.stats()")
    for view in CONTRACT["views"]:
        await read(view, f"SELECT * FROM jobq.{view}")
    await read("finished_job", "SELECT * FROM jobq.complete_many($1, $2, $3)", [held["id"]], [held["lease"]], [[1]])
    await read("jobs", "SELECT * FROM jobq.job($1)", held["id"])
    await read("check_result", "SELECT * FROM jobq.diagnose()")
    all_seen("check_result.hint")


def on_a_connection(work):
    async def connected():
        db = await asyncpg.connect(URL)
        try:
            await prepare(db)
            await work(db)
        finally:
            await db.close()

    asyncio.run(connected())


if __name__ == "__main__":
    run(on_a_connection)
