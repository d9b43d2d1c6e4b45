-- Rows of jobq.queue_stats, of numbers that are known: $3 queue ids with $4 unfinished jobs, $5 failed ones, $6 completed and $7 failed
-- today, $8 running, $9 workers. $1 queue id or NULL for all, $2 now. Reads the scheduled jobs by their index, and the first ready job of each
-- priority.
SELECT q.name, greatest(k.unfinished - k.running - s.jobs, 0), s.jobs, k.running, k.failed, k.completed_today, k.failed_today,
       extract(epoch FROM $2 - o.oldest)::double precision, k.workers
FROM ROWS FROM (unnest($3), unnest($4), unnest($5), unnest($6), unnest($7), unnest($8), unnest($9))
     AS k (id, unfinished, failed, completed_today, failed_today, running, workers)
JOIN jobq._queue_options AS q ON q.id = k.id
CROSS JOIN LATERAL (SELECT count(*) AS jobs FROM jobq._job AS j WHERE j.queue_id = q.id AND j.scheduled AND j.run_at > $2 AND j.state = 'p') AS s
CROSS JOIN LATERAL (
    WITH RECURSIVE used (priority) AS (
        (SELECT j.priority FROM jobq._job AS j WHERE j.queue_id = q.id ORDER BY j.priority LIMIT 1)
        UNION ALL
        SELECT (SELECT j.priority FROM jobq._job AS j WHERE j.queue_id = q.id AND j.priority > used.priority ORDER BY j.priority LIMIT 1)
        FROM used WHERE used.priority IS NOT NULL
    )
    SELECT min((SELECT greatest(j.run_at, j.enqueued_at) FROM jobq._job AS j
                WHERE j.queue_id = q.id AND j.priority = used.priority AND j.state = 'p' AND j.run_at <= $2
                ORDER BY j.run_at, j.id LIMIT 1)) AS oldest
    FROM used
) AS o
WHERE $1 IS NULL OR q.id = $1
ORDER BY q.name
