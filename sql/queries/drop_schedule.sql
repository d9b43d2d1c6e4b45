DELETE FROM jobq._schedule AS s WHERE s.name = $1
