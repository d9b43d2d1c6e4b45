-- Deletes jobs of queue $1 in state $4 that finished before $2, up to $3. Scans the history.
WITH old AS MATERIALIZED (
    SELECT h.id, h.slot FROM jobq._history AS h
    WHERE h.queue_id = $1 AND h.finished_at < $2 AND h.state = $4::"char" LIMIT $3 FOR UPDATE SKIP LOCKED
)
DELETE FROM jobq._history AS h USING old WHERE h.id = old.id AND h.slot = old.slot
RETURNING h.queue_id, h.state, h.finished_at, h.worker
