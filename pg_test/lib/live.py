"""Talking to a running server: connections, background statements, waiting for a condition."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg
from cluster import SUPERUSER, Cluster
from report import Failed

# Nothing these tests wait for takes a tenth of this on an idle machine.
PATIENCE_SECONDS = 60

Connection = psycopg.Connection[Any]


def connect(server: Cluster, user: str = SUPERUSER, dbname: str = "postgres", **options: Any) -> Connection:
    """A connection in autocommit mode that prepares nothing by itself."""
    return psycopg.connect(server.conninfo(dbname, user), autocommit=True, prepare_threshold=None, **options)


def scalar(session: Connection, sql: str, parameters: Any = None) -> Any:
    row = session.execute(sql, parameters).fetchone()
    return row[0] if row else None


def sqlstate(session: Connection, sql: str, parameters: Any = None) -> str:
    """The SQLSTATE of a statement, or 'ok'."""
    try:
        session.execute(sql, parameters)
    except psycopg.Error as error:
        return error.sqlstate or f"no SQLSTATE: {error}"
    return "ok"


def until(condition: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS) -> Any:
    """Polls until the condition holds and returns its value."""
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise Failed(f"not seen within {seconds:g} s: {what}")
        time.sleep(0.01)


class Background:
    """Statements that run while the test does something else; a thread each."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=200)

    def run(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        return self._pool.submit(work, *arguments)

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def wait_event(watcher: Connection, pid: int) -> tuple[str | None, str | None]:
    """What a backend waits for: type and name."""
    row = watcher.execute("SELECT wait_event_type, wait_event FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone()
    return row if row else (None, None)


def until_lock_wait(watcher: Connection, pid: int) -> None:
    until(lambda: wait_event(watcher, pid)[0] == "Lock", f"backend {pid} waiting for a lock")
