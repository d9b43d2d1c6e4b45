UPDATE jobq._pool AS p SET stopped = true WHERE p.id = $1
