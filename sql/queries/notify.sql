-- Notifies on channel $1, with its name, of each queue that is not paused and whose id divided by $3 leaves one of the remainders $2.
SELECT pg_catalog.pg_notify($1, q.name) FROM jobq._queue_options AS q WHERE NOT q.paused AND q.id % $3 = ANY ($2)
