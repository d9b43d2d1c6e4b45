-- Deletes finished jobs that are past their own queue's retention, up to $2. $1 now. For queues with a shorter retention than the
-- longest: the others go with their partition. Jobs that are older than the installation are those of a restore that may not be
-- complete: they stay until the installation is a week old or resume_after_restore() was called, as in origin.sql.
WITH old AS MATERIALIZED (
    SELECT h.id, h.slot FROM jobq._history AS h
    WHERE h.finished_at <= $1
          - coalesce((SELECT q.retention_ms FROM jobq._queue AS q WHERE q.id = h.queue_id), 604800000) * interval '1 millisecond'
      AND h.id >= (SELECT CASE WHEN i.installed_at BETWEEN $1 - interval '7 days' AND $1 THEN i.first_id
                               ELSE '00000000-0000-0000-0000-000000000000' END FROM jobq._here AS i)
    LIMIT $2 FOR UPDATE SKIP LOCKED
)
DELETE FROM jobq._history AS h USING old WHERE h.id = old.id AND h.slot = old.slot
RETURNING h.queue_id, h.state, h.finished_at, h.worker
