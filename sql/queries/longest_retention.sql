-- Over all queues, tombstones too (their history is kept as long), "default" included.
SELECT greatest((SELECT max(q.retention_ms) FROM jobq._queue AS q),
                CASE WHEN EXISTS (SELECT 1 FROM jobq._queue AS q WHERE q.id = 0) THEN 0 ELSE 604800000 END)
