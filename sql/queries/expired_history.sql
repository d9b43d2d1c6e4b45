-- Deletes finished jobs that are past their own queue's retention, up to $2. $1 now. For queues with a shorter retention than the
-- longest: the others go with their partition.
WITH old AS MATERIALIZED (
    SELECT h.id, h.slot FROM jobq._history AS h
    WHERE h.finished_at <= $1
          - coalesce((SELECT q.retention_ms FROM jobq._queue AS q WHERE q.id = h.queue_id), 604800000) * interval '1 millisecond'
    LIMIT $2 FOR UPDATE SKIP LOCKED
)
DELETE FROM jobq._history AS h USING old WHERE h.id = old.id AND h.slot = old.slot
