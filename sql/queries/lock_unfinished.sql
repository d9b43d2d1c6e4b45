-- Locks an unfinished job: state, lease, attempt, and what the dispatcher knows of it.
SELECT j.state, coalesce(j.lease, 0), j.attempt, j.queue_id, j.priority, j.run_at, j.id, j.kind FROM jobq._job AS j WHERE j.id = $1 FOR UPDATE
