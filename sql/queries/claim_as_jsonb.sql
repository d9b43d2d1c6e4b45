-- claim_wait's claim, with the rights of its caller: how many jobs, and they as a jsonb array. $1 queues, $2 batch, $3 worker,
-- $4 lease in ms or NULL, $5 kinds or NULL, $6 bind.
SELECT pg_catalog.count(*), coalesce(pg_catalog.jsonb_agg(pg_catalog.to_jsonb(c)), '[]')
FROM jobq.claim($1, $2, $3, $4 OPERATOR(pg_catalog.*) interval '1 millisecond', $5, $6) AS c
