DELETE FROM jobq._pool AS p WHERE p.id = $1
