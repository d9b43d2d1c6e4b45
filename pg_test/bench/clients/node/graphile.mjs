// Graphile Worker's own runner with the settings of its performance page: concurrency 24, localQueue 500, completions in batches.
import { Logger, makeWorkerUtils, run, runMigrations } from 'graphile-worker'
import { Meter, main, say, sendAll } from './meter.mjs'

const quiet = new Logger(() => () => {})
const worker = { connectionString: `postgresql:///${process.env.PGDATABASE}`, concurrentJobs: 24, maxPoolSize: 26, logger: quiet,
  localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 }

async function setup() {
  await runMigrations({ preset: { worker } })
}

async function produce() {
  const utils = await makeWorkerUtils({ preset: { worker } })
  await sendAll(async (payloads) => {
    if (payloads.length === 1) await utils.addJob('bench', payloads[0])
    else await utils.addJobs(payloads.map((payload) => ({ identifier: 'bench', payload })))
  })
  await utils.release()
}

async function consume() {
  const meter = new Meter()
  const runner = await run({
    preset: { worker },
    parsedCronItems: [],
    taskList: {
      bench: async (payload) => {
        meter.started(payload.sent)
        meter.finished()
      },
    },
  })
  await new Promise((resolve) => setTimeout(resolve, 500))
  say({ ready: true })
  await meter.full
  await runner.stop()
}

await main({ setup, produce, consume })
