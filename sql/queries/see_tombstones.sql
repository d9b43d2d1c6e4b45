-- Notes when a dropped queue was first seen as such: transactions that start later cannot have read it any more.
-- The clock is read after the statement's snapshot was taken: a drop that commits in between is left to the next pass.
UPDATE jobq._queue AS q SET drop_seen_at = clock_timestamp() WHERE q.dropped_at IS NOT NULL AND q.drop_seen_at IS NULL
