// jobq from node-postgres. With POOLER set, the same through pgbouncer in transaction mode.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import pg from "pg";
import { allSeen, check, contract, equal, eventually, isDigits, isObject, isUuid, readAs, refused, run } from "./checks.mjs";

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 4 });

const rows = async (sql, ...values) => (await pool.query(sql, values)).rows;
const value = async (sql, ...values) => Object.values((await rows(sql, ...values))[0])[0];
const job = async (id) => (await rows("SELECT * FROM jobq.job($1)", id))[0];
const enqueue = (kind = "send_email", queue = null) => value("SELECT jobq.enqueue($1, queue => $2)", kind, queue);

/** A job of its own, and held. */
async function claimed(queue = null) {
  await enqueue("send_email", queue);
  return (await rows("SELECT * FROM jobq.claim($1, worker => 'ada')", queue))[0];
}

/** One transaction on one connection: pool.query would take another one each time. */
async function transaction(work) {
  const client = await pool.connect();
  try {
    await client.query("BEGIN");
    const result = await work(client);
    await client.query("COMMIT");
    return result;
  } catch (error) {
    await client.query("ROLLBACK");
    throw error;
  } finally {
    client.release();
  }
}

// Producers

check("enqueue: a plain object as payload", async () => {
  const { rows } = await pool.query("SELECT jobq.enqueue('send_email', $1, delay => '90 s') AS id", [{ to: "ada@example.org" }]);
  assert.ok(isUuid(rows[0].id));
  const made = await job(rows[0].id);
  equal([made.payload, made.state, made.queue], [{ to: "ada@example.org" }, "pending", "default"]);
  assert.ok(made.run_at - made.enqueued_at > 80_000);
});

check("enqueue: JSON.stringify for an array; without it the call is refused", async () => {
  equal((await job(await value("SELECT jobq.enqueue('a', $1)", JSON.stringify([1, [2]])))).payload, [1, [2]]);
  await refused(() => value("SELECT jobq.enqueue('a', $1)", [1, [2]]), "22P02");
});

check("enqueue: every option NULL or undefined, by position", async () => {
  const options = {};
  const id = await value("SELECT jobq.enqueue($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)", "report", {}, options.queue, ...Array(8).fill(null));
  const made = await job(id);
  equal([made.queue, made.priority, made.max_attempts, made.headers], ["default", 2, 3, null]);
});

check("enqueue: every option by name", async () => {
  const at = new Date("2031-05-17T08:30:00Z");
  const id = await value(
    `SELECT jobq.enqueue('report', $1, queue => $2, priority => $3, run_at => $4, max_attempts => $5, timeout => $6,
                         unique_key => $7, headers => $8, options => $9)`,
    {}, "default", 1, at, 5, "2 min", "daily", { trace: "4bf9" }, { unique_while: "pending" });
  const made = await job(id);
  equal([made.priority, made.run_at, made.max_attempts, made.unique_key, made.headers], [1, at, 5, "daily", { trace: "4bf9" }]);
});

check("a payload encoded twice is refused, and so is a delay in milliseconds", async () => {
  const error = await refused(() => value("SELECT jobq.enqueue('a', $1)", JSON.stringify(JSON.stringify({ a: 1 }))), "22023");
  assert.match(error.hint, /twice/);
  await refused(() => value("SELECT jobq.enqueue('a', delay => $1)", 90_000_000_000), "22023");
});

check("enqueue_many: arrays as payloads stay whole, in order; an array not stringified is refused", async () => {
  const many = "SELECT * FROM jobq.enqueue_many('resize', $1)";
  for (const payloads of [[[1, 2], [3, 4]], [{ n: 1 }, { n: 2 }]]) {
    const made = await rows(many, JSON.stringify(payloads));
    equal(await Promise.all(made.map(async ({ id }) => (await job(id)).payload)), payloads);
    equal(made.map((row) => row.created), [true, true]);
    await refused(() => rows(many, payloads), "22P02");
  }
  await refused(() => rows(many, []), "22023");
});

check("enqueue_jobs: different jobs at once, all or nothing", async () => {
  const jobs = [{ kind: "sync", unique_key: "k" }, { kind: "report", payload: [1], delay: "90 s" }, { kind: "sync", unique_key: "k" }];
  const made = await rows("SELECT * FROM jobq.enqueue_jobs($1)", JSON.stringify(jobs));
  equal(made.map((row) => row.created), [true, true, false]);
  equal(made[2].id, made[0].id);
  await refused(() => rows("SELECT * FROM jobq.enqueue_jobs($1)", JSON.stringify([{ kind: "lone" }, { kind: "a", queue: "nowhere" }])), "42704");
  equal(await value("SELECT count(*)::int FROM jobq.jobs WHERE kind = $1", "lone"), 0);
});

check("enqueue is part of the caller's transaction", async () => {
  await pool.query("CREATE TABLE invoices (id int GENERATED ALWAYS AS IDENTITY, job_id uuid)");
  const send = async (client) => {
    const { rows } = await client.query("SELECT jobq.enqueue('send_invoice', $1) AS id", [{ total: 12 }]);
    await client.query("INSERT INTO invoices (job_id) VALUES ($1)", [rows[0].id]);
    return rows[0].id;
  };
  const kept = await transaction(send);
  let lost;
  await assert.rejects(transaction(async (client) => {
    lost = await send(client);
    throw new RangeError("the program changed its mind");
  }), RangeError);
  equal(await job(lost), undefined);
  equal((await rows("SELECT id FROM jobq.claim(batch => 10)")).map((row) => row.id), [kept]);
  equal(await value("SELECT count(*)::int FROM invoices"), 1);
});

// Workers

check("claim, work, complete", async () => {
  await value("SELECT jobq.enqueue('add', $1)", { a: 1, b: 2 });
  const { rows: jobs } = await pool.query("SELECT * FROM jobq.claim(batch => 10, worker => $1)", ["ada"]);
  for (const { id, lease, payload } of jobs) {
    const result = [payload.a + payload.b];
    // stringify: an array would become a Postgres array
    await pool.query("SELECT jobq.complete($1, $2, $3)", [id, lease, JSON.stringify(result)]);
  }
  const done = await job(jobs[0].id);
  equal([done.state, done.result, done.worker], ["completed", [3], "ada"]);
});

check("claim: every argument NULL, by position; several queues, kinds; a claim that is rolled back never was", async () => {
  const id = await enqueue();
  await assert.rejects(transaction(async (client) => {
    equal((await client.query("SELECT id FROM jobq.claim()")).rows, [{ id }]);
    throw new RangeError();
  }), RangeError);
  equal(await rows("SELECT id, attempt FROM jobq.claim($1, $2, $3, $4, $5, $6)", ...Array(6).fill(null)), [{ id, attempt: 1 }]);
  await value("SELECT jobq.create_queue('high')");
  const [low, high] = [await enqueue("a"), await enqueue("b", "high")];
  const several = await rows("SELECT id FROM jobq.claim($1, $2, kinds => $3, lease_for => $4, bind => $5)",
    "high,default", 2, ["a", "b"], "1 min", "lease");
  equal(several.map((row) => row.id), [high, low]);
});

check("heartbeat: whole and broken progress; heartbeat_many", async () => {
  const held = await claimed();
  for (const progress of [60, 50.5, null]) {
    equal(await value("SELECT jobq.heartbeat($1, $2, $3, $4, $5)", held.id, held.lease, "9 min", progress, "on"), true);
  }
  equal((await job(held.id)).progress, 50.5);
  const both = await rows("SELECT * FROM jobq.heartbeat_many($1, $2)", [held.id, randomUUID()], [held.lease, 1]);
  equal(both.map((row) => [row.held, row.cancel_requested]), [[true, false], [false, false]]);
});

check("complete_many: a result for each, arrays stay arrays, null is none; on_stale", async () => {
  const jobs = [await claimed(), await claimed(), await claimed()];
  const ids = jobs.map((j) => j.id);
  const leases = [jobs[0].lease, jobs[1].lease, Number(jobs[2].lease) - 1];
  const sql = "SELECT * FROM jobq.complete_many($1, $2, $3, $4)";
  const results = JSON.stringify([[[1, 2], [3, 4]], null, [3]]);
  await refused(() => rows(sql, ids, leases, results, null), "JQ001");
  equal((await rows(sql, ids, leases, results, "skip")).map((row) => row.completed), [true, true, false]);
  equal(await Promise.all(ids.map(async (id) => (await job(id)).result)), [[[1, 2], [3, 4]], null, null]);
  await refused(() => rows(sql, [ids[2]], [jobs[2].lease], [[1, 2]], null), "22P02");
  await refused(() => rows(sql, [ids[2]], [jobs[2].lease], JSON.stringify([1, 2]), null), "22023");
  await refused(() => rows(sql, [[ids[2]], [ids[1]]], [[jobs[2].lease], [jobs[1].lease]], null, null), "22023");
});

check("complete_and_claim: one call ends a job and brings the next one", async () => {
  const [first, second] = [await enqueue("a"), await enqueue("b")];
  const sql = "SELECT * FROM jobq.complete_and_claim($1, $2, $3, worker => 'ada')";
  const [held] = await rows(sql, [], [], null);
  equal(held.id, first);
  const [following] = await rows(sql, [held.id], [held.lease], JSON.stringify([{ n: 7 }]));
  equal([following.id, following.kind, following.payload, following.attempt], [second, "b", {}, 1]);
  assert.ok(isDigits(following.lease) && following.run_at instanceof Date);
  equal([(await job(first)).state, (await job(first)).result, (await job(second)).worker], ["completed", { n: 7 }, "ada"]);
  await refused(() => rows(sql, [held.id], [held.lease], null), "JQ002");
  const every = "SELECT * FROM jobq.complete_and_claim($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
  equal(await rows(every, [following.id], [following.lease], ...Array(8).fill(null)), []);
  equal((await job(second)).state, "completed");
});

check("claim_wait: an array of objects", async () => {
  const sent = await value("SELECT jobq.enqueue('add', $1)", { a: 1, b: 2 });
  const { rows: [{ jobs }] } = await pool.query("CALL jobq.claim_wait(wait => $1, worker => $2)", ["20 s", "ada"]);
  for (const { id, lease, payload } of jobs) {
    await pool.query("SELECT jobq.complete($1, $2, $3)", [id, lease, { sum: payload.a + payload.b }]);
  }
  equal(jobs.map(({ id, attempt, last_error }) => [id, attempt, last_error]), [[sent, 1, null]]);
  assert.ok(Number.isSafeInteger(jobs[0].lease) && jobs[0].lease > 0, `${jobs[0].lease}`);
  equal([(await job(sent)).state, (await job(sent)).result], ["completed", { sum: 3 }]);
});

check("claim_wait: waits for a job that another connection enqueues; [] when the time is over; every argument by position", async () => {
  const every = "CALL jobq.claim_wait($1, $2, $3, $4, $5, $6, $7, $8)";
  const waiting = value(every, null, null, "1 hour", "ada", "1 min", ["a"], null, null);
  const [[held], id] = await Promise.all([waiting, enqueue("a")]);
  equal([held.id, held.payload], [id, {}]);
  equal(await value("CALL jobq.claim_wait(wait => $1)", "1 ms"), []);
});

check("claim_wait inside a transaction, or with another statement in one message: 25001; outside, an hour's wait is over at once when there is a job", async () => {
  const id = await enqueue();
  const error = await refused(() => transaction((client) => client.query("CALL jobq.claim_wait()")), "25001");
  assert.match(error.hint, /autocommit/);
  await refused(() => pool.query("CALL jobq.claim_wait(); SELECT 1"), "25001");
  const [held] = await value("CALL jobq.claim_wait(wait => '1 hour')");
  equal([held.id, held.attempt], [id, 1]);
});

check("fail, release, cancel", async () => {
  let held = await claimed();
  equal(await value("SELECT jobq.fail($1, $2, $3, $4)", held.id, held.lease, "no route", "0 s"), "pending");
  [held] = await rows("SELECT * FROM jobq.claim()");
  equal([held.attempt, held.last_error], [2, "no route"]);
  equal(await value("SELECT jobq.release($1, $2, $3)", held.id, held.lease, null), "pending");
  [held] = await rows("SELECT * FROM jobq.claim()");
  equal(await value("SELECT jobq.fail($1, $2, $3, retry => $4)", held.id, held.lease, "no", false), "failed");
  held = await claimed();
  equal(await value("SELECT jobq.cancel($1)", held.id), "running");
  equal(await value("SELECT jobq.heartbeat($1, $2)", held.id, held.lease), false);
  equal(await value("SELECT jobq.fail($1, $2)", held.id, held.lease), "cancelled");
});

check("a lost lease is JQ001 and takes the worker's own writes with it; a repeated complete is JQ002", async () => {
  await enqueue();
  const [first] = await rows("SELECT * FROM jobq.claim(worker => 'first', lease_for => '1 s')");
  await eventually(async () => {
    await value("SELECT jobq.rescue_zombies($1, $2)", null, null);
    return (await job(first.id)).state === "pending";
  });
  const [second] = await rows("SELECT * FROM jobq.claim(worker => 'second')");
  const error = await refused(() => transaction(async (client) => {
    await client.query("CREATE TABLE effects ()");
    await client.query("SELECT jobq.complete($1, $2)", [first.id, first.lease]);
  }), "JQ001");
  assert.match(error.detail, /second/);
  assert.ok(!`${error.message}${error.detail}${error.hint}`.includes(second.lease));
  equal(await value("SELECT to_regclass('effects')"), null);
  equal(await value("SELECT jobq.complete($1, $2)", second.id, second.lease), "completed");
  for (const call of ["complete", "fail", "release", "heartbeat"]) {
    await refused(() => value(`SELECT jobq.${call}($1, $2)`, second.id, second.lease), "JQ002");
  }
  await refused(() => value("SELECT jobq.cancel($1)", randomUUID()), "JQ003");
  await refused(() => value("SELECT jobq.retry($1)", second.id), "JQ004");
});

check("a lease survives JSON.parse, as a number", async () => {
  await enqueue();
  const text = await value("SELECT json_agg(c)::text FROM jobq.claim() AS c");
  const [held] = JSON.parse(JSON.stringify(JSON.parse(text)));
  assert.ok(Number.isSafeInteger(held.lease));
  equal(await value("SELECT jobq.complete($1, $2)", held.id, held.lease), "completed");
});

check("four workers on a pool, each call on whichever connection is free: no job twice, none lost", async () => {
  await value("SELECT jobq.create_queue('pool')");
  const payloads = Array.from({ length: 100 }, (_, n) => ({ n }));
  await rows("SELECT * FROM jobq.enqueue_many('add', $1, 'pool')", JSON.stringify(payloads));
  const done = [];
  const work = async (name) => {
    for (let jobs; (jobs = await rows("SELECT * FROM jobq.claim('pool', worker => $1)", name)).length; ) {
      equal(await value("SELECT jobq.complete($1, $2)", jobs[0].id, jobs[0].lease), "completed");
      done.push(jobs[0].payload.n);
    }
  };
  await Promise.all(["a", "b", "c", "d"].map(work));
  equal(done.sort((a, b) => a - b), payloads.map(({ n }) => n));
});

// Operators

check("reschedule, retry, retry_failed, delete, purge", async () => {
  const id = await enqueue();
  equal(await value("SELECT jobq.reschedule($1, $2, $3, $4)", id, new Date(Date.now() + 3_600_000), 1, null), "pending");
  equal(await rows("SELECT * FROM jobq.claim()"), []);
  equal(await value("SELECT jobq.cancel($1)", id), "cancelled");
  equal(await value("SELECT jobq.retry($1)", id), "pending");
  equal([await value("SELECT jobq.delete($1)", id), await value("SELECT jobq.delete($1)", id)], [true, false]);
  await value("SELECT jobq.create_queue('bin', max_attempts => 1)");
  for (const retried of [true, false]) {
    const held = await claimed("bin");
    equal(await value("SELECT jobq.fail($1, $2, 'down')", held.id, held.lease), "failed");
    if (!retried) break;
    equal(await value("SELECT jobq.retry_failed($1, $2, $3)", "bin", null, null), 1);
    await value("SELECT jobq.cancel($1)", held.id);
  }
  equal(await value("SELECT jobq.purge($1, $2, $3, $4)", "bin", "failed", "0 s", null), "1");
  await refused(() => value("SELECT jobq.purge($1, $2, $3)", "bin", "failed", undefined), "22004");
});

check("queues: create, alter, pause, resume, drop", async () => {
  equal(await value("SELECT jobq.create_queue($1, lease_for => $2, backoff => $3, max_depth => $4)",
    "press", "1 min", { kind: "constant", base: "10s" }, 1), true);
  equal(await value("SELECT lease_seconds FROM jobq.queues WHERE name = $1", "press"), 60);
  const alter = () => value("SELECT jobq.alter_queue('press', keep_completed => $1)", false);
  equal([await alter(), await alter()], [true, false]);
  equal([await value("SELECT jobq.pause('press')"), await value("SELECT jobq.resume('press')")], [true, true]);
  await enqueue("a", "press");
  await refused(() => enqueue("a", "press"), "53400");
  await refused(() => value("SELECT jobq.drop_queue('press')"), "2BP01");
  equal(await value("SELECT jobq.drop_queue($1, $2)", "press", true), "1");
  await refused(() => enqueue("a", "press"), "42704");
});

check("grant_access: a producer enqueues and does not claim; tick, resume_after_restore", async () => {
  const role = process.env.CLIENT_ROLE;
  const as = (sql) => transaction(async (client) => {
    await client.query(`SET LOCAL ROLE ${role}`);
    return client.query(sql);
  });
  equal(await value("SELECT jobq.grant_access($1, $2)", role, "producer"), true);
  await as("SELECT jobq.enqueue('a')");
  await refused(() => as("SELECT * FROM jobq.claim()"), "42501");
  equal(await value("SELECT jobq.revoke_access($1, $2)", role, "producer"), true);
  await refused(() => as("SELECT jobq.enqueue('a')"), "42501");
  assert.ok((await value("SELECT jobq.tick()")) >= 0);
  equal(await value("SELECT jobq.resume_after_restore()"), false);
});

// Looking

check("where state = $1, newest first; stats; version", async () => {
  const [older, newer] = [await enqueue("listed"), await enqueue("listed")];
  const found = await rows("SELECT id, state FROM jobq.jobs WHERE state = $1 AND kind = $2 ORDER BY id DESC", "pending", "listed");
  equal(found, [{ id: newer, state: "pending" }, { id: older, state: "pending" }]);
  equal((await rows("SELECT queue FROM jobq.stats($1)", "default")), [{ queue: "default" }]);
  equal(typeof (await value("SELECT jobq.version()")), "string");
  equal(typeof (await value("SELECT jobq.why('00000000-0000-0000-0000-000000000000')")), "string");
});

check("every column of every row arrives as a JavaScript value of its own", async () => {
  const judge = readAs({
    uuid: isUuid, text: (v) => typeof v === "string", boolean: (v) => typeof v === "boolean", integer: Number.isInteger,
    // bigint is a string, and Number(it) is exact
    bigint: isDigits, "double precision": (v) => typeof v === "number", "timestamp with time zone": (v) => v instanceof Date,
    jsonb: isObject,
  });
  const read = async (rowType, sql, ...values) => {
    const found = await rows(sql, ...values);
    for (const row of found) judge(rowType, row);
    return found;
  };
  await value("SELECT jobq.create_queue('all', timeout => '1 h', max_depth => 50)");
  const one = { kind: "all", queue: "all", payload: { n: 1 }, headers: { h: 1 }, unique_key: "k", max_attempts: 2 };
  await read("enqueued_job", "SELECT * FROM jobq.enqueue_jobs($1)", JSON.stringify([one]));
  await read("enqueued_job", "SELECT * FROM jobq.enqueue_many('all', '[[1],[2]]', queue => 'all')");
  let [held] = await read("claimed_job", "SELECT * FROM jobq.claim('all', worker => 'ada')");
  await value("SELECT jobq.fail($1, $2, 'once', '0 s')", held.id, held.lease);
  await value("SELECT jobq.reschedule($1, priority => 1)", held.id);
  [held] = await read("claimed_job", "SELECT * FROM jobq.claim('all', worker => 'ada')");
  await value("SELECT jobq.heartbeat($1, $2, progress => 12.5, note => 'on it')", held.id, held.lease);
  await read("held_job", "SELECT * FROM jobq.heartbeat_many($1, $2)", [held.id], [held.lease]);
  await read("jobs", "SELECT * FROM jobq.job($1)", held.id);
  await read("queue_stats", "SELECT * FROM jobq.stats()");
  for (const view of contract.views) await read(view, `SELECT * FROM jobq.${view}`);
  await read("finished_job", "SELECT * FROM jobq.complete_many($1, $2, '[[1]]')", [held.id], [held.lease]);
  await read("jobs", "SELECT * FROM jobq.job($1)", held.id);
  await read("check_result", "SELECT * FROM jobq.diagnose()");
  allSeen("check_result.hint");
});

await run(() => pool.end());
