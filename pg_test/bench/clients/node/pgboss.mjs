// pg-boss's own worker: LISTEN/NOTIFY on, batches of 100, fetching on while batches are full, two workers; insert() for batches.
import { PgBoss } from 'pg-boss'
import { Meter, main, say, sendAll } from './meter.mjs'

async function started(options = {}) {
  const boss = new PgBoss({ host: process.env.PGHOST, port: Number(process.env.PGPORT), user: process.env.PGUSER,
    database: process.env.PGDATABASE, useListenNotify: true, ...options })
  boss.on('error', (error) => console.error(error))
  await boss.start()
  return boss
}

async function setup() {
  const boss = await started()
  await boss.createQueue('bench', { notify: true })
  await boss.stop({ graceful: false })
}

async function produce() {
  const boss = await started({ supervise: false, schedule: false })
  await sendAll(async (payloads) => {
    if (payloads.length === 1) await boss.send('bench', payloads[0])
    else await boss.insert('bench', payloads.map((data) => ({ data })))
  })
  await boss.stop({ graceful: false })
}

async function consume() {
  const meter = new Meter()
  const boss = await started()
  await boss.work('bench', { batchSize: 100, burstWhenBatchFull: true, localConcurrency: 2, pollingIntervalSeconds: 0.5 }, async (jobs) => {
    for (const job of jobs) meter.started(job.data.sent)
    meter.finished(jobs.length)
  })
  await new Promise((resolve) => setTimeout(resolve, 500))
  say({ ready: true })
  await meter.full
  await boss.stop({ graceful: true, timeout: 5000 })
}

await main({ setup, produce, consume })
