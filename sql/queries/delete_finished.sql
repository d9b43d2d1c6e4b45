-- Deletes a finished job wherever it is: its queue, state and when it finished. Index: primary keys.
WITH dead AS (DELETE FROM jobq._dead AS d WHERE d.id = $1 RETURNING d.queue_id, d.state, d.finished_at),
     past AS (DELETE FROM jobq._history AS h WHERE h.id = $1 RETURNING h.queue_id, h.state, h.finished_at)
SELECT dead.* FROM dead UNION ALL SELECT past.* FROM past
