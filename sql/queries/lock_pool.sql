-- Against other operators: its id, and whether it is stopped, and was started since the server's start $2.
SELECT p.id, p.stopped OR NOT (p.autostart OR p.started_in IS NOT DISTINCT FROM $2) FROM jobq._pool AS p WHERE p.name = $1 FOR UPDATE
