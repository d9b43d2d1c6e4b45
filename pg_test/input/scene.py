"""Scenes: rows of the catalogue that take several sessions, a lost session, locks, timeouts or planner settings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg
from live import Connection, scalar, until
from report import Failed, expect, expect_equal
from values import CANARY
from world import World

PAYLOAD = f'{{"secret": "{CANARY}"}}'


@dataclass(frozen=True)
class Scene:
    rows: tuple[int, ...]
    what: str
    play: Callable[[World], None]

    def title(self) -> str:
        return f"[{', '.join(map(str, self.rows))}] {self.what}"


class Scenes(list[Scene]):
    """A file's scenes, in the order in which it defines them: `@scene(row, ..., what=...)`."""

    def __call__(self, *rows: int, what: str) -> Callable[[Callable[[World], None]], Callable[[World], None]]:
        def add(play: Callable[[World], None]) -> Callable[[World], None]:
            self.append(Scene(rows, what, play))
            return play

        return add


# ---- small steps ---------------------------------------------------------------------------------------------------------------


def enqueue(session: Connection, queue: str, *, unique_key: str | None = None, max_attempts: int | None = None) -> Any:
    return scalar(session, "SELECT jobq.enqueue('k', %s, %s, max_attempts => %s, unique_key => %s)",
                  [PAYLOAD, queue, max_attempts, unique_key])


def enqueue_many(session: Connection, queue: str, number: int) -> None:
    for start in range(0, number, 10_000):
        payloads = "SELECT jsonb_agg('{}'::jsonb) FROM generate_series(1, %s)"
        session.execute(f"SELECT count(*) FROM jobq.enqueue_many('k', ({payloads}), %s)", [min(10_000, number - start), queue])


def claim(session: Connection, queue: str, batch: int = 1, lease_for: str | None = None) -> list[tuple[Any, int, int]]:
    """Id, lease and attempt of each claimed job."""
    sql = "SELECT id, lease, attempt FROM jobq.claim(%s, %s, lease_for => %s)"
    return session.execute(sql, [queue, batch, lease_for]).fetchall()


def job(world: World, id: Any) -> dict[str, Any]:
    cursor = world.root.execute("SELECT * FROM jobq.job(%s)", [id])
    row = cursor.fetchone()
    expect(row is not None, f"job {id} is gone")
    return dict(zip([c.name for c in cursor.description], row, strict=True))


def until_expired(world: World, id: Any) -> None:
    sql = "SELECT lease_expires_at < clock_timestamp() FROM jobq.job(%s)"
    until(lambda: scalar(world.root, sql, [id]), "the lease to expire")


def rescue(world: World, session: Connection, id: Any) -> None:
    """Rescues an expired job: at once, or when the grace after the server's start is over."""

    def gone() -> bool:
        session.execute("SELECT jobq.rescue_zombies()")
        return job(world, id)["state"] != "running"

    until_expired(world, id)
    until(gone, "the expired job to be rescued")


def pid_of(session: Connection) -> int:
    return session.info.backend_pid


def expect_refused(world: World, session: Connection, state: str, sql: str, parameters: Any = None) -> psycopg.Error:
    try:
        session.execute(sql, parameters)
    except psycopg.Error as error:
        world.expect_clean_error(error)
        expect_equal(error.sqlstate, state, f"SQLSTATE of {sql}: {error}")
        return error
    raise Failed(f"expected {state} from {sql}, and it went through")
