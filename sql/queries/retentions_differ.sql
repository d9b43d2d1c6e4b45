-- Has any queue a shorter retention than the longest, $1?
SELECT EXISTS (SELECT 1 FROM jobq._queue AS q WHERE q.retention_ms < $1)
       OR $1 > 604800000 AND NOT EXISTS (SELECT 1 FROM jobq._queue AS q WHERE q.id = 0)
