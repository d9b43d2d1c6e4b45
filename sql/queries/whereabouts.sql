-- What became of a job: state letter, lease, worker, whether its queue was dropped. Runs only to explain a refusal or before a rare move. Index: primary keys
-- (of each history partition).
SELECT j.state, j.lease, j.worker,
       j.queue_id <> 0 AND NOT EXISTS (SELECT 1 FROM jobq._queue AS q WHERE q.id = j.queue_id AND q.dropped_at IS NULL)
FROM jobq._job AS j WHERE j.id = $1
UNION ALL
SELECT d.state, d.lease, d.worker,
       d.queue_id <> 0 AND NOT EXISTS (SELECT 1 FROM jobq._queue AS q WHERE q.id = d.queue_id AND q.dropped_at IS NULL)
FROM jobq._dead AS d WHERE d.id = $1
UNION ALL
SELECT h.state, h.lease, h.worker,
       h.queue_id <> 0 AND NOT EXISTS (SELECT 1 FROM jobq._queue AS q WHERE q.id = h.queue_id AND q.dropped_at IS NULL)
FROM jobq._history AS h
WHERE h.id = $1
  AND h.finished_at > $2
      - coalesce((SELECT q.retention_ms FROM jobq._queue AS q WHERE q.id = h.queue_id), 604800000) * interval '1 millisecond'
