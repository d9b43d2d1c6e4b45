-- The queues of pool $1, if it runs as role $2, and the kinds that its role has handlers for, one a row. No row: it is not this worker's
-- pool any more.
SELECT p.queue, p.name, h.kind FROM jobq._pool AS p LEFT JOIN jobq._handler AS h ON h.run_as = p.run_as WHERE p.id = $1 AND p.run_as = $2
