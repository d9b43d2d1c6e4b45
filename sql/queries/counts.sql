-- How many jobs there are: queue, what (u unfinished, f failed, c completed), the quarter of an hour since 2000 in which it finished (0: longer ago than
-- 32 hours), number.
-- $1 now, $2 and $3 the slots of the history that jobs of the last 32 hours are in.
SELECT j.queue_id, 'u'::"char", 0::bigint, count(*) FROM jobq._job AS j GROUP BY j.queue_id
UNION ALL
SELECT d.queue_id, 'f', CASE WHEN d.finished_at > $1 - interval '32 hours' THEN floor(extract(epoch FROM least(d.finished_at, $1) - timestamptz '2000-01-01 00:00:00+00') / 900)::bigint ELSE 0 END, count(*)
FROM jobq._dead AS d GROUP BY 1, 3
UNION ALL
SELECT h.queue_id, 'c', floor(extract(epoch FROM least(h.finished_at, $1) - timestamptz '2000-01-01 00:00:00+00') / 900)::bigint, count(*)
FROM jobq._history AS h
WHERE h.slot IN ($2, $3) AND h.state = 'c' AND h.finished_at > $1 - interval '32 hours' GROUP BY 1, 3
