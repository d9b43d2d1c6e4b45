UPDATE jobq._pool AS p SET stopped = false, started_in = $2, starts = p.starts + 1 WHERE p.id = $1
