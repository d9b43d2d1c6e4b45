"""Procrastinate's own worker: concurrency 20, LISTEN/NOTIFY, finished jobs deleted; batch_defer for batches."""

from __future__ import annotations

import asyncio
import sys

import procrastinate
from meter import ORDER, Meter, chunks, pause, payload, say

app = procrastinate.App(connector=procrastinate.PsycopgConnector(kwargs={}, min_size=2, max_size=20))
meter = Meter()
full = asyncio.Event()


@app.task(queue="bench", name="bench", pass_context=False)
async def handle(sent: float, **_: object) -> None:
    meter.started(sent)
    if meter.finished():
        full.set()


async def setup() -> None:
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


async def produce() -> None:
    async with app.open_async():
        say(ready=True)
        for size in chunks():
            if size == 1:
                await handle.defer_async(**payload())
            else:
                await handle.batch_defer_async(*[payload() for _ in range(size)])
            pause()
    say(jobs=ORDER["jobs"])


async def consume() -> None:
    async with app.open_async():
        worker = asyncio.create_task(app.run_worker_async(queues=["bench"], concurrency=20, delete_jobs="always", listen_notify=True,
                                                          install_signal_handlers=False))
        await asyncio.sleep(1)  # it says nothing when it listens
        say(ready=True)
        await full.wait()
        worker.cancel()
        await asyncio.gather(worker, return_exceptions=True)


if __name__ == "__main__":
    asyncio.run({"setup": setup, "produce": produce, "consume": consume}[sys.argv[1]]())
