-- Rows of jobq.queue_stats. $1 queue id or NULL for all. Counts scan the unfinished jobs and today's history.
SELECT q.name, coalesce(live.pending, 0), coalesce(live.scheduled, 0), coalesce(live.running, 0),
       (SELECT count(*) FROM jobq._dead AS d WHERE d.queue_id = q.id),
       (SELECT count(*) FROM jobq._history AS h WHERE h.queue_id = q.id AND h.state = 'c' AND h.finished_at >= date_trunc('day', $2)),
       (SELECT count(*) FROM jobq._dead AS d WHERE d.queue_id = q.id AND d.finished_at >= date_trunc('day', $2)),
       extract(epoch FROM $2 - live.oldest)::double precision,
       coalesce(live.workers, 0)
FROM jobq._queue_options AS q
LEFT JOIN (
    SELECT j.queue_id,
           count(*) FILTER (WHERE j.state = 'p' AND j.run_at <= $2) AS pending,
           count(*) FILTER (WHERE j.state = 'p' AND j.run_at > $2) AS scheduled,
           count(*) FILTER (WHERE j.state = 'r') AS running,
           min(greatest(j.run_at, j.enqueued_at)) FILTER (WHERE j.state = 'p' AND j.run_at <= $2) AS oldest,
           count(DISTINCT j.worker) FILTER (WHERE j.state = 'r') AS workers
    FROM jobq._job AS j WHERE $1 IS NULL OR j.queue_id = $1 GROUP BY j.queue_id
) AS live ON live.queue_id = q.id
WHERE $1 IS NULL OR q.id = $1
ORDER BY q.name
