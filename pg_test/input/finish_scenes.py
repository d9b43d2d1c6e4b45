"""Complete, fail, release, heartbeat, rescue: stale and expired leases, rollbacks, many attempts, poison."""

from __future__ import annotations

from itertools import pairwise

from live import scalar, sqlstate
from report import expect, expect_equal
from scene import Scenes, claim, enqueue, enqueue_many, expect_refused, job, rescue, until_expired
from world import World

scene = SCENES = Scenes()


@scene(82, what="an old lease after rescue and another claim: JQ001, the job keeps running under the new one")
def stale_after_rescue(world: World) -> None:
    queue = world.new_queue()
    id = enqueue(world.app, queue)
    [(_, old, _)] = claim(world.app, queue, lease_for="1 s")
    rescue(world, world.app, id)
    [(again, new, attempt)] = claim(world.app, queue)
    expect_equal((again, attempt), (id, 2), "the second claim")
    expect(new > old, f"leases do not increase: {old}, {new}")
    with world.connection() as session:
        before = world.fingerprint()
        for call in ("complete(%s, %s)", "fail(%s, %s)", "release(%s, %s)", "heartbeat(%s, %s)"):
            error = expect_refused(world, session, "JQ001", f"SELECT jobq.{call}", [id, old])
            expect(str(new) not in str(error) and str(old) not in str(error), "the message shows a lease")
        session.execute("BEGIN; CREATE TEMP TABLE mine (x int)")
        expect_refused(world, session, "JQ001", "SELECT jobq.complete(%s, %s)", [id, old])
        expect_equal(sqlstate(session, "SELECT 1"), "25P02", "the caller's own transaction")
        session.execute("ROLLBACK")
        expect_equal(world.fingerprint(), before, "rows")
    expect_equal(scalar(world.app, "SELECT jobq.complete(%s, %s)", [id, new]), "completed", "complete by the holder")


@scene(82, what="an old lease after a rescue, before anybody claims again: JQ001, for this lease has finished nothing")
def stale_after_rescue_to_pending(world: World) -> None:
    queue = world.new_queue()
    id = enqueue(world.app, queue)
    [(_, lease, _)] = claim(world.app, queue, lease_for="1 s")
    rescue(world, world.app, id)
    with world.connection() as session:
        for call in ("complete", "fail", "release", "heartbeat"):
            expect_refused(world, session, "JQ001", f"SELECT jobq.{call}(%s, %s)", [id, lease])
    expect_equal((job(world, id)["state"], job(world, id)["attempt"]), ("pending", 1), "state and attempt")


@scene(84, what="a job that a rescue has given up on: JQ001 for the lost worker")
def stale_after_rescue_to_failed(world: World) -> None:
    queue = world.new_queue()
    id = enqueue(world.app, queue, max_attempts=1)
    [(_, lease, _)] = claim(world.app, queue, lease_for="1 s")
    rescue(world, world.app, id)
    expect_equal(job(world, id)["state"], "failed", "state after the rescue")
    with world.connection() as session:
        for call in ("complete", "fail", "release", "heartbeat"):
            expect_refused(world, session, "JQ001", f"SELECT jobq.{call}(%s, %s)", [id, lease])


@scene(84, what="a failed job that was retried by hand: JQ001 for the lease that failed it")
def stale_after_retry(world: World) -> None:
    queue = world.new_queue()
    id = enqueue(world.app, queue, max_attempts=1)
    [(_, lease, _)] = claim(world.app, queue)
    world.app.execute("SELECT jobq.fail(%s, %s)", [id, lease])
    world.app.execute("SELECT jobq.retry(%s)", [id])
    with world.connection() as session:
        for call in ("complete", "heartbeat"):
            expect_refused(world, session, "JQ001", f"SELECT jobq.{call}(%s, %s)", [id, lease])


@scene(84, what="a job that another lease has completed: JQ001")
def completed_by_another(world: World) -> None:
    queue = world.new_queue()
    id = enqueue(world.app, queue)
    [(_, old, _)] = claim(world.app, queue, lease_for="1 s")
    rescue(world, world.app, id)
    [(_, new, _)] = claim(world.app, queue)
    world.app.execute("SELECT jobq.complete(%s, %s)", [id, new])
    with world.connection() as session:
        for call in ("complete", "fail", "release", "heartbeat"):
            expect_refused(world, session, "JQ001", f"SELECT jobq.{call}(%s, %s)", [id, old])


@scene(85, what="an expired lease that nobody has rescued yet is still good")
def expired_lease(world: World) -> None:
    queue = world.new_queue()
    for call, wanted in (("complete", "completed"), ("fail", "pending"), ("release", "pending"), ("heartbeat", True)):
        id = enqueue(world.app, queue)
        [(_, lease, _)] = claim(world.app, queue, lease_for="1 s")
        until_expired(world, id)
        expect_equal(scalar(world.app, f"SELECT jobq.{call}(%s, %s)", [id, lease]), wanted, call)
        world.app.execute("SELECT jobq.cancel(%s)", [id])


@scene(87, what="without the right to complete: 42501, the same for an id that exists and one that does not")
def no_hint_of_existence(world: World) -> None:
    queue = world.new_queue()
    id = enqueue(world.app, queue)
    [(_, lease, _)] = claim(world.app, queue)
    with world.connection("producer") as session:
        for call in ("complete(%s, %s)", "fail(%s, %s)", "heartbeat(%s, %s)"):
            texts = [str(expect_refused(world, session, "42501", f"SELECT jobq.{call}", [which, lease]))
                     for which in (id, "01900000-0000-7000-8000-000000000000")]
            expect_equal(texts[0], texts[1], "the two messages")


@scene(88, what="complete in a transaction that rolls back: still running, and rescued later")
def rolled_back_complete(world: World) -> None:
    queue = world.new_queue()
    id = enqueue(world.app, queue)
    [(_, lease, _)] = claim(world.app, queue, lease_for="1 s")
    with world.connection() as session:
        session.execute("BEGIN")
        session.execute("SELECT jobq.complete(%s, %s)", [id, lease])
        session.execute("ROLLBACK")
    expect_equal(job(world, id)["state"], "running", "state after ROLLBACK")
    rescue(world, world.app, id)
    expect_equal((job(world, id)["state"], job(world, id)["crashes"]), ("pending", 1), "after the rescue")


@scene(89, what="complete and PREPARE TRANSACTION, then ROLLBACK PREPARED and COMMIT PREPARED")
def prepared_complete(world: World) -> None:
    queue = world.new_queue()
    id = enqueue(world.app, queue)
    [(_, lease, _)] = claim(world.app, queue, lease_for="1 s")
    with world.connection() as session:
        for end, state in (("ROLLBACK", "running"), ("COMMIT", "completed")):
            session.execute("BEGIN")
            session.execute("SELECT jobq.complete(%s, %s)", [id, lease])
            session.execute("PREPARE TRANSACTION 'jobq_complete'")
            until_expired(world, id)
            world.app.execute("SELECT jobq.rescue_zombies()")
            expect_equal(job(world, id)["state"], "running", "state while prepared")
            session.execute(f"{end} PREPARED 'jobq_complete'")
            expect_equal(job(world, id)["state"], state, f"state after {end} PREPARED")


@scene(91, what="complete_many with one stale lease among a hundred: JQ001 and nothing, or with on_stale => skip the other 99")
def one_stale_of_a_hundred(world: World) -> None:
    queue = world.new_queue()
    enqueue_many(world.app, queue, 100)
    claimed = claim(world.app, queue, 100)
    ids, leases = [row[0] for row in claimed], [row[1] for row in claimed]
    leases[57] -= 1
    with world.connection() as session:
        before = world.fingerprint()
        expect_refused(world, session, "JQ001", "SELECT * FROM jobq.complete_many(%s, %s)", [ids, leases])
        expect_equal(world.fingerprint(), before, "rows")
        sql = "SELECT id, completed FROM jobq.complete_many(%s, %s, on_stale => 'skip')"
        done = session.execute(sql, [ids, leases]).fetchall()
        expect_equal([row[0] for row in done], ids, "one row per id, in their order")
        expect_equal([row[0] for row in done if not row[1]], [ids[57]], "the ids skipped")
    expect_equal(job(world, ids[57])["state"], "running", "the stale one")


@scene(94, 96, what="a thousand attempts: error history bounded, backoff never negative, never above its maximum, "
                    "never an overflow")
def a_thousand_attempts(world: World) -> None:
    backoff = '{"kind": "exponential", "base": "5s", "factor": 1000, "max": "1h", "jitter": 0}'
    queue = world.new_queue(max_attempts=1000, backoff=backoff)
    id = enqueue(world.app, queue)
    delays: list[float] = []
    delay_of = "SELECT extract(epoch FROM run_at - clock_timestamp()) FROM jobq.job(%s)"
    with world.connection() as session:
        # One round trip an attempt: pipelined statements, each its own transaction.
        for attempt in range(1, 1001):
            [(_, lease, number)] = claim(session, queue)
            expect_equal(number, attempt, "attempt")
            if attempt in (1, 2, 31, 32, 63, 64, 999):
                session.execute("SELECT jobq.fail(%s, %s, %s)", [id, lease, "e" * 9000])
                delays.append(float(scalar(world.root, delay_of, [id])))
                session.execute("SELECT jobq.reschedule(%s)", [id])
            else:
                session.execute("SELECT jobq.fail(%s, %s, %s, retry_in => '0')", [id, lease, "e" * 9000])
    expect_equal(job(world, id)["state"], "failed", "state after the last attempt")
    expect(all(0 < delay <= 3600 for delay in delays), f"delays in seconds: {delays}")
    expect(delays == sorted(delays) or max(abs(a - b) for a, b in pairwise(delays[1:])) < 30, f"delays shrink: {delays}")
    errors = job(world, id)["attempt_errors"]
    expect_equal((len(errors), errors[-1]["attempt"]), (20, 1000), "errors kept and the attempt of the last")
    size = scalar(world.root, "SELECT octet_length(attempt_errors::text) FROM jobq.job(%s)", [id])
    expect(size < 20 * 9000, f"bytes of errors: {size}")


@scene(98, what="the last attempt fails exactly once, whoever tries again")
def last_attempt(world: World) -> None:
    queue = world.new_queue()
    id = enqueue(world.app, queue, max_attempts=2)
    for wanted in ("pending", "failed"):
        [(_, lease, _)] = claim(world.app, queue)
        expect_equal(scalar(world.app, "SELECT jobq.fail(%s, %s, 'x', '0')", [id, lease]), wanted, "fail")
    expect_equal(sqlstate(world.app, "SELECT jobq.fail(%s, %s)", [id, lease]), "JQ002", "a repeated fail")
    expect_equal(claim(world.app, queue), [], "claims of a failed job")
    sql = "SELECT state, attempt, jsonb_array_length(attempt_errors) FROM jobq.jobs WHERE id = %s"
    expect_equal(world.root.execute(sql, [id]).fetchall(), [("failed", 2, 2)], "the job")


@scene(99, what="a stale lease in fail, and in fail with every option")
def stale_fail(world: World) -> None:
    queue = world.new_queue()
    id = enqueue(world.app, queue)
    [(_, lease, _)] = claim(world.app, queue)
    world.app.execute("SELECT jobq.release(%s, %s)", [id, lease])
    claim(world.app, queue)
    with world.connection() as session:
        before = world.fingerprint()
        for options in ("", ", 'x'", ", 'x', '1 s'", ", retry => false"):
            expect_refused(world, session, "JQ001", f"SELECT jobq.fail(%s, %s{options})", [id, lease])
        expect_equal(world.fingerprint(), before, "rows")


@scene(102, what="a heartbeat when the clock has gone back: the lease's end does not move back")
def clock_went_back(world: World) -> None:
    queue = world.new_queue()
    id = enqueue(world.app, queue)
    [(_, lease, _)] = claim(world.app, queue)
    # What a claim leaves behind when the clock then goes back by a day.
    world.root.execute("UPDATE jobq._job SET claimed_at = claimed_at + interval '1 day', seen_at = seen_at + interval '1 day', "
                       "lease_expires_at = lease_expires_at + interval '1 day' WHERE id = %s", [id])
    ends = job(world, id)["lease_expires_at"]
    for sql in ("SELECT jobq.heartbeat(%s, %s)", "SELECT jobq.heartbeat(%s, %s, '1 s')",
                "SELECT held FROM jobq.heartbeat_many(ARRAY[%s]::uuid[], ARRAY[%s]::bigint[])"):
        expect_equal(scalar(world.app, sql, [id, lease]), True, sql)
        expect(job(world, id)["lease_expires_at"] >= ends, "the lease's end moved back")
    expect_equal(scalar(world.app, "SELECT jobq.complete(%s, %s)", [id, lease]), "completed", "complete")


@scene(108, what="a job rescued three times is poison: failed, and the reason says so")
def poison(world: World) -> None:
    queue = world.new_queue(max_attempts=10)
    id = enqueue(world.app, queue)
    for crash in (1, 2, 3):
        [(_, _, attempt)] = claim(world.app, queue, lease_for="1 s")
        expect_equal(attempt, crash, "attempt")
        rescue(world, world.app, id)
        wanted = ("failed" if crash == 3 else "pending", crash)
        expect_equal((job(world, id)["state"], job(world, id)["crashes"]), wanted, "state and crashes")
    expect("poison" in job(world, id)["last_error"], f"the reason: {job(world, id)['last_error']}")
    expect_equal(claim(world.app, queue), [], "claims of a poison job")
