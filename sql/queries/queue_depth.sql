-- Does a queue hold at least $2 unfinished jobs? Approximate on purpose: jobs of open transactions are not counted and nothing is
-- locked. Index only, and never more than $2 entries.
SELECT count(*) >= $2
FROM (SELECT 1 FROM jobq._job AS j WHERE j.queue_id = $1 LIMIT $2) AS job
