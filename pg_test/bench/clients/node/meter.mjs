// What every client program reports: one JSON line when it is ready, one when it has done its jobs.
export const order = JSON.parse(process.env.BENCH) // jobs, batch, gap_ms, payload

export const now = () => (performance.timeOrigin + performance.now()) / 1000

export const say = (facts) => process.stdout.write(JSON.stringify(facts) + '\n')

// A job's payload; it carries the time at which it was handed to the library.
export const payload = () => ({ ...order.payload, sent: now() })

// Enqueues all jobs: send(payloads) is called for each batch.
export async function sendAll(send) {
  say({ ready: true })
  for (let left = order.jobs; left > 0; left -= order.batch) {
    await send(Array.from({ length: Math.min(order.batch, left) }, payload))
    if (order.gap_ms > 0) await new Promise((resolve) => setTimeout(resolve, order.gap_ms))
  }
  say({ jobs: order.jobs })
}

// Counts jobs as they start and as they are done; the promise `full` resolves when all are.
export class Meter {
  latencies = []
  done = 0
  first = 0
  full = new Promise((resolve) => { this.fill = resolve })

  started(sent) {
    this.first ||= now()
    this.latencies.push(1000 * (now() - sent))
  }

  finished(count = 1) {
    const before = this.done
    this.done += count
    if (before < order.jobs && this.done >= order.jobs) {
      const ranked = this.latencies.sort((a, b) => a - b)
      const at = (percent) => ranked[Math.max(0, Math.ceil((percent / 100) * ranked.length) - 1)]
      say({ jobs: this.done, first: this.first, last: now(), latency_ms: { p50: at(50), p99: at(99) } })
      this.fill()
    }
  }
}

export async function main(roles) {
  await roles[process.argv[2]]()
  process.exit(0)
}
