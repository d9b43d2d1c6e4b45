-- Notes when a dropped queue was first seen as such: transactions that start later cannot have read it any more. $1 now.
UPDATE jobq._queue AS q SET drop_seen_at = $1 WHERE q.dropped_at IS NOT NULL AND q.drop_seen_at IS NULL
