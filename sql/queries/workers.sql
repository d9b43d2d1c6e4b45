-- Rows of the view workers, counted: running jobs (with $1 only), the whole history and the dead-letter list are scanned.
SELECT
    w.worker,
    (count(*) FILTER (WHERE w.state = 'r'))::int,
    max(w.seen_at),
    count(*) FILTER (WHERE w.state = 'c'),
    count(*) FILTER (WHERE w.state = 'f')
FROM (
    SELECT j.worker, j.state, jobq._seen_at(j.id, j.lease, coalesce(j.seen_at, j.claimed_at)) AS seen_at FROM jobq._job AS j WHERE j.state = 'r' AND $1
    UNION ALL
    SELECT h.worker, h.state, h.finished_at FROM jobq._history AS h WHERE h.state = 'c'
    UNION ALL
    SELECT d.worker, d.state, d.finished_at FROM jobq._dead AS d
) AS w
WHERE w.worker IS NOT NULL
GROUP BY w.worker
