-- What became of a job: state letter, lease, worker, whether its queue was dropped, and what the dispatcher knows of it. Runs only to explain a refusal or before a rare move. Index: primary keys
-- (of each history partition).
SELECT j.state, coalesce(j.lease, 0), coalesce(j.worker, ''),
       j.queue_id <> 0 AND NOT EXISTS (SELECT 1 FROM jobq._queue AS q WHERE q.id = j.queue_id AND q.dropped_at IS NULL),
       j.queue_id, j.priority, j.run_at, j.id, j.kind
FROM jobq._job AS j WHERE j.id = $1
UNION ALL
SELECT d.state, coalesce(d.lease, 0), coalesce(d.worker, ''),
       d.queue_id <> 0 AND NOT EXISTS (SELECT 1 FROM jobq._queue AS q WHERE q.id = d.queue_id AND q.dropped_at IS NULL),
       d.queue_id, d.priority, d.run_at, d.id, d.kind
FROM jobq._dead AS d WHERE d.id = $1
UNION ALL
SELECT h.state, coalesce(h.lease, 0), coalesce(h.worker, ''),
       h.queue_id <> 0 AND NOT EXISTS (SELECT 1 FROM jobq._queue AS q WHERE q.id = h.queue_id AND q.dropped_at IS NULL),
       h.queue_id, h.priority, h.run_at, h.id, h.kind
FROM jobq._history AS h
WHERE h.id = $1
  AND h.finished_at > $2
      - coalesce((SELECT q.retention_ms FROM jobq._queue AS q WHERE q.id = h.queue_id), 604800000) * interval '1 millisecond'
