// jobq from postgres.js.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import postgres from "postgres";
import { allSeen, check, contract, equal, eventually, isDigits, isObject, isUuid, readAs, refused, run } from "./checks.mjs";

const sql = postgres(process.env.DATABASE_URL, { max: 4, onnotice: () => {} });

const value = async (query) => Object.values((await query)[0])[0];
const job = async (id) => (await sql`SELECT * FROM jobq.job(${id})`)[0];
const enqueue = (kind = "send_email", queue = null) => value(sql`SELECT jobq.enqueue(${kind}, queue => ${queue})`);

/** A job of its own, and held. */
async function claimed(queue = null) {
  await enqueue("send_email", queue);
  return (await sql`SELECT * FROM jobq.claim(${queue}, worker => 'ada')`)[0];
}

// Producers

check("enqueue: sql.json or a plain object as payload, arrays by sql.json", async () => {
  const [{ id }] = await sql`SELECT jobq.enqueue('send_email', ${sql.json({ to: "ada@example.org" })}, delay => '90 s') AS id`;
  assert.ok(isUuid(id));
  equal((await job(id)).payload, { to: "ada@example.org" });
  equal((await job(await value(sql`SELECT jobq.enqueue('a', ${{ n: 1 }})`))).payload, { n: 1 });
  equal((await job(await value(sql`SELECT jobq.enqueue('a', ${sql.json([1, [2]])})`))).payload, [1, [2]]);
});

check("JSON.stringify would encode the payload twice: refused", async () => {
  const error = await refused(() => sql`SELECT jobq.enqueue('a', ${JSON.stringify({ a: 1 })})`, "22023");
  assert.match(error.hint, /twice/);
});

check("enqueue: every option NULL, by position; every option by name", async () => {
  const n = null;
  const id = await value(sql`SELECT jobq.enqueue('report', ${{}}, ${n}, ${n}, ${n}, ${n}, ${n}, ${n}, ${n}, ${n}, ${n})`);
  equal([(await job(id)).queue, (await job(id)).priority], ["default", 2]);
  const at = new Date("2031-05-17T08:30:00Z");
  const named = await job(await value(sql`SELECT jobq.enqueue('report', ${{}}, queue => ${"default"}, priority => ${1}, run_at => ${at},
    max_attempts => ${5}, timeout => ${"2 min"}, unique_key => ${"daily"}, headers => ${{ trace: "4bf9" }},
    options => ${{ unique_while: "pending" }})`));
  equal([named.priority, named.run_at, named.max_attempts, named.unique_key, named.headers], [1, at, 5, "daily", { trace: "4bf9" }]);
});

check("enqueue_many: arrays as payloads stay whole, in order; enqueue_jobs: different jobs at once", async () => {
  for (const payloads of [[[1, 2], [3, 4]], [{ n: 1 }, { n: 2 }]]) {
    const made = await sql`SELECT * FROM jobq.enqueue_many('resize', ${sql.json(payloads)})`;
    equal(await Promise.all(made.map(async ({ id }) => (await job(id)).payload)), payloads);
  }
  const jobs = [{ kind: "sync", unique_key: "k" }, { kind: "report", payload: [1] }, { kind: "sync", unique_key: "k" }];
  const made = await sql`SELECT * FROM jobq.enqueue_jobs(${sql.json(jobs)})`;
  equal(made.map((row) => row.created), [true, true, false]);
});

check("enqueue is part of the caller's transaction", async () => {
  await sql`CREATE TABLE invoices (id int GENERATED ALWAYS AS IDENTITY, job_id uuid)`;
  const send = async (tx) => {
    const [{ id }] = await tx`SELECT jobq.enqueue('send_invoice', ${tx.json({ total: 12 })}) AS id`;
    await tx`INSERT INTO invoices (job_id) VALUES (${id})`;
    return id;
  };
  const kept = await sql.begin(send);
  let lost;
  await assert.rejects(sql.begin(async (tx) => {
    lost = await send(tx);
    throw new RangeError("the program changed its mind");
  }), RangeError);
  equal(await job(lost), undefined);
  equal((await sql`SELECT id FROM jobq.claim(batch => 10)`).map((row) => row.id), [kept]);
  equal(await value(sql`SELECT count(*)::int FROM invoices`), 1);
});

// Workers

check("claim, work, complete", async () => {
  await sql`SELECT jobq.enqueue('add', ${{ a: 1, b: 2 }})`;
  const jobs = await sql`SELECT * FROM jobq.claim(batch => ${10}, worker => ${"ada"})`;
  for (const { id, lease, payload } of jobs) {
    const result = [payload.a + payload.b];
    await sql`SELECT jobq.complete(${id}, ${lease}, ${sql.json(result)})`;
  }
  equal([(await job(jobs[0].id)).state, (await job(jobs[0].id)).result], ["completed", [3]]);
});

check("claim: every argument NULL, by position; several queues, kinds; a claim that is rolled back never was", async () => {
  const id = await enqueue();
  await assert.rejects(sql.begin(async (tx) => {
    equal((await tx`SELECT id FROM jobq.claim()`).map((row) => row.id), [id]);
    throw new RangeError();
  }), RangeError);
  const n = null;
  equal([...(await sql`SELECT id, attempt FROM jobq.claim(${n}, ${n}, ${n}, ${n}, ${n}, ${n})`)], [{ id, attempt: 1 }]);
  await sql`SELECT jobq.create_queue('high')`;
  const [low, high] = [await enqueue("a"), await enqueue("b", "high")];
  const several = await sql`SELECT id FROM jobq.claim(${"high,default"}, ${2}, kinds => ${["a", "b"]}, lease_for => ${"1 min"})`;
  equal(several.map((row) => row.id), [high, low]);
});

check("heartbeat: whole and broken progress; heartbeat_many", async () => {
  const held = await claimed();
  for (const progress of [60, 50.5, null]) {
    equal(await value(sql`SELECT jobq.heartbeat(${held.id}, ${held.lease}, ${"9 min"}, ${progress}, ${"on"})`), true);
  }
  equal((await job(held.id)).progress, 50.5);
  const both = await sql`SELECT * FROM jobq.heartbeat_many(${[held.id, randomUUID()]}, ${[held.lease, 1]})`;
  equal(both.map((row) => [row.held, row.cancel_requested]), [[true, false], [false, false]]);
});

check("complete_many: a result for each, arrays stay arrays, null is none; on_stale", async () => {
  const jobs = [await claimed(), await claimed(), await claimed()];
  const ids = jobs.map((j) => j.id);
  const leases = [jobs[0].lease, jobs[1].lease, Number(jobs[2].lease) - 1];
  const results = sql.json([[[1, 2], [3, 4]], null, [3]]);
  await refused(() => sql`SELECT * FROM jobq.complete_many(${ids}, ${leases}, ${results}, ${null})`, "JQ001");
  const ended = await sql`SELECT * FROM jobq.complete_many(${ids}, ${leases}, ${results}, ${"skip"})`;
  equal(ended.map((row) => row.completed), [true, true, false]);
  equal(await Promise.all(ids.map(async (id) => (await job(id)).result)), [[[1, 2], [3, 4]], null, null]);
});

check("complete_and_claim: one call ends a job and brings the next one", async () => {
  const [first, second] = [await enqueue("a"), await enqueue("b")];
  const [held] = await sql`SELECT * FROM jobq.complete_and_claim(${[]}, ${[]})`;
  equal(held.id, first);
  const results = sql.json([{ n: 7 }]);
  const [following] = await sql`SELECT * FROM jobq.complete_and_claim(${[held.id]}, ${[held.lease]}, ${results}, worker => ${"ada"})`;
  equal([following.id, following.kind, following.payload, following.attempt], [second, "b", {}, 1]);
  assert.ok(isDigits(following.lease) && following.run_at instanceof Date);
  equal([(await job(first)).state, (await job(first)).result, (await job(second)).worker], ["completed", { n: 7 }, "ada"]);
  await refused(() => sql`SELECT * FROM jobq.complete_and_claim(${[held.id]}, ${[held.lease]})`, "JQ002");
  const [n, ids, leases] = [null, [following.id], [following.lease]];
  const last = await sql`SELECT * FROM jobq.complete_and_claim(${ids}, ${leases}, ${n}, ${n}, ${n}, ${n}, ${n}, ${n}, ${n}, ${n})`;
  equal([last.length, (await job(second)).state], [0, "completed"]);
});

check("claim_wait: an array of objects", async () => {
  const sent = await value(sql`SELECT jobq.enqueue('add', ${{ a: 1, b: 2 }})`);
  const [{ jobs }] = await sql`CALL jobq.claim_wait(wait => ${"20 s"}, worker => ${"ada"})`;
  for (const { id, lease, payload } of jobs) {
    await sql`SELECT jobq.complete(${id}, ${lease}, ${{ sum: payload.a + payload.b }})`;
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

check("claim_wait inside a transaction: 25001; outside, an hour's wait is over at once when there is a job", async () => {
  const id = await enqueue();
  const error = await refused(() => sql.begin((tx) => tx`CALL jobq.claim_wait()`), "25001");
  assert.match(error.hint, /autocommit/);
  const [held] = await value(sql`CALL jobq.claim_wait(wait => '1 hour')`);
  equal([held.id, held.attempt], [id, 1]);
});

check("fail, release, cancel", async () => {
  let held = await claimed();
  equal(await value(sql`SELECT jobq.fail(${held.id}, ${held.lease}, ${"no route"}, ${"0 s"})`), "pending");
  [held] = await sql`SELECT * FROM jobq.claim()`;
  equal([held.attempt, held.last_error], [2, "no route"]);
  equal(await value(sql`SELECT jobq.release(${held.id}, ${held.lease}, ${null})`), "pending");
  [held] = await sql`SELECT * FROM jobq.claim()`;
  equal(await value(sql`SELECT jobq.fail(${held.id}, ${held.lease}, retry => ${false})`), "failed");
  held = await claimed();
  equal(await value(sql`SELECT jobq.cancel(${held.id})`), "running");
  equal(await value(sql`SELECT jobq.heartbeat(${held.id}, ${held.lease})`), false);
  equal(await value(sql`SELECT jobq.fail(${held.id}, ${held.lease})`), "cancelled");
});

check("a lost lease is JQ001 and takes the worker's own writes with it; a repeated complete is JQ002", async () => {
  const first = await claimed();
  await eventually(async () => {
    await sql`SELECT jobq.rescue_zombies(older_than => ${"1 ms"})`;
    return (await job(first.id)).state === "pending";
  });
  const [second] = await sql`SELECT * FROM jobq.claim(worker => 'second')`;
  const error = await refused(() => sql.begin(async (tx) => {
    await tx`CREATE TABLE effects ()`;
    await tx`SELECT jobq.complete(${first.id}, ${first.lease})`;
  }), "JQ001");
  assert.match(error.detail, /second/);
  assert.ok(!`${error.message}${error.detail}${error.hint}`.includes(second.lease));
  equal(await value(sql`SELECT to_regclass('effects')`), null);
  equal(await value(sql`SELECT jobq.complete(${second.id}, ${second.lease})`), "completed");
  await refused(() => sql`SELECT jobq.complete(${second.id}, ${second.lease})`, "JQ002");
  await refused(() => sql`SELECT jobq.heartbeat(${second.id}, ${second.lease})`, "JQ002");
  await refused(() => sql`SELECT jobq.cancel(${randomUUID()})`, "JQ003");
  await refused(() => sql`SELECT jobq.retry(${second.id})`, "JQ004");
});

check("a lease survives JSON, as a number", async () => {
  await enqueue();
  // jsonb_agg gives rows as an HTTP gateway does: the driver has parsed the lease as a number.
  const [held] = JSON.parse(JSON.stringify(await value(sql`SELECT jsonb_agg(c) FROM jobq.claim() AS c`)));
  assert.ok(Number.isSafeInteger(held.lease));
  equal(await value(sql`SELECT jobq.complete(${held.id}, ${held.lease})`), "completed");
});

check("four workers on a pool, each call on whichever connection is free: no job twice, none lost", async () => {
  await sql`SELECT jobq.create_queue('pool')`;
  const payloads = Array.from({ length: 100 }, (_, n) => ({ n }));
  await sql`SELECT * FROM jobq.enqueue_many('add', ${sql.json(payloads)}, 'pool')`;
  const done = [];
  const work = async (name) => {
    for (let jobs; (jobs = await sql`SELECT * FROM jobq.claim('pool', worker => ${name})`).length; ) {
      equal(await value(sql`SELECT jobq.complete(${jobs[0].id}, ${jobs[0].lease})`), "completed");
      done.push(jobs[0].payload.n);
    }
  };
  await Promise.all(["a", "b", "c", "d"].map(work));
  equal(done.sort((a, b) => a - b), payloads.map(({ n }) => n));
});

// Operators

check("reschedule, retry, retry_failed, delete, purge", async () => {
  const id = await enqueue();
  equal(await value(sql`SELECT jobq.reschedule(${id}, ${new Date(Date.now() + 3_600_000)}, ${1}, ${null})`), "pending");
  equal(await value(sql`SELECT jobq.cancel(${id})`), "cancelled");
  equal(await value(sql`SELECT jobq.retry(${id})`), "pending");
  equal([await value(sql`SELECT jobq.delete(${id})`), await value(sql`SELECT jobq.delete(${id})`)], [true, false]);
  await sql`SELECT jobq.create_queue('bin', max_attempts => 1)`;
  for (const retried of [true, false]) {
    const held = await claimed("bin");
    equal(await value(sql`SELECT jobq.fail(${held.id}, ${held.lease}, 'down')`), "failed");
    if (!retried) break;
    equal(await value(sql`SELECT jobq.retry_failed(${"bin"}, ${null}, ${null})`), 1);
    await sql`SELECT jobq.cancel(${held.id})`;
  }
  equal(await value(sql`SELECT jobq.purge(${"bin"}, ${"failed"}, ${"0 s"}, ${null})`), "1");
  await refused(() => sql`SELECT jobq.purge(${"bin"}, ${"failed"}, ${null})`, "22004");
});

check("queues: create, alter, pause, resume, drop", async () => {
  const backoff = { kind: "constant", base: "10s" };
  equal(await value(sql`SELECT jobq.create_queue('press', lease_for => ${"1 min"}, backoff => ${backoff}, max_depth => ${1})`), true);
  equal(await value(sql`SELECT lease_seconds FROM jobq.queues WHERE name = ${"press"}`), 60);
  const alter = () => value(sql`SELECT jobq.alter_queue('press', keep_completed => ${false})`);
  equal([await alter(), await alter()], [true, false]);
  equal([await value(sql`SELECT jobq.pause('press')`), await value(sql`SELECT jobq.resume('press')`)], [true, true]);
  await enqueue("a", "press");
  await refused(() => enqueue("a", "press"), "53400");
  await refused(() => sql`SELECT jobq.drop_queue('press')`, "2BP01");
  equal(await value(sql`SELECT jobq.drop_queue('press', ${true})`), "1");
  await refused(() => enqueue("a", "press"), "42704");
});

check("grant_access, revoke_access, tick, resume_after_restore", async () => {
  const role = process.env.CLIENT_ROLE;
  equal(await value(sql`SELECT jobq.grant_access(${role}, ${"admin"})`), true);
  equal(await value(sql`SELECT jobq.revoke_access(${role}, ${"admin"})`), true);
  assert.ok((await value(sql`SELECT jobq.tick()`)) >= 0);
  equal(await value(sql`SELECT jobq.resume_after_restore()`), false);
});

// Looking

check("where state = ${...}, newest first; stats; version", async () => {
  const [older, newer] = [await enqueue("listed"), await enqueue("listed")];
  const found = await sql`SELECT id FROM jobq.jobs WHERE state = ${"pending"} AND kind = ${"listed"} ORDER BY id DESC`;
  equal(found.map((row) => row.id), [newer, older]);
  equal((await sql`SELECT * FROM jobq.stats(${"default"})`)[0].queue, "default");
  equal(typeof (await value(sql`SELECT jobq.version()`)), "string");
  equal(typeof (await value(sql`SELECT jobq.why('00000000-0000-0000-0000-000000000000')`)), "string");
});

check("every column of every row arrives as a JavaScript value of its own", async () => {
  const judge = readAs({
    uuid: isUuid, text: (v) => typeof v === "string", boolean: (v) => typeof v === "boolean", integer: Number.isInteger,
    bigint: isDigits, "double precision": (v) => typeof v === "number", "timestamp with time zone": (v) => v instanceof Date,
    jsonb: isObject,
  });
  const read = async (rowType, query) => {
    const found = await query;
    for (const row of found) judge(rowType, row);
    return found;
  };
  await sql`SELECT jobq.create_queue('all', timeout => '1 h', max_depth => 50)`;
  const one = { kind: "all", queue: "all", payload: { n: 1 }, headers: { h: 1 }, unique_key: "k", max_attempts: 2 };
  await read("enqueued_job", sql`SELECT * FROM jobq.enqueue_jobs(${sql.json([one])})`);
  await read("enqueued_job", sql`SELECT * FROM jobq.enqueue_many('all', '[[1],[2]]', queue => 'all')`);
  let [held] = await read("claimed_job", sql`SELECT * FROM jobq.claim('all', worker => 'ada')`);
  await sql`SELECT jobq.fail(${held.id}, ${held.lease}, 'once', '0 s')`;
  await sql`SELECT jobq.reschedule(${held.id}, priority => 1)`;
  [held] = await read("claimed_job", sql`SELECT * FROM jobq.claim('all', worker => 'ada')`);
  await sql`SELECT jobq.heartbeat(${held.id}, ${held.lease}, progress => 12.5, note => 'on it')`;
  await read("held_job", sql`SELECT * FROM jobq.heartbeat_many(${[held.id]}, ${[held.lease]})`);
  await read("jobs", sql`SELECT * FROM jobq.job(${held.id})`);
  await read("queue_stats", sql`SELECT * FROM jobq.stats()`);
  for (const view of contract.views) await read(view, sql`SELECT * FROM ${sql(`jobq.${view}`)}`);
  await read("finished_job", sql`SELECT * FROM jobq.complete_many(${[held.id]}, ${[held.lease]}, '[[1]]')`);
  await read("jobs", sql`SELECT * FROM jobq.job(${held.id})`);
  await read("check_result", sql`SELECT * FROM jobq.diagnose()`);
  allSeen("check_result.hint");
});

await run(() => sql.end());
