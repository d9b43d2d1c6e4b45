"""The server under test and who talks to it."""

from __future__ import annotations

from typing import Any

import psycopg
from cluster import SUPERUSER, Cluster
from live import Connection, connect, scalar
from psycopg.pq import TransactionStatus
from report import expect, expect_equal
from toolchain import Install
from values import CANARY

# The background duties are off: between the two looks at the tables nobody but the case may change them.
SETTINGS = {"max_connections": "150", "max_prepared_transactions": "10", "jobq.enabled": "off", "autovacuum_naptime": "5s"}

ROLES = """
CREATE ROLE app LOGIN; CREATE ROLE producer LOGIN; CREATE ROLE worker LOGIN; CREATE ROLE stranger LOGIN; CREATE ROLE visitor LOGIN;
GRANT USAGE ON SCHEMA jobq TO visitor;
SELECT jobq.grant_access('app', 'admin'), jobq.grant_access('producer', 'producer'), jobq.grant_access('worker', 'worker');
GRANT CREATE ON SCHEMA public TO app;
"""

TABLES = ("_queue", "_handler", "_pool", "_job", "_dead", "_history", "_here", "_schedule")
# Every change of a row makes a new version of it elsewhere, by another transaction.
FINGERPRINT = " UNION ALL ".join(
    f"SELECT '{t}', count(*), coalesce(sum(hashtextextended(concat(tableoid, ctid, xmin), 0)::numeric), 0) FROM jobq.{t}" for t in TABLES)


class World:
    def __init__(self, install: Install) -> None:
        self.major = install.major
        self.preload = True
        self.server = Cluster(install, "input", settings={**SETTINGS, "shared_preload_libraries": "jobq"})
        self._sessions: dict[str, Connection] = {}
        self._queues = 0

    def __enter__(self) -> World:
        self.server.__enter__()
        try:
            self.server.psql("CREATE EXTENSION jobq")
            self.server.psql(ROLES)
            self.connect()
        except BaseException:
            self.server.remove()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.disconnect()
        self.server.__exit__(*exc)

    def connect(self) -> None:
        self.root = connect(self.server)
        self.app = connect(self.server, "app")
        self._started_at = scalar(self.root, "SELECT pg_postmaster_start_time()")
        self._settings = self._session_state(connect(self.server, "app"))

    def disconnect(self) -> None:
        for session in (self.root, self.app, *self._sessions.values()):
            session.close()
        self._sessions.clear()

    def restart(self, preload: bool) -> None:
        self.disconnect()
        self.preload = preload
        self.server.configure({"shared_preload_libraries": "jobq" if preload else ""})
        self.server.restart()
        self.connect()

    def connection(self, user: str = "app") -> Connection:
        return connect(self.server, user)

    def session(self, role: str) -> Connection:
        """The session under test of a role; a case that loses it gets a new one for the next."""
        known = self._sessions.get(role)
        if known is None or known.closed:
            known = self._sessions[role] = self.connection(SUPERUSER if role == "root" else role)
        return known

    def new_queue(self, **options: Any) -> str:
        self._queues += 1
        name = f"case-{self._queues}"
        arguments = "".join(f", {key} => %({key})s" for key in options)
        self.app.execute(f"SELECT jobq.create_queue(%(name)s{arguments})", {"name": name, **options})
        return name

    def fingerprint(self) -> list[tuple[Any, ...]]:
        """Changes when any row of jobq's tables does."""
        return self.root.execute(FINGERPRINT).fetchall()

    def expect_clean_error(self, error: psycopg.Error) -> None:
        diag = error.diag
        texts = [str(error), diag.message_primary, diag.message_detail, diag.message_hint, diag.context]
        said = " ".join(filter(None, texts))
        expect(error.sqlstate != "XX000", f"an internal error: {said}")
        expect("panicked" not in said, f"a panic: {said}")
        expect(CANARY not in said, f"the message shows the payload: {said}")

    def expect_session_unharmed(self, session: Connection, role: str) -> None:
        """After ROLLBACK where a transaction is open: it answers, is nobody else, and has its settings."""
        if session.info.transaction_status != TransactionStatus.IDLE:
            session.execute("ROLLBACK")
        expect_equal(scalar(session, "SELECT 1"), 1, "SELECT 1 in the same session")
        if role == "app":
            state = self._session_state(session)
            session.execute("RESET ALL")
            expect_equal(state, self._settings, "the session's user and settings")

    @staticmethod
    def _session_state(session: Connection) -> Any:
        return session.execute("SELECT current_user, session_user, current_setting('search_path'), current_setting('role'), "
                               "current_setting('synchronous_commit'), current_setting('row_security')").fetchone()

    def expect_same_server(self) -> None:
        """The watching session dies with a crash of any backend; then nothing after it can be judged."""
        expect_equal(scalar(self.root, "SELECT pg_postmaster_start_time()"), self._started_at, "the server's start time")
