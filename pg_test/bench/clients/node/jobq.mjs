// jobq with node-postgres: claim_wait while idle, complete_and_claim while there is work; batches, two connections.
import pg from 'pg'
import { Meter, main, order, say, sendAll } from './meter.mjs'

const CONNECTIONS = 2

async function connected() {
  const client = new pg.Client()
  await client.connect()
  return client
}

async function setup() {
  const client = await connected()
  await client.query('CREATE EXTENSION jobq')
  await client.query("SELECT jobq.create_queue('bench', keep_completed => $1)", ['BENCH_KEEP' in process.env])
}

async function produce() {
  const client = await connected()
  await sendAll(async (payloads) => {
    if (payloads.length === 1) {
      await client.query({ name: 'one', text: "SELECT jobq.enqueue('bench', $1, 'bench')", values: [payloads[0]] })
    } else {
      await client.query({ name: 'many', text: "SELECT FROM jobq.enqueue_many('bench', $1, 'bench')", values: [JSON.stringify(payloads)] })
    }
  })
}

async function work(meter) {
  const client = await connected()
  for (;;) {
    const waited = await client.query("CALL jobq.claim_wait('bench', $1, '20 s', 'bench')", [order.batch])
    let held = waited.rows[0].jobs
    while (held.length > 0) {
      for (const job of held) meter.started(job.payload.sent)
      const finished = held.length
      const values = [held.map((job) => job.id), held.map((job) => job.lease), order.batch]
      const text = "SELECT id, lease, payload FROM jobq.complete_and_claim($1::uuid[], $2::bigint[], NULL, 'bench', $3, 'bench')"
      held = (await client.query({ name: 'next', text, values })).rows
      meter.finished(finished)
    }
  }
}

async function consume() {
  const meter = new Meter()
  for (let n = 0; n < CONNECTIONS; n++) work(meter).catch((error) => { console.error(error); process.exit(1) })
  say({ ready: true })
  await meter.full
}

await main({ setup, produce, consume })
