-- Is this the installation the data came from? false in a restored or copied database. $1 its oid, $2 now.
-- Index: the first entry of each primary key, and only in the first week.
SELECT h.origin = (SELECT o.last_value FROM jobq._origin AS o)
       AND h.database = $1
       AND CASE WHEN h.installed_at BETWEEN $2 - interval '7 days' AND $2
                THEN coalesce((SELECT j.id FROM jobq._job AS j ORDER BY j.id LIMIT 1) >= h.first_id, true)
                     AND coalesce((SELECT d.id FROM jobq._dead AS d ORDER BY d.id LIMIT 1) >= h.first_id, true)
                     AND coalesce((SELECT p.id FROM jobq._history AS p ORDER BY p.id LIMIT 1) >= h.first_id, true)
                     AND coalesce((SELECT s.id FROM jobq._schedule AS s ORDER BY s.id LIMIT 1) >= h.first_id, true)
                ELSE true END
FROM jobq._here AS h
