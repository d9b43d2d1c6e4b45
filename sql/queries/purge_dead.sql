-- Deletes failed jobs of queue $1 that finished before $2, up to $3. Index: _dead_queue.
DELETE FROM jobq._dead AS d
WHERE d.id = ANY (ARRAY(
    SELECT x.id FROM jobq._dead AS x WHERE x.queue_id = $1 AND x.finished_at < $2 ORDER BY x.finished_at LIMIT $3 FOR UPDATE SKIP LOCKED))
RETURNING d.queue_id, d.state, d.finished_at, d.worker
