UPDATE jobq._pool AS p SET restarts = p.restarts + 1 WHERE p.id = $1
