"""Crashes of the server. They come last: every session is lost, and the leases get a grace."""

from __future__ import annotations

import os
import signal

import psycopg
from live import Background, connect, scalar, sqlstate, until
from report import expect, expect_equal
from scene import Scenes, claim, enqueue, job, pid_of
from world import World

scene = SCENES = Scenes()


@scene(70, 107, what="another backend is killed: 57P02, then 57P03 or an answer; no job is lost, "
                     "and no lease is judged during its grace")
def crash_of_another_backend(world: World) -> None:
    # Jobs that earlier cases have bound to sessions which are gone: these have no grace.
    world.app.execute("SELECT jobq.rescue_zombies()")
    queue = world.new_queue()
    waiting_id = enqueue(world.app, queue)
    held_id = enqueue(world.app, world.new_queue())
    held_queue = job(world, held_id)["queue"]
    [(_, lease, _)] = claim(world.app, held_queue, lease_for="1 hour")
    # A lease of an hour that has just run out: after a start it gets one lease of grace.
    world.root.execute("UPDATE jobq._job SET claimed_at = claimed_at - interval '61 min', seen_at = seen_at - interval '61 min', "
                       "lease_expires_at = lease_expires_at - interval '61 min' WHERE id = %s", [held_id])
    with Background() as background:
        bystander, victim = world.connection(), world.connection()
        # The farewell is a warning; then the connection breaks.
        farewells: list[str | None] = []
        bystander.add_notice_handler(lambda notice: farewells.append(notice.sqlstate))
        answer = background.run(sqlstate, bystander, "SELECT pg_sleep(60)")
        sleeps = "SELECT wait_event = 'PgSleep' FROM pg_stat_activity WHERE pid = %s"
        until(lambda: scalar(world.root, sleeps, [pid_of(bystander)]), "the bystander")
        os.kill(pid_of(victim), signal.SIGKILL)
        expect("57P02" in (answer.result(30), *farewells), f"the bystander was told {farewells} and {answer.result()}")
    refusals: set[str] = set()

    def back() -> bool:
        try:
            connect(world.server).close()
        except psycopg.OperationalError as error:
            refusals.add(str(error))
            return False
        return True

    until(back, "the server to answer again")
    usual = ("recovery", "starting up", "not yet accepting", "closed the connection")
    strange = [text for text in refusals if not any(part in text for part in usual)]
    expect(not strange, f"refused for other reasons: {strange}")
    world.disconnect()
    world.connect()
    expect_equal(scalar(world.app, "SELECT jobq.rescue_zombies()"), 0, "jobs rescued during the grace")
    expect_equal(scalar(world.app, "SELECT jobq.rescue_zombies('1 s')"), 0, "jobs rescued during the grace, with older_than")
    expect_equal(job(world, held_id)["state"], "running", "the job with an hour of grace")
    expect_equal([row[0] for row in claim(world.app, queue)], [waiting_id], "the job that waited")
    expect_equal(scalar(world.app, "SELECT jobq.complete(%s, %s)", [held_id, lease]), "completed", "complete by the holder")
