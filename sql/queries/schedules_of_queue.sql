-- How many schedules enqueue to a queue, and the first of them. There are few of them.
SELECT count(*), min(s.name) FROM jobq._schedule AS s WHERE s.queue = $1
