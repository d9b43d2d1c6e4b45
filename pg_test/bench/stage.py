"""The server of a run, and a fresh database for each peer and workload, so that no workload inherits another's bloat."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import fetch
import peers
import pgbench
from book import Book
from cluster import Cluster, SqlError
from machine import SetupError
from peers import FILL_CHUNK, Peer
from toolchain import Install

BATCH = 100
WAITING = 1000  # jobs in each queue before the start, so that a claim always finds something
SETTINGS = {"shared_preload_libraries": "jobq", "shared_buffers": "1GB", "max_wal_size": "16GB", "checkpoint_timeout": "15min",
            "max_connections": "1150", "max_worker_processes": "32",
            # The defaults, said aloud: every commit waits for the disk, every page is safe.
            "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "autovacuum": "on"}


@dataclass(frozen=True)
class Plan:
    """How much of everything; the fields are named after the options."""

    rounds: int
    seconds: int
    pin_seconds: int
    pending: tuple[int, ...]
    in_flight: int
    waiters: tuple[int, ...]
    calls: int
    jobs: int
    peers: tuple[str, ...]
    quick: bool


@dataclass
class Stage:
    install: Install
    server: Cluster
    plan: Plan
    book: Book
    _broken: set[str] = field(default_factory=set)

    @contextmanager
    def databases(self, names: tuple[str, ...], fill: int = WAITING, payload: str = "") -> Iterator[dict[str, str]]:
        """Peer -> a fresh database in which it is installed and filled; those that cannot be are left out and reported."""
        made: dict[str, str] = {}
        try:
            for name in names:
                if name in self._broken or not self.wanted(name):
                    continue
                database = f"bench_{name.replace('-', '_')}"
                self.server.psql(f"CREATE DATABASE {database}")
                made[name] = database
                try:
                    self.set_up(peers.BY_NAME[name], database, fill, payload or small_payload())
                except (SetupError, SqlError, OSError, StopIteration) as error:
                    self._broken.add(name)
                    self.book.leave_out(name, str(error).splitlines()[0])
            yield {name: database for name, database in made.items() if name not in self._broken}
        finally:
            for database in made.values():
                self.server.psql(f"DROP DATABASE IF EXISTS {database} WITH (FORCE)")

    def wanted(self, name: str) -> bool:
        """Variants come and go with the peer they are based on."""
        return peers.BY_NAME[name].base in self.plan.peers or name in self.plan.peers

    def set_up(self, peer: Peer, database: str, fill: int, payload: str) -> None:
        if peer.install:
            peer.install(self, database)
        if setup := peer.script("setup"):
            self.server.psql(setup.read_text(), database)
        self.repeat(peer, "fill", database, fill, payload)

    def repeat(self, peer: Peer, what: str, database: str, count: int, payload: str = "{}") -> None:
        """`fill` or `hold` so many jobs, each chunk a transaction of its own."""
        script = peer.script(what)
        if script is None or count == 0:
            return
        chunks = -(-count // FILL_CHUNK)
        quoted = payload.replace("'", "''")
        text = f"\\set count {-(-count // chunks)}\n\\set payload '{quoted}'\n" + script.read_text() * chunks
        self.server.psql(text, database)

    def alone(self) -> None:
        """Waits until nobody is connected any more: a thousand sessions need their time to leave."""
        others = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
        deadline = time.monotonic() + 60
        while (left := self.server.psql(others)) != "0":
            if time.monotonic() > deadline:
                raise SetupError(f"{left} sessions do not end")
            time.sleep(0.1)

    def can(self, name: str, what: str) -> bool:
        return peers.BY_NAME[name].script(what) is not None

    def pgbench(self, name: str, database: str, what: str, *, clients: int = 8, seconds: int = 0, transactions: int = 0, log: str = "",
                payload: str = "") -> pgbench.Run:
        peer = peers.BY_NAME[name]
        script = peer.script(what)
        if script is None:
            raise SetupError(f"{name} has no {what}")
        payload = payload or small_payload()
        variables = {"payload": payload, "payloads": json.dumps([json.loads(payload)] * BATCH)}
        variables |= {variable: self.server.psql(query, database) for variable, query in peer.ask}
        return pgbench.run(self.install, self.server.env(database), pgbench.Load(script, clients, seconds, transactions, log), variables)

    def client_python(self, program: str) -> list[str]:
        return [str(fetch.python()), str(Path(fetch.CLIENTS) / "python" / program)]


def small_payload() -> str:
    """About 100 bytes."""
    return json.dumps({"document": "a" * 50, "page": 17, "to": "reader@example.org"})


def large_payload() -> str:
    """About 1 KB that does not compress to nothing: hexadecimal digits of a fixed sequence."""
    digits = "".join(f"{(n * 2654435761) % 2**32:08x}" for n in range(1, 120))
    return json.dumps({"document": digits, "page": 17, "to": "reader@example.org"})
