"""A real synchronous standby, which is stopped in the middle."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
from live import Background, Connection, scalar, until, wait_event
from machine import private_dir
from primary import NOBODY, QUEUE, Primary, claims_one
from report import Report, expect, expect_equal

NAME = "standby1"
PORT = 5433


def run(primary: Primary, report: Report) -> None:
    primary.ask_for_standby("")
    with standby(primary) as receiver:
        primary.ask_for_standby(NAME)
        until(lambda: scalar(primary.root, "SELECT sync_state = 'sync' FROM pg_stat_replication WHERE application_name = %s", [NAME]),
              "the standby to be synchronous")
        primary.warm_up()
        with report.check("with a synchronous standby that answers, claims alone and in company go through"):
            primary.add_jobs()
            with primary.session() as session:
                claims_one(session)
                session.execute(f"INSERT INTO note SELECT id FROM jobq.claim('{QUEUE}')")
        with report.check("the standby's receiver is stopped: a claim alone does not wait for it"), stopped(receiver):
            primary.add_jobs()
            for _ in range(5):
                primary.expect_no_wait(claims_one)
        for what, sql in {"after": "SELECT claim_then_write()", "before": "SELECT write_then_claim()",
                          "of its result": f"INSERT INTO note SELECT id FROM jobq.claim('{QUEUE}')"}.items():
            with report.check(f"the standby's receiver is stopped: a claim with a write {what} waits for it, and goes on when it does"):
                primary.add_jobs()
                waits_until_it_goes_on(primary, receiver, sql)
        with report.check("the standby's receiver is stopped: complete waits for it, and goes on when it does"):
            id, lease = primary.claimed()
            waits_until_it_goes_on(primary, receiver, f"SELECT jobq.complete('{id}', {lease})")
        with report.check("what a claim has written reaches the standby too"):
            primary.add_jobs(1)
            with primary.session() as session:
                id = scalar(session, f"SELECT id FROM jobq.claim('{QUEUE}', worker => 'seen-there')")
            with on_standby(primary) as session:
                until(lambda: scalar(session, "SELECT worker FROM jobq.job(%s)", [id]) == "seen-there", "the claim on the standby")
    primary.ask_for_standby(NOBODY)


def waits_until_it_goes_on(primary: Primary, receiver: int, sql: str) -> None:
    notices: list[str | None] = []
    with primary.session() as session, Background() as background:
        session.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        with stopped(receiver):
            running = background.run(session.execute, sql)
            until(lambda: running.done() or wait_event(primary.root, session.info.backend_pid)[1] == "SyncRep", "the commit to wait or to end")
            expect(not running.done(), f"did not wait: {sql}")
        running.result(60)
        expect_equal(notices, [], "warnings: the standby has confirmed")


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def standby(primary: Primary) -> Iterator[int]:
    """A standby made from a base backup; the value is the process id of its WAL receiver."""
    server = primary.server
    folder = private_dir(Path(server.folder) / "standby") / "data"
    source = f"host={server.socket_dir} port={server.port} user=postgres application_name={NAME}"
    server.program("pg_basebackup", "-D", folder, "-d", source, "-X", "stream", "-c", "fast", "-R", "--no-sync")
    with (folder / "postgresql.auto.conf").open("a") as settings:
        settings.write(f"\nport = {PORT}\nsynchronous_standby_names = ''\nprimary_conninfo = '{source}'\n")
    log = folder.parent / "server.log"
    server.program("pg_ctl", "-D", folder, "-l", log, "-w", "-t", "60", "start")
    try:
        with on_standby(primary) as session:
            pid = until(lambda: scalar(session, "SELECT pid FROM pg_stat_wal_receiver WHERE status = 'streaming'"), "the standby to stream")
        yield pid
    finally:
        server.program("pg_ctl", "-D", folder, "-m", "immediate", "-w", "stop")


@contextlib.contextmanager
def on_standby(primary: Primary) -> Iterator[Connection]:
    with psycopg.connect(f"host={primary.server.socket_dir} port={PORT} user=postgres dbname=postgres", autocommit=True) as session:
        yield session
