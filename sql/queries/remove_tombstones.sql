-- Forgets dropped queues that nothing refers to: no job, no history, and no transaction (prepared ones included) that was open
-- when they were dropped and may still add one. Should one slip through, its job is found all the same: see late_arrivals.sql.
DELETE FROM jobq._queue AS q
WHERE q.dropped_at IS NOT NULL
  AND NOT EXISTS (SELECT 1 FROM jobq._job AS j WHERE j.queue_id = q.id)
  AND NOT EXISTS (SELECT 1 FROM jobq._dead AS d WHERE d.queue_id = q.id)
  AND NOT EXISTS (SELECT 1 FROM jobq._history AS h WHERE h.queue_id = q.id)
  AND NOT EXISTS (SELECT 1 FROM pg_stat_activity AS a WHERE a.xact_start <= q.dropped_at + interval '1 minute' AND a.pid <> pg_backend_pid()
                  AND a.datname = current_database())
  AND NOT EXISTS (SELECT 1 FROM pg_prepared_xacts AS p WHERE p.database = current_database())
  AND q.dropped_at < $1 - interval '1 minute'
