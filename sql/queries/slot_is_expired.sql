-- Does partition $1 of the history hold rows, and none that finished after $2? Stops at the first newer row.
SELECT EXISTS (SELECT 1 FROM jobq._history AS h WHERE h.slot = $1::smallint)
       AND NOT EXISTS (SELECT 1 FROM jobq._history AS h WHERE h.slot = $1::smallint AND h.finished_at > $2)
