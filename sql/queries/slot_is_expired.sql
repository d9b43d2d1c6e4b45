-- Does partition $1 of the history hold rows, and none that finished after $2? Stops at the first newer row. $3 now. Jobs that are
-- older than the installation are those of a restore that may not be complete: see expired_history.sql.
SELECT EXISTS (SELECT 1 FROM jobq._history AS h WHERE h.slot = $1::smallint)
       AND NOT EXISTS (SELECT 1 FROM jobq._history AS h WHERE h.slot = $1::smallint AND h.finished_at > $2)
       AND NOT EXISTS (SELECT 1 FROM jobq._here AS i JOIN jobq._history AS h ON h.id < i.first_id
                       WHERE h.slot = $1::smallint AND i.installed_at BETWEEN $3 - interval '7 days' AND $3)
