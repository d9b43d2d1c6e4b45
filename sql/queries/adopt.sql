UPDATE jobq._here AS h SET origin = (SELECT o.last_value FROM jobq._origin AS o), database = $1
WHERE h.origin <> (SELECT o.last_value FROM jobq._origin AS o) OR h.database <> $1
