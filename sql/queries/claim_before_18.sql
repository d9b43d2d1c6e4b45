-- Hands out up to $2 ready jobs of queue $1, each to one caller, as rows of jobq.claimed_job in no order.
-- $3 now, $4 lease in ms, $5 clock part and $6 random part of the lease (mixed with the id, so that the jobs of a batch differ),
-- $7 worker, $8 kinds or NULL, $9 the queue's timeout in ms (0: none), $10 its name, $11 bound to the session.
--
-- Form: the candidates are a MATERIALIZED list with its own LIMIT, and the UPDATE goes by their ids. (UPDATE ... WHERE id IN
-- (SELECT ... LIMIT n FOR UPDATE SKIP LOCKED) can be planned as a nested loop that runs the sub-select again and again: 2000 rows
-- were claimed instead of 3.) Time is a parameter: as a volatile function it would be no index condition.
-- Index: _job_ready for the candidates, the primary key for the UPDATE. Locks: the rows it returns.
-- The UPDATE changes no indexed column (HOT), except for jobs that give up their unique_key here.
-- Before Postgres 18: the priorities in use are walked one by one, so that scheduled jobs of an urgent priority are skipped by the
-- index and not one by one. The walk is lazy: the outer LIMIT stops it.
WITH RECURSIVE level (priority) AS (
    (SELECT j.priority FROM jobq._job AS j WHERE j.queue_id = $1 ORDER BY j.priority LIMIT 1)
    UNION ALL
    SELECT (SELECT j.priority FROM jobq._job AS j WHERE j.queue_id = $1 AND j.priority > level.priority ORDER BY j.priority LIMIT 1)
    FROM level WHERE level.priority IS NOT NULL
),
candidate AS MATERIALIZED (
    SELECT ready.id
    FROM level,
         LATERAL (
             SELECT j.id
             FROM jobq._job AS j
             WHERE j.queue_id = $1 AND j.priority = level.priority AND j.run_at <= $3 AND j.state = 'p'
               AND ($8 IS NULL OR j.kind = ANY ($8))
             ORDER BY j.run_at, j.id
             LIMIT $2
             FOR UPDATE SKIP LOCKED
         ) AS ready
    LIMIT $2
)
UPDATE jobq._job AS j
SET state = 'r',
    bound = nullif($11, false),
    attempt = j.attempt + 1,
    lease = (greatest((j.lease >> 12) + 1, $5) << 12) | (($6 # uuid_hash(j.id)) & 4095),
    lease_ms = $4,
    claimed_at = $3,
    lease_expires_at = $3 + $4 * interval '1 millisecond',
    deadline_at = CASE WHEN j.timeout_ms > 0 THEN $3 + j.timeout_ms * interval '1 millisecond'
                       WHEN $9 > 0 THEN $3 + $9 * interval '1 millisecond'
                       END,
    worker = $7,
    spent_key = CASE WHEN j.unique_pending THEN coalesce(j.unique_key, j.spent_key) ELSE j.spent_key END,
    unique_key = CASE WHEN j.unique_pending THEN NULL ELSE j.unique_key END
WHERE j.id = ANY (ARRAY(SELECT candidate.id FROM candidate)) AND j.state = 'p'
RETURNING j.id, j.lease, $10, j.kind, j.payload, j.headers, j.attempt::int, j.max_attempts::int, j.priority::int, j.enqueued_at, j.run_at,
          j.lease_expires_at, j.deadline_at, j.crashes::int, j.errors -> -1 ->> 'error'
