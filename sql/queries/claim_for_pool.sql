-- The next job of queues $1 with one of the kinds $3 for worker $2, bound to this session: what its worker needs, and the whole job.
SELECT c.id, c.lease, c.kind, c.deadline_at, c FROM jobq.claim($1, 1, $2, NULL, $3, 'session') AS c
