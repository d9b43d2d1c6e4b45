-- Makes this database, $1, the original of its data.
UPDATE jobq._here AS h
SET origin = (SELECT o.last_value FROM jobq._origin AS o), database = $1, first_id = '00000000-0000-0000-0000-000000000000'
