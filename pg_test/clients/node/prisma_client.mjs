// jobq from Prisma 7 with its pg adapter.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { PrismaPg } from "@prisma/adapter-pg";
import prismaClient from "./prisma/index.js";
import { allSeen, check, contract, equal, eventually, isObject, isUuid, readAs, refused, run } from "./checks.mjs";

const { Prisma, PrismaClient } = prismaClient;
const prisma = new PrismaClient({ adapter: new PrismaPg({ connectionString: process.env.DATABASE_URL, max: 4 }) });

const value = async (query, on = prisma) => Object.values((await on.$queryRaw(query))[0])[0];
const job = (id) => prisma.job.findUnique({ where: { id } });
const { sql } = Prisma;
const enqueue = (kind = "send_email", queue = null, on = prisma) => value(sql`SELECT jobq.enqueue(${kind}, queue => ${queue})`, on);
// Raw queries fail with P2010; the server's own words are inside.
const server = (error) => error.meta?.driverAdapterError?.cause ?? {};
const state = (error) => server(error).originalCode;

/** A job of its own, and held. */
async function claimed(queue = null) {
  await enqueue("send_email", queue);
  return (await prisma.$queryRaw`SELECT * FROM jobq.claim(${queue}, worker => 'ada')`)[0];
}

// Producers

check("enqueue: a plain object as payload, JSON.stringify for an array", async () => {
  const [{ id }] = await prisma.$queryRaw`SELECT jobq.enqueue('send_email', ${{ to: "ada@example.org" }}, delay => '90 s') AS id`;
  assert.ok(isUuid(id));
  const made = await job(id);
  equal([made.payload, made.state, made.queue], [{ to: "ada@example.org" }, "pending", "default"]);
  equal((await job(await value(sql`SELECT jobq.enqueue('a', ${JSON.stringify([1, [2]])})`))).payload, [1, [2]]);
});

check("enqueue: every option NULL, by position; every option by name", async () => {
  const n = null;
  const id = await value(sql`SELECT jobq.enqueue('report', ${{}}, ${n}, ${n}, ${n}, ${n}, ${n}, ${n}, ${n}, ${n}, ${n})`);
  equal([(await job(id)).queue, (await job(id)).priority], ["default", 2]);
  const at = new Date("2031-05-17T08:30:00Z");
  const named = await value(sql`SELECT jobq.enqueue('report', ${{}}, queue => ${"default"}, priority => ${1}, run_at => ${at},
    max_attempts => ${5}, timeout => ${"2 min"}, unique_key => ${"daily"}, headers => ${{ trace: "4bf9" }},
    options => ${{ unique_while: "pending" }})`);
  const [made] = await prisma.$queryRaw`SELECT * FROM jobq.job(${named})`;
  equal([made.run_at, made.priority, made.unique_key, made.headers], [at, 1, "daily", { trace: "4bf9" }]);
});

check("a payload encoded twice is refused", async () => {
  const twice = JSON.stringify(JSON.stringify({ a: 1 }));
  const error = await refused(() => prisma.$queryRaw`SELECT jobq.enqueue('a', ${twice})`, "22023", state);
  assert.match(server(error).hint, /twice/);
});

check("enqueue_many: arrays as payloads stay whole, in order; enqueue_jobs: different jobs at once", async () => {
  for (const payloads of [[[1, 2], [3, 4]], [{ n: 1 }, { n: 2 }]]) {
    const made = await prisma.$queryRaw`SELECT * FROM jobq.enqueue_many('resize', ${JSON.stringify(payloads)})`;
    equal(await Promise.all(made.map(async ({ id }) => (await job(id)).payload)), payloads);
  }
  const several = [{ kind: "sync", unique_key: "k" }, { kind: "report" }, { kind: "sync", unique_key: "k" }];
  const made = await prisma.$queryRaw`SELECT * FROM jobq.enqueue_jobs(${JSON.stringify(several)})`;
  equal(made.map((row) => row.created), [true, true, false]);
});

check("enqueue and models in one $transaction: rolled back together, committed together", async () => {
  await prisma.$executeRaw`CREATE TABLE invoices (id serial PRIMARY KEY, total int NOT NULL, job_id uuid)`;
  let lost;
  await assert.rejects(prisma.$transaction(async (tx) => {
    lost = await enqueue("send_invoice", null, tx);
    await tx.invoice.create({ data: { total: 13, jobId: lost } });
    throw new RangeError("the program changed its mind");
  }), RangeError);
  equal([await job(lost), await prisma.invoice.count()], [null, 0]);
  await prisma.$transaction(async (tx) => {
    const invoice = await tx.invoice.create({ data: { total: 12 } });
    const [{ id }] = await tx.$queryRaw`SELECT jobq.enqueue('send_invoice', ${{ invoice: invoice.id }}) AS id`;
    await tx.invoice.update({ where: { id: invoice.id }, data: { jobId: id } });
  });
  const invoice = await prisma.invoice.findFirst({ where: { total: 12 } });
  equal([(await job(invoice.jobId)).state, (await job(invoice.jobId)).payload], ["pending", { invoice: invoice.id }]);
});

// Workers

check("claim, work, complete by $queryRaw", async () => {
  await prisma.$queryRaw`SELECT jobq.enqueue('add', ${{ a: 1, b: 2 }})`;
  const [held] = await prisma.$queryRaw`SELECT * FROM jobq.claim(worker => ${"ada"})`;
  const result = JSON.stringify([held.payload.a + held.payload.b]);
  await prisma.$queryRaw`SELECT jobq.complete(${held.id}, ${held.lease}, ${result})`;
  equal([(await job(held.id)).state, (await job(held.id)).result], ["completed", [3]]);
});

check("claim: every argument NULL, by position; several queues, kinds; a claim that is rolled back never was", async () => {
  const id = await enqueue();
  await assert.rejects(prisma.$transaction(async (tx) => {
    equal(await tx.$queryRaw`SELECT id FROM jobq.claim()`, [{ id }]);
    throw new RangeError();
  }), RangeError);
  const n = null;
  equal(await prisma.$queryRaw`SELECT id, attempt FROM jobq.claim(${n}, ${n}, ${n}, ${n}, ${n}, ${n})`, [{ id, attempt: 1 }]);
  await value(sql`SELECT jobq.create_queue('high')`);
  const [low, high] = [await enqueue("a"), await enqueue("b", "high")];
  const several = await prisma.$queryRaw`SELECT id FROM jobq.claim(${"high,default"}, ${2}, kinds => ${["a", "b"]}, lease_for => ${"1 min"})`;
  equal(several.map((row) => row.id), [high, low]);
});

check("heartbeat: whole and broken progress; heartbeat_many", async () => {
  const held = await claimed();
  for (const progress of [60, 50.5, null]) {
    equal(await value(sql`SELECT jobq.heartbeat(${held.id}, ${held.lease}, ${"9 min"}, ${progress}, ${"on"})`), true);
  }
  equal((await job(held.id)).progress, 50.5);
  const both = await prisma.$queryRaw`SELECT * FROM jobq.heartbeat_many(${[held.id, randomUUID()]}, ${[held.lease, 1n]})`;
  equal(both.map((row) => [row.held, row.cancel_requested]), [[true, false], [false, false]]);
});

check("complete_many: a result for each, arrays stay arrays, null is none; on_stale", async () => {
  const held = [await claimed(), await claimed(), await claimed()];
  const ids = held.map((j) => j.id);
  const leases = [held[0].lease, held[1].lease, held[2].lease - 1n];
  const results = JSON.stringify([[[1, 2], [3, 4]], null, [3]]);
  const finish = (onStale) => prisma.$queryRaw`SELECT * FROM jobq.complete_many(${ids}, ${leases}, ${results}, ${onStale})`;
  await refused(() => finish(null), "JQ001", state);
  equal((await finish("skip")).map((row) => row.completed), [true, true, false]);
  equal(await Promise.all(ids.map(async (id) => (await job(id)).result)), [[[1, 2], [3, 4]], null, null]);
});

check("complete_and_claim: one call ends a job and brings the next one", async () => {
  const [first, second] = [await enqueue("a"), await enqueue("b")];
  const n = null;
  const call = (held, results = n) => {
    const [ids, leases] = [held.map((j) => j.id), held.map((j) => j.lease)];
    return sql`SELECT * FROM jobq.complete_and_claim(${ids}, ${leases}, ${results}, ${n}, ${n}, ${"ada"}, ${n}, ${n}, ${n}, ${n})`;
  };
  const held = await prisma.$queryRaw(call([]));
  equal(held.map(({ id }) => id), [first]);
  const following = await prisma.$queryRaw(call(held, JSON.stringify([{ n: 7 }])));
  equal(following.map(({ id, kind, payload, attempt }) => [id, kind, payload, attempt]), [[second, "b", {}, 1]]);
  assert.ok(typeof following[0].lease === "bigint" && following[0].run_at instanceof Date);
  equal([(await job(first)).state, (await job(first)).result], ["completed", { n: 7 }]);
  await refused(() => prisma.$queryRaw(call(held)), "JQ002", state);
  equal(await prisma.$queryRaw(call(following)), []);
  equal((await job(second)).state, "completed");
});

check("claim_wait by $queryRaw: an array of objects", async () => {
  const sent = await value(sql`SELECT jobq.enqueue('add', ${{ a: 1, b: 2 }})`);
  const [{ jobs }] = await prisma.$queryRaw`CALL jobq.claim_wait(wait => ${"20 s"}, worker => ${"ada"})`;
  for (const { id, lease, payload } of jobs) {
    await prisma.$queryRaw`SELECT jobq.complete(${id}, ${lease}, ${{ sum: payload.a + payload.b }})`;
  }
  equal(jobs.map(({ id, attempt, last_error }) => [id, attempt, last_error]), [[sent, 1, null]]);
  assert.ok(Number.isSafeInteger(jobs[0].lease) && jobs[0].lease > 0, `${jobs[0].lease}`);
  equal([(await job(sent)).state, (await job(sent)).result], ["completed", { sum: 3 }]);
});

check("claim_wait: waits for a job that another connection enqueues; [] when the time is over; every argument by position", async () => {
  const n = null;
  const waiting = value(sql`CALL jobq.claim_wait(${n}, ${n}, ${"1 hour"}, ${"ada"}, ${"1 min"}, ${["a"]}, ${n}, ${n})`);
  const [[held], id] = await Promise.all([waiting, enqueue("a")]);
  equal([held.id, held.payload], [id, {}]);
  equal(await value(sql`CALL jobq.claim_wait(wait => ${"1 ms"})`), []);
});

check("claim_wait inside $transaction: 25001; outside, an hour's wait is over at once when there is a job", async () => {
  const id = await enqueue();
  const error = await refused(() => prisma.$transaction((tx) => tx.$queryRaw`CALL jobq.claim_wait()`), "25001", state);
  assert.match(server(error).hint, /autocommit/);
  const [held] = await value(sql`CALL jobq.claim_wait(wait => '1 hour')`);
  equal([held.id, held.attempt], [id, 1]);
});

check("fail, release, cancel", async () => {
  let held = await claimed();
  equal(await value(sql`SELECT jobq.fail(${held.id}, ${held.lease}, ${"no route"}, ${"0 s"})`), "pending");
  [held] = await prisma.$queryRaw`SELECT * FROM jobq.claim()`;
  equal([held.attempt, held.last_error], [2, "no route"]);
  equal(await value(sql`SELECT jobq.release(${held.id}, ${held.lease}, ${null})`), "pending");
  [held] = await prisma.$queryRaw`SELECT * FROM jobq.claim()`;
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
  const [second] = await prisma.$queryRaw`SELECT * FROM jobq.claim(worker => 'second')`;
  const before = await prisma.invoice.count();
  const error = await refused(() => prisma.$transaction(async (tx) => {
    await tx.invoice.create({ data: { total: 99 } });
    await tx.$queryRaw`SELECT jobq.complete(${first.id}, ${first.lease})`;
  }), "JQ001", state);
  equal(error.code, "P2010");
  assert.match(server(error).detail, /second/);
  equal(await prisma.invoice.count(), before);
  equal(await value(sql`SELECT jobq.complete(${second.id}, ${second.lease})`), "completed");
  await refused(() => prisma.$queryRaw`SELECT jobq.complete(${second.id}, ${second.lease})`, "JQ002", state);
  await refused(() => prisma.$queryRaw`SELECT jobq.cancel(${randomUUID()})`, "JQ003", state);
  await refused(() => prisma.$queryRaw`SELECT jobq.retry(${second.id})`, "JQ004", state);
});

check("a lease survives JSON: Number(lease), since JSON.stringify refuses a BigInt", async () => {
  await enqueue();
  const [row] = await prisma.$queryRaw`SELECT id, lease FROM jobq.claim()`;
  assert.throws(() => JSON.stringify(row), TypeError);
  const held = JSON.parse(JSON.stringify({ ...row, lease: Number(row.lease) }));
  equal(BigInt(held.lease), row.lease);
  equal(await value(sql`SELECT jobq.complete(${held.id}, ${held.lease})`), "completed");
});

// Operators

check("reschedule, retry, retry_failed, delete, purge", async () => {
  const id = await enqueue();
  equal(await value(sql`SELECT jobq.reschedule(${id}, ${new Date(Date.now() + 3_600_000)}, ${1}, ${null})`), "pending");
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
  equal(await value(sql`SELECT jobq.purge(${"bin"}, ${"failed"}, ${"0 s"}, ${null})`), 1n);
  await refused(() => prisma.$queryRaw`SELECT jobq.purge(${"bin"}, ${"failed"}, ${null})`, "22004", state);
});

check("queues: create, alter, pause, resume, drop", async () => {
  const backoff = { kind: "constant", base: "10s" };
  equal(await value(sql`SELECT jobq.create_queue('press', lease_for => ${"1 min"}, backoff => ${backoff}, max_depth => ${1})`), true);
  equal(await value(sql`SELECT lease_seconds FROM jobq.queues WHERE name = ${"press"}`), 60);
  const alter = () => value(sql`SELECT jobq.alter_queue('press', keep_completed => ${false})`);
  equal([await alter(), await alter()], [true, false]);
  equal([await value(sql`SELECT jobq.pause('press')`), await value(sql`SELECT jobq.resume('press')`)], [true, true]);
  await enqueue("a", "press");
  await refused(() => enqueue("a", "press"), "53400", state);
  await refused(() => prisma.$queryRaw`SELECT jobq.drop_queue('press')`, "2BP01", state);
  equal(await value(sql`SELECT jobq.drop_queue('press', ${true})`), 1n);
  await refused(() => enqueue("a", "press"), "42704", state);
});

check("grant_access, revoke_access, tick, resume_after_restore", async () => {
  const role = process.env.CLIENT_ROLE;
  equal(await value(sql`SELECT jobq.grant_access(${role}, ${"reader"})`), true);
  equal(await value(sql`SELECT jobq.revoke_access(${role}, ${"reader"})`), true);
  assert.ok((await value(sql`SELECT jobq.tick()`)) >= 0);
  equal(await value(sql`SELECT jobq.resume_after_restore()`), false);
});

// Looking

check("the view as a model: where state, newest first; stats; version", async () => {
  const [older, newer] = [await enqueue("listed"), await enqueue("listed")];
  const waiting = await prisma.job.findMany({ where: { state: "pending", kind: "listed" }, orderBy: { id: "desc" } });
  equal(waiting.map(({ id, state }) => [id, state]), [[newer, "pending"], [older, "pending"]]);
  equal((await prisma.$queryRaw`SELECT * FROM jobq.stats(${"default"})`)[0].queue, "default");
  equal(typeof (await value(sql`SELECT jobq.version()`)), "string");
  equal(typeof (await value(sql`SELECT jobq.why('00000000-0000-0000-0000-000000000000')`)), "string");
});

check("every column of every row arrives as a JavaScript value of its own", async () => {
  const judge = readAs({
    uuid: isUuid, text: (v) => typeof v === "string", boolean: (v) => typeof v === "boolean", integer: Number.isInteger,
    bigint: (v) => typeof v === "bigint" && Number.isSafeInteger(Number(v)), "double precision": (v) => typeof v === "number",
    "timestamp with time zone": (v) => v instanceof Date, jsonb: isObject,
  });
  const read = async (rowType, query) => {
    const found = await prisma.$queryRaw(query);
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
  await read("held_job", sql`SELECT * FROM jobq.heartbeat_many(${[held.id]}, ${[held.lease]})`);
  await read("jobs", sql`SELECT * FROM jobq.job(${held.id})`);
  await read("queue_stats", sql`SELECT * FROM jobq.stats()`);
  for (const view of contract.views) await read(view, Prisma.raw(`SELECT * FROM jobq.${view}`));
  await read("finished_job", sql`SELECT * FROM jobq.complete_many(${[held.id]}, ${[held.lease]}, '[[1]]')`);
  await read("jobs", sql`SELECT * FROM jobq.job(${held.id})`);
  await read("check_result", sql`SELECT * FROM jobq.diagnose()`);
  allSeen("check_result.hint");
});

await run(() => prisma.$disconnect());
