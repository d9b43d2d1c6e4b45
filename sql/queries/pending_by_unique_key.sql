-- The pending job that has a unique_key of its pending time only, locked until this transaction ends: it is not handed out before
-- what the second signal tells of is committed. Waits for a claim that is just taking it, and then finds nothing.
-- Index: _job_unique.
SELECT j.id FROM jobq._job AS j WHERE j.queue_id = $1 AND j.unique_key = $2 FOR UPDATE
