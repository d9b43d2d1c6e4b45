"""The rivals that are called through SQL: how each is installed into a database, and where its statements are.

The statements are files, sql/<peer>/<what>.sql: `single` and `batch` (enqueue, claim, complete), `claim` (one claim, not
finished), `fill` (enqueue :count jobs), `hold` (claim :count jobs and keep them). A file that is missing is taken from the
peer's base; if that has none either, the peer cannot do it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import fetch
from machine import run

if TYPE_CHECKING:
    from stage import Stage

HERE = Path(__file__).resolve().parent
FILL_CHUNK = 10_000  # the most that one call of jobq takes; the same for everybody


@dataclass(frozen=True)
class Peer:
    name: str
    about: str
    base: str = ""
    # Runs before setup.sql: brings the peer's own objects into the database.
    install: Callable[[Stage, str], None] | None = None
    version: Callable[[Stage], str] | None = None
    # pgbench variables that are known only when the database is there.
    ask: tuple[tuple[str, str], ...] = ()

    def script(self, what: str) -> Path | None:
        for folder in (self.name, self.base):
            if folder and (found := HERE / "sql" / folder / f"{what}.sql").exists():
                return found
        return None


def install_pgmq(stage: Stage, database: str) -> None:
    stage.server.psql(fetch.pgmq_sql().read_text(), database)


def install_graphile(stage: Stage, database: str) -> None:
    program = fetch.node_programs() / "graphile.mjs"
    run([fetch.node() / "node", program, "setup"], env={**stage.server.env(database), "BENCH": "{}"}, quiet=True)


def install_procrastinate(stage: Stage, database: str) -> None:
    stage.server.psql((fetch.python_package("procrastinate") / "sql" / "schema.sql").read_text(), database)


def install_pgq(stage: Stage, database: str) -> None:
    fetch.pgq(stage.install)


def jobq_version(stage: Stage) -> str:
    return stage.server.psql("SELECT default_version FROM pg_available_extensions WHERE name = 'jobq'")


NOTHING_FINISHED = (("ids", "SELECT '{}'"), ("leases", "SELECT '{}'"))

ALL = [
    Peer("jobq", "enqueue, claim, complete; finished jobs are deleted", version=jobq_version),
    Peer("jobq-fused", "complete_and_claim: one call finishes the last job and claims the next", base="jobq", ask=NOTHING_FINISHED),
    Peer("jobq-keep", "as jobq, finished jobs stay as history", base="jobq"),
    Peer("hand", "hand-written FOR UPDATE SKIP LOCKED; finished jobs are deleted"),
    Peer("hand-keep", "as hand, finished jobs stay in the table", base="hand"),
    Peer("pgmq", "pgmq.send, read, delete", install=install_pgmq, version=lambda _: fetch.PGMQ.lstrip("=") + " (crate)"),
    Peer("pgmq-keep", "pgmq.archive instead of delete", base="pgmq", install=install_pgmq),
    Peer("floor", "no queue: insert, SELECT 1, delete by key; what any queue on Postgres has to do at least"),
    Peer("graphile", "graphile_worker.add_job(s), and the statements its client sends to fetch and complete", install=install_graphile,
         version=lambda _: fetch.node_version("graphile-worker"),
         ask=(("task_ids", "SELECT array_agg(id) FROM graphile_worker._private_tasks"),)),
    Peer("procrastinate", "procrastinate_defer_jobs_v1, fetch_job_v2, finish_job_v1 with delete_job", install=install_procrastinate,
         version=lambda _: fetch.python_versions()["procrastinate"]),
    Peer("procrastinate-keep", "as procrastinate, finished jobs stay (its default)", base="procrastinate", install=install_procrastinate),
    Peer("pgq", "pgq.insert_event, ticker, next_batch, finish_batch: one consumer, no single jobs", install=install_pgq,
         version=lambda _: "3.5 (Debian)"),
]
BY_NAME = {peer.name: peer for peer in ALL}
# Those of --quick need no packages but the pgmq crate.
QUICK = ("jobq", "hand", "pgmq", "floor")
