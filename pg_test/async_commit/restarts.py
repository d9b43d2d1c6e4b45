"""After a crash claims wait for ten minutes, so that the second crash in a row is counted; after a clean start they do not."""

from __future__ import annotations

import os
import signal

import psycopg
from live import connect, scalar, until
from primary import QUEUE, Primary, claims_one
from report import Report, expect_equal


def run(primary: Primary, report: Report) -> None:
    with report.check("a clean restart: a claim alone does not wait"):
        primary.disconnect()
        primary.server.restart()
        back(primary)
        primary.expect_no_wait(claims_one)
    for what, crash in {"a backend is killed": kill_backend, "the server is killed": kill_server, "an immediate shutdown": stop_at_once}.items():
        with report.check(f"after a crash ({what}) a claim alone waits"):
            crash(primary)
            back(primary)
            expect_equal(scalar(primary.root, "SHOW jobq.async_claim"), "on", "jobq.async_claim")
            primary.expect_wait(claims_one)
            primary.expect_wait(claims_one)
        with report.check(f"after a crash ({what}) and a clean restart a claim alone does not wait"):
            primary.disconnect()
            primary.server.restart()
            back(primary)
            primary.expect_no_wait(claims_one)
    with report.check("without preload nobody knows whether the start was clean: a claim alone waits"):
        primary.disconnect()
        primary.server.configure({"shared_preload_libraries": ""})
        primary.server.restart()
        back(primary)
        primary.expect_wait(claims_one)
    with report.check("with preload again after a clean shutdown: a claim alone does not wait"):
        primary.disconnect()
        primary.server.configure({"shared_preload_libraries": "jobq"})
        primary.server.restart()
        back(primary)
        primary.expect_no_wait(claims_one)


def kill_backend(primary: Primary) -> None:
    victim = connect(primary.server)
    before = scalar(primary.root, "SELECT pg_postmaster_start_time()")
    os.kill(victim.info.backend_pid, signal.SIGKILL)

    def crashed() -> bool:
        try:
            primary.root.execute("SELECT 1")
        except psycopg.OperationalError:
            return True
        return False

    until(crashed, "the other sessions to be ended")
    until(lambda: answers(primary), "the server to answer again")
    with connect(primary.server) as session:
        expect_equal(scalar(session, "SELECT pg_postmaster_start_time()"), before, "the same postmaster goes on")


def kill_server(primary: Primary) -> None:
    primary.disconnect()
    primary.server.kill()
    primary.server.start()


def stop_at_once(primary: Primary) -> None:
    primary.disconnect()
    primary.server.restart("immediate")


def answers(primary: Primary) -> bool:
    try:
        connect(primary.server).close()
    except psycopg.OperationalError:
        return False
    return True


def back(primary: Primary) -> None:
    """New pages, new caches: everything is touched once before anything is judged."""
    primary.connect()
    expect_equal(scalar(primary.root, "SHOW synchronous_standby_names"), "nobody", "synchronous_standby_names")
    primary.warm_up()
    primary.root.execute(f"SELECT count(*) FROM jobq.claim('{QUEUE}')")
