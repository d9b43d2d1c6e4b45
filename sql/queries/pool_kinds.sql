-- The queues of pool $1, and the kinds that its role has handlers for, one a row.
SELECT p.queue, p.name, h.kind FROM jobq._pool AS p LEFT JOIN jobq._handler AS h ON h.run_as = p.run_as WHERE p.id = $1
