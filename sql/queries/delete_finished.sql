-- Deletes a finished job wherever it is: its queue, state, when it finished, and its worker. Index: primary keys.
WITH dead AS (DELETE FROM jobq._dead AS d WHERE d.id = $1 RETURNING d.queue_id, d.state, d.finished_at, d.worker),
     past AS (DELETE FROM jobq._history AS h WHERE h.id = $1 RETURNING h.queue_id, h.state, h.finished_at, h.worker)
SELECT dead.* FROM dead UNION ALL SELECT past.* FROM past
