"""A server whose synchronous standby does not exist, and the question whether a commit waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import psycopg
from cluster import Cluster
from live import PATIENCE_SECONDS, Background, Connection, connect, scalar, until, wait_event
from report import Failed, expect, expect_equal
from toolchain import Install

SETTINGS = {"shared_preload_libraries": "jobq", "max_worker_processes": "16", "max_wal_senders": "4", "wal_sender_timeout": "0",
            # No checkpoint in between: the first change of a page after one is logged whole, which is one more write.
            "checkpoint_timeout": "1h", "max_wal_size": "4GB", "autovacuum": "off"}
NOBODY = "nobody"
QUEUE = "work"

SCHEMA = f"""
CREATE EXTENSION jobq;
SELECT jobq.create_queue('{QUEUE}');
CREATE TABLE note (x text);
CREATE TABLE audit (x text);
CREATE TABLE locked (x int);
INSERT INTO locked VALUES (1);
CREATE SEQUENCE counter;
CREATE FUNCTION only_claim() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT count(*) FROM jobq.claim('{QUEUE}')); END $$;
CREATE FUNCTION write_then_claim() RETURNS bigint LANGUAGE plpgsql AS
    $$ BEGIN INSERT INTO note VALUES ('before'); RETURN (SELECT count(*) FROM jobq.claim('{QUEUE}')); END $$;
CREATE FUNCTION claim_then_write() RETURNS bigint LANGUAGE plpgsql AS
    $$ DECLARE n bigint; BEGIN SELECT count(*) INTO n FROM jobq.claim('{QUEUE}'); INSERT INTO note VALUES ('after'); RETURN n; END $$;
CREATE FUNCTION claim_in_block() RETURNS bigint LANGUAGE plpgsql AS
    $$ DECLARE n bigint; BEGIN
        BEGIN SELECT count(*) INTO n FROM jobq.claim('{QUEUE}'); EXCEPTION WHEN division_by_zero THEN n := -1; END;
        INSERT INTO note VALUES ('after the block'); RETURN n; END $$;
CREATE FUNCTION audit_claim() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.audit VALUES ('seen'); RETURN NULL; END $$;
CREATE FUNCTION claim_on_insert() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM jobq.claim('{QUEUE}'); RETURN NEW; END $$;
CREATE TABLE asks (x int);
CREATE TRIGGER ask AFTER INSERT ON asks FOR EACH ROW EXECUTE FUNCTION claim_on_insert();
CREATE FUNCTION write_late() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.note VALUES ('late'); RETURN NULL; END $$;
"""


class Primary:
    def __init__(self, install: Install) -> None:
        self.server = Cluster(install, "async", settings=SETTINGS)

    def __enter__(self) -> Primary:
        self.server.__enter__()
        try:
            self.server.psql(SCHEMA)
            # What counts is that the shutdown before was clean, not that there was none.
            self.server.restart()
            self.connect()
            self.warm_up()
            self.ask_for_standby(NOBODY)
        except BaseException:
            self.server.remove()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.disconnect()
        self.server.__exit__(*exc)

    def connect(self) -> None:
        # Sets things up without ever waiting for a standby.
        self.root = connect(self.server, options="-c synchronous_commit=local -c statement_timeout=60s")

    def disconnect(self) -> None:
        self.root.close()

    def session(self) -> Connection:
        """A session as anybody's: synchronous_commit is on."""
        session = connect(self.server)
        expect_equal(scalar(session, "SHOW synchronous_commit"), "on", "synchronous_commit")
        return session

    def ask_for_standby(self, name: str) -> None:
        self.set("synchronous_standby_names", name)

    def set(self, name: str, value: str) -> None:
        self.server.configure({name: value})
        self.server.reload()
        until(lambda: scalar(self.root, "SELECT current_setting(%s)", [name]) == value, f"{name} = {value}")

    def warm_up(self) -> None:
        """Everything is touched once: hint bits are set, caches are filled, first changes of pages are logged."""
        self.add_jobs(200)
        for _ in range(20):
            self.root.execute(f"SELECT * FROM jobq.claim('{QUEUE}', 3)")
        self.root.execute("VACUUM jobq._job")

    def add_jobs(self, number: int = 10) -> None:
        self.root.execute(f"SELECT count(*) FROM jobq.enqueue_many('k', (SELECT jsonb_agg('{{}}'::jsonb) FROM generate_series(1, %s)), '{QUEUE}')", [number])

    def claimed(self) -> tuple[Any, int]:
        """A job that a worker holds: id and lease."""
        self.add_jobs(1)
        return self.root.execute(f"SELECT id, lease FROM jobq.claim('{QUEUE}')").fetchone()

    # ---- does it wait? ---------------------------------------------------------------------------------------------------------

    def waits(self, work: Callable[[Connection], Any], session: Connection | None = None) -> bool:
        """Does this work, commit included, wait for the standby? A wait is ended by cancelling it: the commit stays, as Postgres
        promises, and the work goes on."""
        own = session is None
        session = session or self.session()
        pid = session.info.backend_pid
        waited = False
        try:
            with Background() as background:
                running = background.run(work, session)
                deadline = time.monotonic() + PATIENCE_SECONDS
                while not running.done():
                    if wait_event(self.root, pid)[1] == "SyncRep":
                        waited = True
                        self.root.execute("SELECT pg_cancel_backend(%s)", [pid])
                    expect(time.monotonic() < deadline, f"neither done nor waiting: {wait_event(self.root, pid)}")
                    time.sleep(0.005)
                running.result()
        finally:
            if own:
                session.close()
        return waited

    def expect_wait(self, what: str | Callable[[Connection], Any], session: Connection | None = None) -> None:
        if not self.waits(_work(what), session):
            raise Failed(f"did not wait for the standby: {what}")

    def expect_no_wait(self, what: str | Callable[[Connection], Any], session: Connection | None = None) -> None:
        if self.waits(_work(what), session):
            raise Failed(f"waited for the standby: {what}")


def _work(what: str | Callable[[Connection], Any]) -> Callable[[Connection], Any]:
    if callable(what):
        return what

    def work(session: Connection) -> Any:
        cursor = session.execute(what)
        # Of several results the last one.
        while cursor.nextset():
            pass
        return cursor.fetchall() if cursor.description else None

    return work


def claims_one(session: psycopg.Connection[Any]) -> None:
    rows = session.execute(f"SELECT id FROM jobq.claim('{QUEUE}')").fetchall()
    expect_equal(len(rows), 1, "claimed jobs")
