-- Is this the installation the data came from? false in a restored or copied database.
SELECT h.origin = (SELECT o.last_value FROM jobq._origin AS o) AND h.database = $1 FROM jobq._here AS h
