-- One sentence about job $1 at $2: why it is not running, or what became of it. Index: primary keys; for a ready job also up to 1001
-- entries of the ready index ahead of it. A transaction that holds the row is told by the lock on its (sub)transaction id;
-- one that has claimed it under a savepoint that is released is not found.
WITH unfinished AS MATERIALIZED (
    SELECT j.*, coalesce(q.name, 'default') AS queue, coalesce(q.paused, false) AS paused, q.dropped_at IS NOT NULL OR (q.id IS NULL AND j.queue_id <> 0) AS dropped,
           jobq._lease_expires_at(j.id, j.lease, j.lease_expires_at) AS expires_at, jobq._seen_at(j.id, j.lease, coalesce(j.seen_at, j.claimed_at)) AS last_seen_at,
           (SELECT CASE WHEN l.pid IS NULL THEN 'a prepared one' ELSE format('process %s', l.pid) || coalesce(to_char(a.xact_start, '", since "YYYY-MM-DD HH24:MI:SS TZ'), '') END
            FROM pg_catalog.pg_locks AS l LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
            WHERE l.locktype = 'transactionid' AND l.transactionid = j.xmax AND l.granted AND l.mode = 'ExclusiveLock' LIMIT 1) AS holder
    FROM jobq._job AS j LEFT JOIN jobq._queue AS q ON q.id = j.queue_id
    WHERE j.id = $1
)
SELECT CASE
    WHEN u.state = 'r' THEN
        format('It is running: worker %s has it since %s (attempt %s of %s) and was last seen at %s; ', u.worker, to_char(u.claimed_at, 'YYYY-MM-DD HH24:MI:SS TZ'),
               u.attempt, u.max_attempts, to_char(u.last_seen_at, 'YYYY-MM-DD HH24:MI:SS TZ'))
        || CASE WHEN u.expires_at < $2 THEN format('its lease ended at %s, so that it is soon rescued', to_char(u.expires_at, 'YYYY-MM-DD HH24:MI:SS TZ'))
                ELSE format('its lease lasts until %s, longer with heartbeats', to_char(u.expires_at, 'YYYY-MM-DD HH24:MI:SS TZ')) END
        || coalesce('; it has to be done by ' || to_char(u.deadline_at, 'YYYY-MM-DD HH24:MI:SS TZ'), '')
        || CASE WHEN u.cancel_requested THEN '; it was asked to stop' ELSE '' END
    WHEN u.dropped THEN 'Its queue was dropped: it will be cancelled'
    WHEN u.holder IS NOT NULL THEN
        format('It is pending in queue %s, and an open transaction (%s) holds or changes it: the next claim after the end of that can have it', u.queue, u.holder)
    WHEN u.paused THEN
        format('It is pending in queue %s, which is paused: it can run after jobq.resume(%L)', u.queue, u.queue)
        || CASE WHEN u.run_at > $2 THEN format(', but not before %s', to_char(u.run_at, 'YYYY-MM-DD HH24:MI:SS TZ')) ELSE '' END
    WHEN u.run_at > $2 AND u.attempt = 0 THEN
        format('It is pending in queue %s, scheduled for %s, in %s', u.queue, to_char(u.run_at, 'YYYY-MM-DD HH24:MI:SS TZ'), to_char(u.run_at - $2, 'FMDDD"d "HH24:MI:SS'))
    WHEN u.run_at > $2 THEN
        format('It is pending in queue %s, and attempt %s of %s can begin at %s, in %s', u.queue, u.attempt + 1, u.max_attempts,
               to_char(u.run_at, 'YYYY-MM-DD HH24:MI:SS TZ'), to_char(u.run_at - $2, 'FMDDD"d "HH24:MI:SS'))
        || coalesce(': the last one ended with ' || left(u.errors -> -1 ->> 'error', 200), '')
    WHEN u.id IS NOT NULL THEN
        format('It is ready in queue %s since %s: ', u.queue, to_char(greatest(u.run_at, u.enqueued_at), 'YYYY-MM-DD HH24:MI:SS TZ'))
        || CASE WHEN ahead.entries > 1000 THEN 'more than 1000 jobs stand before it'
                WHEN ahead.ready > 1 THEN format('%s ready jobs come before it', ahead.ready)
                WHEN ahead.ready = 1 THEN 'one ready job comes before it'
                ELSE format('the next claim of the queue that takes kind %s can have it', u.kind) END
        || CASE WHEN ahead.running = 0 OR ahead.entries > 1000 THEN '' ELSE format('; running before it: %s', ahead.running) END
    WHEN d.id IS NOT NULL THEN
        format('It failed at %s after %s of %s attempts, and stays so until jobq.retry: the last one ended with %s', to_char(d.finished_at, 'YYYY-MM-DD HH24:MI:SS TZ'),
               d.attempt, d.max_attempts, coalesce(left(d.errors -> -1 ->> 'error', 200), 'no error text'))
    WHEN f.state IS NOT NULL THEN
        format('It was %s at %s', f.state, to_char(f.finished_at, 'YYYY-MM-DD HH24:MI:SS TZ')) || coalesce(', by worker ' || f.worker, '')
    ELSE 'There is no such job: it never existed, was deleted, or is past its queue''s retention'
    END || '.'
FROM (VALUES (true)) AS one (row)
LEFT JOIN unfinished AS u ON true
LEFT JOIN LATERAL (
    SELECT count(*) AS entries, count(*) FILTER (WHERE y.state = 'p' AND y.run_at <= $2) AS ready, count(*) FILTER (WHERE y.state = 'r') AS running
    FROM (SELECT x.state, x.run_at FROM jobq._job AS x
          WHERE x.queue_id = u.queue_id AND (x.priority, x.run_at, x.id) < (u.priority, u.run_at, u.id)
          ORDER BY x.queue_id, x.priority, x.run_at, x.id LIMIT 1001) AS y
    WHERE u.state = 'p' AND u.run_at <= $2
) AS ahead ON true
LEFT JOIN jobq._dead AS d ON d.id = $1
LEFT JOIN LATERAL (SELECT h.state, h.finished_at, h.worker FROM jobq.jobs AS h WHERE h.id = $1 AND h.finished_at IS NOT NULL AND h.state <> 'failed') AS f ON true
