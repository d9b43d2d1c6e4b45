// jobq from Drizzle, on node-postgres and (last) on postgres.js.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { and, desc, eq, sql } from "drizzle-orm";
import { drizzle } from "drizzle-orm/node-postgres";
import { drizzle as drizzlePostgresJs } from "drizzle-orm/postgres-js";
import { doublePrecision, integer, jsonb, pgSchema, pgTable, serial, text, uuid } from "drizzle-orm/pg-core";
import pg from "pg";
import postgres from "postgres";
import { allSeen, check, contract, equal, eventually, isDigits, isObject, isUuid, readAs, refused, run } from "./checks.mjs";

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 4 });
const db = drizzle(pool);

const invoices = pgTable("invoices", { id: serial().primaryKey(), total: integer(), jobId: uuid("job_id") });
const jobs = pgSchema("jobq").view("jobs", {
  id: uuid(), queue: text(), kind: text(), state: text(), payload: jsonb(), result: jsonb(), progress: doublePrecision(),
}).existing();

const rows = async (query, on = db) => (await on.execute(query)).rows;
const value = async (query, on = db) => Object.values((await rows(query, on))[0])[0];
const job = async (id) => (await db.select().from(jobs).where(eq(jobs.id, id)))[0];
const enqueue = (kind = "send_email", queue = null, on = db) => value(sql`SELECT jobq.enqueue(${kind}, queue => ${queue})`, on);
// Drizzle wraps the driver's error.
const state = (error) => error.cause?.code;

/** A job of its own, and held. */
async function claimed(queue = null) {
  await enqueue("send_email", queue);
  return (await rows(sql`SELECT * FROM jobq.claim(${queue}, worker => 'ada')`))[0];
}

// Producers

check("enqueue: JSON.stringify for the payload", async () => {
  const payload = JSON.stringify({ to: "ada@example.org" });
  const { rows: [{ id }] } = await db.execute(sql`SELECT jobq.enqueue('send_email', ${payload}, delay => '90 s') AS id`);
  assert.ok(isUuid(id));
  equal([(await job(id)).payload, (await job(id)).state], [{ to: "ada@example.org" }, "pending"]);
});

check("enqueue: every option NULL, by position; every option by name", async () => {
  const n = null;
  const id = await value(sql`SELECT jobq.enqueue('report', '[1]', ${n}, ${n}, ${n}, ${n}, ${n}, ${n}, ${n}, ${n}, ${n})`);
  equal([(await job(id)).queue, (await job(id)).payload], ["default", [1]]);
  const at = new Date("2031-05-17T08:30:00Z");
  const named = await value(sql`SELECT jobq.enqueue('report', ${"{}"}, queue => ${"default"}, priority => ${1},
    run_at => ${at.toISOString()}, max_attempts => ${5}, timeout => ${"2 min"}, unique_key => ${"daily"},
    headers => ${JSON.stringify({ trace: "4bf9" })}, options => ${JSON.stringify({ unique_while: "pending" })})`);
  const [made] = await rows(sql`SELECT * FROM jobq.job(${named})`);
  equal([new Date(made.run_at), made.priority, made.unique_key], [at, 1, "daily"]);
});

check("a payload encoded twice is refused", async () => {
  await refused(() => db.execute(sql`SELECT jobq.enqueue('a', ${JSON.stringify(JSON.stringify({ a: 1 }))})`), "22023", state);
});

check("enqueue_many: arrays as payloads stay whole, in order; enqueue_jobs: different jobs at once", async () => {
  for (const payloads of [[[1, 2], [3, 4]], [{ n: 1 }, { n: 2 }]]) {
    const made = await rows(sql`SELECT * FROM jobq.enqueue_many('resize', ${JSON.stringify(payloads)})`);
    equal(await Promise.all(made.map(async ({ id }) => (await job(id)).payload)), payloads);
  }
  const several = [{ kind: "sync", unique_key: "k" }, { kind: "report" }, { kind: "sync", unique_key: "k" }];
  const made = await rows(sql`SELECT * FROM jobq.enqueue_jobs(${JSON.stringify(several)})`);
  equal(made.map((row) => row.created), [true, true, false]);
});

check("enqueue and inserts in one transaction: rolled back together, committed together", async () => {
  await db.execute(sql`CREATE TABLE invoices (id serial PRIMARY KEY, total int, job_id uuid)`);
  let lost;
  await assert.rejects(db.transaction(async (tx) => {
    lost = await enqueue("send_invoice", null, tx);
    await tx.insert(invoices).values({ total: 13, jobId: lost });
    throw new RangeError("the program changed its mind");
  }), RangeError);
  equal([await job(lost), await db.$count(invoices)], [undefined, 0]);
  await db.transaction(async (tx) => {
    const [invoice] = await tx.insert(invoices).values({ total: 12 }).returning();
    const payload = JSON.stringify({ invoice: invoice.id });
    const { rows: [{ id }] } = await tx.execute(sql`SELECT jobq.enqueue('send_invoice', ${payload}) AS id`);
    await tx.update(invoices).set({ jobId: id }).where(eq(invoices.id, invoice.id));
  });
  const [sent] = await db.select({ state: jobs.state, total: invoices.total }).from(jobs).innerJoin(invoices, eq(invoices.jobId, jobs.id));
  equal(sent, { state: "pending", total: 12 });
});

// Workers

check("claim, work, complete", async () => {
  await db.execute(sql`SELECT jobq.enqueue('add', ${JSON.stringify({ a: 1, b: 2 })})`);
  const { rows: [held] } = await db.execute(sql`SELECT * FROM jobq.claim(worker => ${"ada"})`);
  const result = JSON.stringify([held.payload.a + held.payload.b]);
  await db.execute(sql`SELECT jobq.complete(${held.id}, ${held.lease}, ${result})`);
  equal([(await job(held.id)).state, (await job(held.id)).result], ["completed", [3]]);
});

check("claim: every argument NULL, by position; several queues, kinds by sql.param; a claim that is rolled back never was", async () => {
  const id = await enqueue();
  await assert.rejects(db.transaction(async (tx) => {
    equal(await rows(sql`SELECT id FROM jobq.claim()`, tx), [{ id }]);
    tx.rollback();
  }));
  const n = null;
  equal(await rows(sql`SELECT id, attempt FROM jobq.claim(${n}, ${n}, ${n}, ${n}, ${n}, ${n})`), [{ id, attempt: 1 }]);
  await value(sql`SELECT jobq.create_queue('high')`);
  const [low, high] = [await enqueue("a"), await enqueue("b", "high")];
  const kinds = sql.param(["a", "b"]); // a bare array would become ($1, $2)
  const several = await rows(sql`SELECT id FROM jobq.claim(${"high,default"}, ${2}, kinds => ${kinds})`);
  equal(several.map((row) => row.id), [high, low]);
});

check("heartbeat: whole and broken progress; heartbeat_many", async () => {
  const held = await claimed();
  for (const progress of [60, 50.5, null]) {
    equal(await value(sql`SELECT jobq.heartbeat(${held.id}, ${held.lease}, ${"9 min"}, ${progress}, ${"on"})`), true);
  }
  equal((await job(held.id)).progress, 50.5);
  const [ids, leases] = [sql.param([held.id, randomUUID()]), sql.param([held.lease, 1])];
  const both = await rows(sql`SELECT * FROM jobq.heartbeat_many(${ids}, ${leases})`);
  equal(both.map((row) => [row.held, row.cancel_requested]), [[true, false], [false, false]]);
});

check("complete_many: a result for each, arrays stay arrays, null is none; on_stale", async () => {
  const held = [await claimed(), await claimed(), await claimed()];
  const ids = held.map((j) => j.id);
  const leases = sql.param([held[0].lease, held[1].lease, Number(held[2].lease) - 1]);
  const results = JSON.stringify([[[1, 2], [3, 4]], null, [3]]);
  const finish = (onStale) => sql`SELECT * FROM jobq.complete_many(${sql.param(ids)}, ${leases}, ${results}, ${onStale})`;
  await refused(() => db.execute(finish(null)), "JQ001", state);
  equal((await rows(finish("skip"))).map((row) => row.completed), [true, true, false]);
  equal(await Promise.all(ids.map(async (id) => (await job(id)).result)), [[[1, 2], [3, 4]], null, null]);
});

check("complete_and_claim: one call ends a job and brings the next one", async () => {
  const [first, second] = [await enqueue("a"), await enqueue("b")];
  const n = null;
  const call = (held, results = n) => {
    const [ids, leases] = [sql.param(held.map((j) => j.id)), sql.param(held.map((j) => j.lease))];
    return sql`SELECT * FROM jobq.complete_and_claim(${ids}, ${leases}, ${results}, ${n}, ${n}, ${"ada"}, ${n}, ${n}, ${n}, ${n})`;
  };
  const held = await rows(call([]));
  equal(held.map(({ id }) => id), [first]);
  const following = await rows(call(held, JSON.stringify([{ n: 7 }])));
  equal(following.map(({ id, kind, payload, attempt }) => [id, kind, payload, attempt]), [[second, "b", {}, 1]]);
  assert.ok(isDigits(following[0].lease));
  equal([(await job(first)).state, (await job(first)).result], ["completed", { n: 7 }]);
  await refused(() => db.execute(call(held)), "JQ002", state);
  equal(await rows(call(following)), []);
  equal((await job(second)).state, "completed");
});

check("claim_wait: an array of objects", async () => {
  const sent = await value(sql`SELECT jobq.enqueue('add', ${JSON.stringify({ a: 1, b: 2 })})`);
  const { rows: [{ jobs }] } = await db.execute(sql`CALL jobq.claim_wait(wait => ${"20 s"}, worker => ${"ada"})`);
  for (const { id, lease, payload } of jobs) {
    const result = JSON.stringify([payload.a + payload.b]);
    await db.execute(sql`SELECT jobq.complete(${id}, ${lease}, ${result})`);
  }
  equal(jobs.map(({ id, attempt, last_error }) => [id, attempt, last_error]), [[sent, 1, null]]);
  assert.ok(Number.isSafeInteger(jobs[0].lease) && jobs[0].lease > 0, `${jobs[0].lease}`);
  equal([(await job(sent)).state, (await job(sent)).result], ["completed", [3]]);
});

check("claim_wait: waits for a job that another connection enqueues; [] when the time is over; every argument by position", async () => {
  const [n, kinds] = [null, sql.param(["a"])];
  const waiting = value(sql`CALL jobq.claim_wait(${n}, ${n}, ${"1 hour"}, ${"ada"}, ${"1 min"}, ${kinds}, ${n}, ${n})`);
  const [[held], id] = await Promise.all([waiting, enqueue("a")]);
  equal([held.id, held.payload], [id, {}]);
  equal(await value(sql`CALL jobq.claim_wait(wait => ${"1 ms"})`), []);
});

check("claim_wait inside a transaction: 25001; outside, an hour's wait is over at once when there is a job", async () => {
  const id = await enqueue();
  const error = await refused(() => db.transaction((tx) => tx.execute(sql`CALL jobq.claim_wait()`)), "25001", state);
  assert.match(error.cause.hint, /autocommit/);
  const [held] = await value(sql`CALL jobq.claim_wait(wait => '1 hour')`);
  equal([held.id, held.attempt], [id, 1]);
});

check("fail, release, cancel", async () => {
  let held = await claimed();
  equal(await value(sql`SELECT jobq.fail(${held.id}, ${held.lease}, ${"no route"}, ${"0 s"})`), "pending");
  [held] = await rows(sql`SELECT * FROM jobq.claim()`);
  equal([held.attempt, held.last_error], [2, "no route"]);
  equal(await value(sql`SELECT jobq.release(${held.id}, ${held.lease}, ${null})`), "pending");
  [held] = await rows(sql`SELECT * FROM jobq.claim()`);
  equal(await value(sql`SELECT jobq.fail(${held.id}, ${held.lease}, retry => ${false})`), "failed");
  held = await claimed();
  equal(await value(sql`SELECT jobq.cancel(${held.id})`), "running");
  equal(await value(sql`SELECT jobq.heartbeat(${held.id}, ${held.lease})`), false);
  equal(await value(sql`SELECT jobq.fail(${held.id}, ${held.lease})`), "cancelled");
});

check("a lost lease is JQ001 and takes the worker's own writes with it; a repeated complete is JQ002", async () => {
  const first = await claimed();
  await eventually(async () => {
    await value(sql`SELECT jobq.rescue_zombies(older_than => ${"1 ms"})`);
    return (await job(first.id)).state === "pending";
  });
  const [second] = await rows(sql`SELECT * FROM jobq.claim(worker => 'second')`);
  const before = await db.$count(invoices);
  const error = await refused(() => db.transaction(async (tx) => {
    await tx.insert(invoices).values({ total: 99 });
    await tx.execute(sql`SELECT jobq.complete(${first.id}, ${first.lease})`);
  }), "JQ001", state);
  assert.match(error.cause.detail, /second/);
  equal(await db.$count(invoices), before);
  equal(await value(sql`SELECT jobq.complete(${second.id}, ${second.lease})`), "completed");
  await refused(() => db.execute(sql`SELECT jobq.complete(${second.id}, ${second.lease})`), "JQ002", state);
  await refused(() => db.execute(sql`SELECT jobq.cancel(${randomUUID()})`), "JQ003", state);
  await refused(() => db.execute(sql`SELECT jobq.retry(${second.id})`), "JQ004", state);
});

check("a lease survives JSON, as a number", async () => {
  await enqueue();
  const [held] = JSON.parse(JSON.stringify(await value(sql`SELECT jsonb_agg(c) FROM jobq.claim() AS c`)));
  assert.ok(Number.isSafeInteger(held.lease));
  equal(await value(sql`SELECT jobq.complete(${held.id}, ${held.lease})`), "completed");
});

// Operators

check("reschedule, retry, retry_failed, delete, purge", async () => {
  const id = await enqueue();
  const later = new Date(Date.now() + 3_600_000).toISOString();
  equal(await value(sql`SELECT jobq.reschedule(${id}, ${later}, ${1}, ${null})`), "pending");
  equal(await value(sql`SELECT jobq.cancel(${id})`), "cancelled");
  equal(await value(sql`SELECT jobq.retry(${id})`), "pending");
  equal([await value(sql`SELECT jobq.delete(${id})`), await value(sql`SELECT jobq.delete(${id})`)], [true, false]);
  await value(sql`SELECT jobq.create_queue('bin', max_attempts => 1)`);
  for (const retried of [true, false]) {
    const held = await claimed("bin");
    equal(await value(sql`SELECT jobq.fail(${held.id}, ${held.lease}, 'down')`), "failed");
    if (!retried) break;
    equal(await value(sql`SELECT jobq.retry_failed(${"bin"}, ${null}, ${null})`), 1);
    await value(sql`SELECT jobq.cancel(${held.id})`);
  }
  equal(await value(sql`SELECT jobq.purge(${"bin"}, ${"failed"}, ${"0 s"}, ${null})`), "1");
  await refused(() => db.execute(sql`SELECT jobq.purge(${"bin"}, ${"failed"}, ${null})`), "22004", state);
});

check("queues: create, alter, pause, resume, drop", async () => {
  const backoff = JSON.stringify({ kind: "constant", base: "10s" });
  equal(await value(sql`SELECT jobq.create_queue('press', lease_for => ${"1 min"}, backoff => ${backoff}, max_depth => ${1})`), true);
  equal(await value(sql`SELECT lease_seconds FROM jobq.queues WHERE name = ${"press"}`), 60);
  const alter = () => value(sql`SELECT jobq.alter_queue('press', keep_completed => ${false})`);
  equal([await alter(), await alter()], [true, false]);
  equal([await value(sql`SELECT jobq.pause('press')`), await value(sql`SELECT jobq.resume('press')`)], [true, true]);
  await enqueue("a", "press");
  await refused(() => enqueue("a", "press"), "53400", state);
  await refused(() => db.execute(sql`SELECT jobq.drop_queue('press')`), "2BP01", state);
  equal(await value(sql`SELECT jobq.drop_queue('press', ${true})`), "1");
  await refused(() => enqueue("a", "press"), "42704", state);
});

check("grant_access, revoke_access, tick, resume_after_restore", async () => {
  const role = process.env.CLIENT_ROLE;
  equal(await value(sql`SELECT jobq.grant_access(${role}, ${"worker"})`), true);
  equal(await value(sql`SELECT jobq.revoke_access(${role}, ${"worker"})`), true);
  assert.ok((await value(sql`SELECT jobq.tick()`)) >= 0);
  equal(await value(sql`SELECT jobq.resume_after_restore()`), false);
});

// Looking

check("the view as a table of the query builder: where state = ..., newest first; stats; version", async () => {
  const [older, newer] = [await enqueue("listed"), await enqueue("listed")];
  const waiting = await db.select().from(jobs).where(and(eq(jobs.state, "pending"), eq(jobs.kind, "listed"))).orderBy(desc(jobs.id));
  equal(waiting.map(({ id, state }) => [id, state]), [[newer, "pending"], [older, "pending"]]);
  equal((await rows(sql`SELECT * FROM jobq.stats(${"default"})`))[0].queue, "default");
  equal(typeof (await value(sql`SELECT jobq.version()`)), "string");
  equal(typeof (await value(sql`SELECT jobq.why('00000000-0000-0000-0000-000000000000')`)), "string");
});

check("every column of every row arrives as a JavaScript value of its own", async () => {
  const judge = readAs({
    uuid: isUuid, text: (v) => typeof v === "string", boolean: (v) => typeof v === "boolean", integer: Number.isInteger,
    // In raw queries Drizzle gives times as the server's text.
    bigint: isDigits, "double precision": (v) => typeof v === "number",
    "timestamp with time zone": (v) => typeof v === "string" && !Number.isNaN(Date.parse(v)), jsonb: isObject,
  });
  const read = async (rowType, query) => {
    const found = await rows(query);
    for (const row of found) judge(rowType, row);
    return found;
  };
  await value(sql`SELECT jobq.create_queue('all', timeout => '1 h', max_depth => 50)`);
  const one = { kind: "all", queue: "all", payload: { n: 1 }, headers: { h: 1 }, unique_key: "k", max_attempts: 2 };
  await read("enqueued_job", sql`SELECT * FROM jobq.enqueue_jobs(${JSON.stringify([one])})`);
  await read("enqueued_job", sql`SELECT * FROM jobq.enqueue_many('all', '[[1],[2]]', queue => 'all')`);
  let [held] = await read("claimed_job", sql`SELECT * FROM jobq.claim('all', worker => 'ada')`);
  await value(sql`SELECT jobq.fail(${held.id}, ${held.lease}, 'once', '0 s')`);
  await value(sql`SELECT jobq.reschedule(${held.id}, priority => 1)`);
  [held] = await read("claimed_job", sql`SELECT * FROM jobq.claim('all', worker => 'ada')`);
  await value(sql`SELECT jobq.heartbeat(${held.id}, ${held.lease}, progress => 12.5, note => 'on it')`);
  const [ids, leases] = [sql.param([held.id]), sql.param([held.lease])];
  await read("held_job", sql`SELECT * FROM jobq.heartbeat_many(${ids}, ${leases})`);
  await read("jobs", sql`SELECT * FROM jobq.job(${held.id})`);
  await read("queue_stats", sql`SELECT * FROM jobq.stats()`);
  for (const view of contract.views) await read(view, sql.raw(`SELECT * FROM jobq.${view}`));
  await read("finished_job", sql`SELECT * FROM jobq.complete_many(${ids}, ${leases}, '[[1]]')`);
  await read("jobs", sql`SELECT * FROM jobq.job(${held.id})`);
  await read("check_result", sql`SELECT * FROM jobq.diagnose()`);
  allSeen("check_result.hint");
});

check("on postgres.js: payloads as JSON.stringify too, times as ISO strings; claim_wait and complete_and_claim", async () => {
  const connection = postgres(process.env.DATABASE_URL, { max: 1, onnotice: () => {} });
  const other = drizzlePostgresJs(connection);
  try {
    const payloads = JSON.stringify([[1, 2], [3, 4]]);
    const made = await other.execute(sql`SELECT * FROM jobq.enqueue_many('resize', ${payloads})`);
    equal(await Promise.all(made.map(async ({ id }) => (await job(id)).payload)), [[1, 2], [3, 4]]);
    const held = await other.execute(sql`SELECT * FROM jobq.claim(batch => ${2}, kinds => ${sql.param(["resize"])})`);
    const [ids, leases] = [sql.param(held.map((j) => j.id)), sql.param(held.map((j) => j.lease))];
    const ended = await other.execute(sql`SELECT * FROM jobq.complete_many(${ids}, ${leases}, ${JSON.stringify([[1], null])})`);
    equal(ended.map((row) => row.completed), [true, true]);
    equal((await job(held[0].id)).result, [1]);
    await refused(() => other.execute(sql`SELECT jobq.complete(${held[0].id}, ${held[0].lease})`), "JQ002", state);
    await other.execute(sql`SELECT jobq.enqueue('resize', ${JSON.stringify([5])})`);
    const [{ jobs: waited }] = await other.execute(sql`CALL jobq.claim_wait(wait => ${"20 s"}, worker => ${"ada"})`);
    equal(waited.map((j) => j.payload), [[5]]);
    const [mine, its] = [sql.param([waited[0].id]), sql.param([waited[0].lease])];
    equal([...(await other.execute(sql`SELECT * FROM jobq.complete_and_claim(${mine}, ${its})`))], []);
    equal((await job(waited[0].id)).state, "completed");
    await refused(() => other.transaction((tx) => tx.execute(sql`CALL jobq.claim_wait()`)), "25001", state);
  } finally {
    await connection.end();
  }
});

await run(() => pool.end());
