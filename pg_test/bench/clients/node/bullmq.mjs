// BullMQ's own worker, concurrency 50, finished jobs removed, addBulk for batches; on Redis, or on Postgres with BENCH_BACKEND=postgres.
import { Queue, Worker, createPostgresBackend, setDefaultBackendFactory } from 'bullmq'
import { Meter, main, say, sendAll } from './meter.mjs'

const onPostgres = process.env.BENCH_BACKEND === 'postgres'
if (onPostgres) setDefaultBackendFactory(createPostgresBackend)
const connection = onPostgres
  ? { host: process.env.PGHOST, port: Number(process.env.PGPORT), user: process.env.PGUSER, database: process.env.PGDATABASE,
      max: 20, migrate: true }
  : { path: process.env.REDIS_SOCKET, maxRetriesPerRequest: null }

async function setup() {
  const queue = new Queue('bench', { connection })
  await queue.waitUntilReady()
  await queue.obliterate({ force: true })
  await queue.close()
}

async function produce() {
  const queue = new Queue('bench', { connection, defaultJobOptions: { removeOnComplete: true, removeOnFail: true } })
  await queue.waitUntilReady()
  await sendAll(async (payloads) => {
    if (payloads.length === 1) await queue.add('bench', payloads[0])
    else await queue.addBulk(payloads.map((data) => ({ name: 'bench', data })))
  })
  await queue.close()
}

async function consume() {
  const meter = new Meter()
  const handle = async (job) => {
    meter.started(job.data.sent)
    meter.finished()
  }
  const worker = new Worker('bench', handle, { connection, concurrency: 50, removeOnComplete: { count: 0 } })
  worker.on('error', (error) => console.error(error))
  await worker.waitUntilReady()
  await new Promise((resolve) => setTimeout(resolve, 500))
  say({ ready: true })
  await meter.full
  await worker.close()
}

await main({ setup, produce, consume })
