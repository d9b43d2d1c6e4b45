-- Those of the jobs $1 that are pending: what the dispatcher knows of them. Index: primary key.
SELECT j.queue_id, j.priority, j.run_at, j.id, j.kind
FROM jobq._job AS j
WHERE j.id = ANY ($1) AND j.state = 'p'
