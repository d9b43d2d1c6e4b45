"""PgQueuer's own worker on asyncpg and uvloop, batches of 100; enqueue with lists for batches."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta

import asyncpg
import uvloop
from meter import ORDER, Meter, chunks, pause, payload, say
from pgqueuer import PgQueuer
from pgqueuer.models import Job
from pgqueuer.queries import Queries

BATCH = 100


async def setup() -> None:
    session = await asyncpg.connect()
    await Queries.from_asyncpg_connection(session).install()
    await session.close()


async def produce() -> None:
    session = await asyncpg.connect()
    queries = Queries.from_asyncpg_connection(session)
    say(ready=True)
    for size in chunks():
        bodies = [json.dumps(payload()).encode() for _ in range(size)]
        if size == 1:
            await queries.enqueue("bench", bodies[0])
        else:
            await queries.enqueue(["bench"] * size, bodies, [0] * size)
        pause()
    await session.close()
    say(jobs=ORDER["jobs"])


async def consume() -> None:
    meter = Meter()
    session = await asyncpg.connect()
    worker = PgQueuer.from_asyncpg_connection(session)

    @worker.entrypoint("bench")
    async def handle(job: Job) -> None:
        meter.started(json.loads(job.payload or b"{}")["sent"])
        if meter.finished():
            worker.shutdown.set()

    async def announce() -> None:
        await asyncio.sleep(1)  # it says nothing when it listens
        say(ready=True)

    await asyncio.gather(worker.run(dequeue_timeout=timedelta(seconds=30), batch_size=BATCH), announce())


if __name__ == "__main__":
    uvloop.run({"setup": setup, "produce": produce, "consume": consume}[sys.argv[1]]())
