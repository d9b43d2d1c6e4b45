-- Deletes a finished job wherever it is. Index: primary keys.
WITH dead AS (DELETE FROM jobq._dead AS d WHERE d.id = $1 RETURNING 1),
     past AS (DELETE FROM jobq._history AS h WHERE h.id = $1 RETURNING 1)
SELECT ((SELECT count(*) FROM dead) + (SELECT count(*) FROM past))::int
