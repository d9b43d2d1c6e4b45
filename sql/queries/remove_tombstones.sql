-- Forgets dropped queues that nothing refers to: no job, no history, and no transaction (prepared ones included) that was open when
-- their tombstone was first seen and may still add a job. A session whose activity cannot be seen counts as open. Should a job slip
-- through, it is found all the same: see late_arrivals.sql.
DELETE FROM jobq._queue AS q
WHERE q.dropped_at IS NOT NULL
  AND q.drop_seen_at < clock_timestamp()
  AND NOT EXISTS (SELECT 1 FROM jobq._job AS j WHERE j.queue_id = q.id)
  AND NOT EXISTS (SELECT 1 FROM jobq._dead AS d WHERE d.queue_id = q.id)
  AND NOT EXISTS (SELECT 1 FROM jobq._history AS h WHERE h.queue_id = q.id)
  AND NOT EXISTS (SELECT 1 FROM pg_stat_activity AS a
                  WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
                    AND (a.xact_start <= q.drop_seen_at OR coalesce(a.state, 'disabled') = 'disabled'))
  AND NOT EXISTS (SELECT 1 FROM pg_prepared_xacts AS p WHERE p.database = current_database())
