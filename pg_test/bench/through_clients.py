"""Workloads through each queue's own library: a producer and a consumer program, jobs end to end and the time until they start."""

from __future__ import annotations

import json
import os
import queue
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import clients
import fetch
from book import Figures, Page
from clients import Client
from machine import SetupError
from stage import BATCH, Stage, small_payload
from workloads import workload

SECONDS_MAX = 180
WARM_UP_JOBS = 3000  # and the fewest of a round: with fewer, one pause of a poll would decide
GAP_MS = 20


@dataclass
class Ready:
    client: Client
    env: Mapping[str, str]
    jobs: int = 0
    broken: str = ""


class Told(Exception):
    """A client program did not do what it should."""


@dataclass
class Program:
    """A client program that talks in JSON lines."""

    client: Client
    role: str
    env: Mapping[str, str]
    lines: queue.Queue[tuple[float, str]] = field(default_factory=queue.Queue)

    def __enter__(self) -> Program:
        self.errors = tempfile.TemporaryFile("w+")
        self.child = subprocess.Popen([*self.client.command(), self.role], env=dict(self.env), text=True, stdin=subprocess.DEVNULL,
                                      stdout=subprocess.PIPE, stderr=self.errors)
        threading.Thread(target=self.read, daemon=True).start()
        return self

    def read(self) -> None:
        assert self.child.stdout
        for line in self.child.stdout:
            self.lines.put((time.time(), line))
        self.lines.put((time.time(), ""))

    def told(self, what: str, seconds: float = SECONDS_MAX) -> dict[str, Any]:
        """The next JSON line that has this field, and under `heard` when it came."""
        deadline = time.monotonic() + seconds
        while True:
            try:
                heard, line = self.lines.get(timeout=max(0.01, deadline - time.monotonic()))
            except queue.Empty:
                raise Told(f"{self.client.row}: {self.role} said nothing for {seconds:.0f} s{self.complaint()}") from None
            if not line:
                raise Told(f"{self.client.row}: {self.role} ended early{self.complaint()}")
            if line.startswith("{") and what in (facts := json.loads(line)):
                return {**facts, "heard": heard}

    def complaint(self) -> str:
        self.errors.seek(0)
        lines = [line.strip() for line in self.errors.read().splitlines() if line.strip()]
        wanted = [line for line in lines if "rror" in line] or lines
        return f": {wanted[-1][:300]}" if wanted else ""

    def __exit__(self, *_: object) -> None:
        try:
            self.child.wait(15)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        self.errors.close()


@contextmanager
def all_ready(stage: Stage, page: Page) -> Iterator[list[Ready]]:
    """Each client with a database (or a Redis) of its own, set up by its own program."""
    databases: list[str] = []
    with ExitStack() as stack:
        stack.callback(lambda: [stage.server.psql(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)") for name in databases])
        ready = []
        for client in clients.ALL:
            if client.name not in stage.plan.peers:
                continue
            database = "client_" + re.sub(r"\W+", "_", client.row)
            try:
                if client.redis:
                    env = {**os.environ, **stack.enter_context(clients.redis(client.redis))}
                    stage.book.versions["redis"] = clients.redis_version()
                else:
                    stage.server.psql(f"CREATE DATABASE {database}")
                    databases.append(database)
                    env = stage.server.env(database)
                env |= dict(client.env)
                set_up(client, env)
                ready.append(Ready(client, env))
                stage.book.versions |= {client.row: client.version(), "node": fetch.NODE_WHEEL.partition("==")[2]}
                page.note(f"{client.row}: {client.about}")
            except (SetupError, OSError) as error:
                stage.book.leave_out(client.row, str(error)[-600:])
        yield ready


def set_up(client: Client, env: Mapping[str, str]) -> None:
    done = subprocess.run([*client.command(), "setup"], env={**env, "BENCH": "{}"}, text=True, capture_output=True, timeout=120)
    if done.returncode != 0:
        raise SetupError(f"{client.row} cannot be set up: {(done.stderr or done.stdout).strip()[-500:]}")


def ordered(one: Ready, jobs: int, batch: int, gap_ms: int) -> dict[str, str]:
    order = {"jobs": jobs, "batch": batch, "gap_ms": gap_ms, "payload": json.loads(small_payload())}
    return {**one.env, "BENCH": json.dumps(order)}


def together(one: Ready, jobs: int, batch: int, gap_ms: int = 0) -> Figures:
    """The consumer waits already when the producer starts."""
    env = ordered(one, jobs, batch, gap_ms)
    with Program(one.client, "consume", env) as consumer:
        try:
            consumer.told("ready", 60)
            with Program(one.client, "produce", env) as producer:
                first = producer.told("ready", 60)["heard"]
                end = consumer.told("last")
                sent = producer.told("jobs")["heard"]
        except Told:
            consumer.child.kill()
            raise
    latency = end["latency_ms"]
    return {"jobs/s": jobs / (end["last"] - first), "enqueued jobs/s": jobs / (sent - first), "start p50 ms": latency["p50"],
            "start p99 ms": latency["p99"]}


def one_after_the_other(one: Ready, jobs: int, batch: int) -> Figures:
    """The consumer starts when all jobs are there; its time counts from the start of its first job."""
    env = ordered(one, jobs, batch, 0)
    with Program(one.client, "produce", env) as producer:
        first = producer.told("ready", 60)["heard"]
        sent = producer.told("jobs")["heard"]
    with Program(one.client, "consume", env) as consumer:
        try:
            end = consumer.told("last")
        except Told:
            consumer.child.kill()
            raise
    return {"jobs/s": jobs / (end["last"] - end["first"]), "enqueued jobs/s": jobs / (sent - first)}


def rounds(stage: Stage, page: Page, jobs_max: int, play: Callable[[Ready, int], Figures]) -> None:
    with all_ready(stage, page) as everybody:
        for number in range(stage.plan.rounds + 1):
            for one in everybody:
                if one.broken:
                    continue
                jobs = one.jobs or min(WARM_UP_JOBS, jobs_max)
                try:
                    measured = play(one, jobs)
                except Told as problem:
                    one.broken = str(problem)
                    stage.book.leave_out(f"{one.client.row} in {page.name}", str(problem))
                    continue
                if number == 0:
                    # The warm-up says how many jobs make a round of the wanted length.
                    one.jobs = min(jobs_max, max(WARM_UP_JOBS, int(measured["jobs/s"] * stage.plan.seconds)))
                else:
                    page.add(one.client.row, number, measured, f"{one.client.language} client, {jobs} jobs")


@workload("clients", "through each queue's own library: one producer with batches of 100 and one consumer at the same time; end to end",
          quick=False)
def at_once(stage: Stage, page: Page) -> None:
    rounds(stage, page, stage.plan.jobs, lambda one, jobs: together(one, jobs, BATCH))


@workload("clients-drain", "through each queue's own library: a producer with batches of 100, and when it is done a consumer", quick=False)
def drain(stage: Stage, page: Page) -> None:
    rounds(stage, page, stage.plan.jobs, lambda one, jobs: one_after_the_other(one, jobs, BATCH))


@workload("clients-latency", "through each queue's own library: from the call that enqueues to the start, idle consumer, "
          f"a job every {GAP_MS} ms", quick=False)
def latency(stage: Stage, page: Page) -> None:
    def play(one: Ready, jobs: int) -> Figures:
        measured = together(one, jobs, 1, GAP_MS)
        return {name: measured[name] for name in ("start p50 ms", "start p99 ms", "jobs/s")}

    rounds(stage, page, 50 if stage.plan.quick else 500, play)
