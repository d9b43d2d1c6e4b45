// Named checks: each runs by itself on empty queues and prints `ok - name` or `not ok - name: reason`.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

export const contract = JSON.parse(readFileSync(new URL("../contract.json", import.meta.url), "utf8"));
const checks = [];
const seen = new Set();

export function check(name, work) {
  checks.push([name, work]);
}

/** Runs every check in turn, then `close`, and ends the program. */
export async function run(close) {
  let failed = 0;
  for (const [name, work] of checks) {
    try {
      emptyTheQueues();
      await work();
      console.log(`ok - ${name}`);
    } catch (error) {
      failed += 1;
      const line = /_client\.mjs:(\d+)/.exec(error.stack)?.[1] ?? 0;
      console.log(`not ok - ${name}: line ${line}: ${`${error} ${error.cause ?? ""}`.replaceAll("\n", " | ").slice(0, 600)}`);
    }
  }
  await close();
  console.log(`${checks.length - failed} passed, ${failed} failed`);
  process.exit(failed || !checks.length ? 1 : 0);
}

export function equal(got, wanted) {
  assert.deepStrictEqual(got, wanted);
}

/** The SQLSTATE is found by `sqlstate` in what the driver throws; returns what was thrown. */
export async function refused(work, wanted, sqlstate = (error) => error.code) {
  let thrown;
  try {
    await work();
  } catch (error) {
    thrown = error;
  }
  if (!thrown) throw new Error(`not refused with ${wanted}`);
  if (sqlstate(thrown) !== wanted) throw thrown;
  return thrown;
}

export async function eventually(condition, seconds = 60) {
  for (const deadline = Date.now() + seconds * 1000; !(await condition()); await sleep(50)) {
    if (Date.now() > deadline) throw new Error(`still not so after ${seconds} seconds`);
  }
}

/** A judge of rows: every column of the contract is there and passes the test that `tests` has
 * for its SQL type; other columns pass one of the tests at least. */
export function readAs(tests) {
  return (rowType, row) => {
    const columns = contract.rows[rowType] ?? {};
    for (const name of Object.keys(columns)) assert.ok(name in row, `${rowType} lacks ${name}`);
    for (const [name, value] of Object.entries(row)) {
      if (value === null) continue;
      const fits = columns[name] ? tests[columns[name]](value) : Object.values(tests).some((test) => test(value));
      assert.ok(fits, `${rowType}.${name} arrives as ${typeof value}: ${value}`);
      seen.add(`${rowType}.${name}`);
    }
  };
}

/** Every column of the contract has been read with a value in it. */
export function allSeen(...mayBeNull) {
  const wanted = Object.entries(contract.rows).flatMap(([row, columns]) => Object.keys(columns).map((c) => `${row}.${c}`));
  equal(wanted.filter((column) => !seen.has(column) && !mayBeNull.includes(column)), []);
}

export const isUuid = (value) => typeof value === "string" && /^[0-9a-f]{8}-[0-9a-f]{4}-7/.test(value);
export const isDigits = (value) => typeof value === "string" && /^\d+$/.test(value) && Number.isSafeInteger(Number(value));
export const isObject = (value) => typeof value === "object" && !(value instanceof Date);

function emptyTheQueues() {
  // Running jobs that a check has left behind end when something rescues them. Another connection, not
  // counted: the runner asks afterwards which functions the client called.
  const sql = "SET track_functions = none; SELECT jobq.cancel(id) FROM jobq.jobs WHERE finished_at IS NULL";
  execFileSync("psql", ["-XAtq", "-v", "ON_ERROR_STOP=1", "-c", sql], { stdio: "pipe" });
}
