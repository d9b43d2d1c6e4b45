"""The rivals that are called through their own libraries: which program plays each, and with which documented settings."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import fetch
from machine import SetupError, as_server_user, give_to_server_user


@dataclass(frozen=True)
class Client:
    name: str
    language: str
    program: str
    about: str
    version: Callable[[], str]
    env: tuple[tuple[str, str], ...] = ()
    # Finished jobs stay: compared with jobq keeping them too.
    keeps: bool = False
    # For those on Redis: what its appendonly log does.
    redis: str = ""

    @property
    def row(self) -> str:
        return f"{self.name}{'-keep' if self.keeps else ''}, {self.language}"

    def command(self) -> list[str]:
        if self.language == "python":
            return [str(fetch.python()), str(fetch.CLIENTS / "python" / self.program)]
        if self.language == "node":
            return [str(fetch.node() / "node"), str(fetch.node_programs() / self.program)]
        return [str(fetch.river())]


def pypi(name: str) -> Callable[[], str]:
    return lambda: fetch.python_versions()[name]


def npm(name: str) -> Callable[[], str]:
    return lambda: fetch.node_version(name)


KEEP = (("BENCH_KEEP", "true"),)

ALL = [
    Client("jobq", "python", "jobq_client.py", "psycopg: claim_wait, complete_and_claim, batches of 100, 2 connections",
           lambda: "psycopg " + pypi("psycopg")()),
    Client("jobq", "node", "jobq.mjs", "node-postgres: the same", lambda: "pg " + npm("pg")()),
    Client("jobq", "python", "jobq_client.py", "the same, finished jobs stay", pypi("psycopg"), env=KEEP, keeps=True),
    Client("jobq", "node", "jobq.mjs", "the same, finished jobs stay", npm("pg"), env=KEEP, keeps=True),
    Client("graphile", "node", "graphile.mjs", "concurrency 24, localQueue 500, completeJobBatchDelay 0", npm("graphile-worker")),
    Client("procrastinate", "python", "procrastinate_client.py", "concurrency 20, LISTEN/NOTIFY, delete_jobs always",
           pypi("procrastinate")),
    Client("pg-boss", "node", "pgboss.mjs", "LISTEN/NOTIFY, batchSize 100, burstWhenBatchFull, 2 workers",
           npm("pg-boss"), keeps=True),
    Client("pgqueuer", "python", "pgqueuer_client.py", "asyncpg, uvloop, batch_size 100; keeps a log", pypi("pgqueuer")),
    Client("bullmq-always", "node", "bullmq.mjs", "Redis with appendfsync always: every write on disk; concurrency 50",
           npm("bullmq"), redis="always"),
    Client("bullmq-default", "node", "bullmq.mjs", "Redis as it comes: no append-only file, a crash loses minutes; concurrency 50",
           npm("bullmq"), redis="default"),
    Client("bullmq-postgres", "node", "bullmq.mjs", "BullMQ's Postgres backend; concurrency 50", npm("bullmq"),
           env=(("BENCH_BACKEND", "postgres"),)),
    Client("river", "rust", "", "2000 workers, fetch cooldown 2 ms, as in its own benchmark",
           lambda: "0.5.0 (crate riverqueue)", keeps=True),
]
BY_NAME = {client.name: client for client in ALL}


@contextmanager
def redis(durability: str) -> Iterator[Mapping[str, str]]:
    """A Redis of its own on a unix socket; gives the environment that clients find it by."""
    files = fetch.redis().parents[2]
    env = {"LD_LIBRARY_PATH": fetch.libraries(files), "PATH": "/usr/bin:/bin"}
    with tempfile.TemporaryDirectory(prefix="jobq-redis-", dir="/tmp") as folder:
        give_to_server_user(Path(folder))
        socket = Path(folder) / "redis.sock"
        options = ["--port", "0", "--unixsocket", socket, "--dir", folder, "--loglevel", "warning"]
        if durability == "always":
            options += ["--appendonly", "yes", "--appendfsync", "always"]
        started = {**as_server_user(env), "cwd": folder}
        server = subprocess.Popen([fetch.redis(), *map(str, options)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.STDOUT, **started)
        try:
            deadline = time.monotonic() + 20
            while not socket.exists():
                if server.poll() is not None or time.monotonic() > deadline:
                    raise SetupError("redis-server does not start")
                time.sleep(0.05)
            yield {"REDIS_SOCKET": str(socket)}
        finally:
            server.terminate()
            server.wait(20)


def redis_version() -> str:
    files = fetch.redis().parents[2]
    env = {"LD_LIBRARY_PATH": fetch.libraries(files)}
    done = subprocess.run([fetch.redis(), "--version"], env=env, text=True, capture_output=True)
    return done.stdout.split(" v=")[-1].split()[0] if done.returncode == 0 else "unknown"
