-- What operators and producers do to jobs: cancel, reschedule, retry, delete, purge.
\getenv here PG_ABS_SRCDIR
\set prepare :here '/sql/prepare.inc'
\i :prepare
SELECT jobq.create_queue('q'), jobq.create_queue('r');

-- cancel: the state after. A pending job is over at once; a running one is asked; a final one stays what it is.
SELECT count(jobq.enqueue(kind)) FROM unnest('{pending,ahead,running,done,failed}'::text[]) AS kind;
SELECT t.take(kinds => '{running,done,failed}', batch => 3, worker => 'w1');
SELECT jobq.complete(t.id('done'), t.lease('done'), '1'), jobq.fail(t.id('failed'), t.lease('failed'), 'e', retry => false);
SELECT jobq.reschedule(t.id('ahead'), clock_timestamp() + interval '1 day');
SELECT kind, jobq.cancel(t.id(kind)) FROM unnest('{pending,ahead,running,done,failed}'::text[]) AS kind;
SELECT kind, jobq.cancel(t.id(kind)) FROM unnest('{pending,ahead,running,done,failed}'::text[]) AS kind;
SELECT kind, t.seen(kind) FROM unnest('{pending,ahead,running,done,failed}'::text[]) AS kind;
SELECT t.take(kinds => '{pending,ahead}');
SELECT jobq.heartbeat(t.id('running'), t.lease('running')), jobq.release(t.id('running'), t.lease('running'));
SELECT t.outcome($$jobq.cancel(NULL)$$, 'id'), t.outcome($$jobq.cancel('ffffffff-ffff-ffff-ffff-ffffffffffff')$$, 'ffffffff');
-- Rolled back: nothing was asked.
SELECT count(jobq.enqueue('asked'));
SELECT t.take(kinds => '{asked}', worker => 'w1');
BEGIN;
SELECT jobq.cancel(t.id('asked'));
ROLLBACK;
SELECT jobq.heartbeat(t.id('asked'), t.lease('asked')), t.seen('asked'), jobq.complete(t.id('asked'), t.lease('asked'));

-- reschedule: pending jobs only; run_at NULL is now.
SELECT count(jobq.enqueue('moved', run_at => clock_timestamp() + interval '1 day'));
SELECT jobq.reschedule(t.id('moved'), '2034-05-06 07:08:09+00', 9, 7);
SELECT run_at = '2034-05-06 07:08:09+00' AS moved, priority, max_attempts FROM jobq.jobs WHERE kind = 'moved';
SELECT jobq.reschedule(t.id('moved'), priority => 0);
SELECT run_at <= clock_timestamp() AS now, priority, max_attempts FROM jobq.jobs WHERE kind = 'moved';
SELECT jobq.reschedule(t.id('moved'), clock_timestamp() + interval '1 day'), t.take(kinds => '{moved}'), jobq.reschedule(t.id('moved')), t.take(kinds => '{moved}');
-- The order of claims follows.
SELECT count(jobq.enqueue(kind, queue => 'q')) FROM unnest('{x,y,z}'::text[]) AS kind;
SELECT jobq.reschedule(t.id('z'), '2000-01-01'), jobq.reschedule(t.id('y'), priority => 1);
SELECT t.take('q', 3);
-- Fewer attempts than are used up already cannot be.
SELECT jobq.fail(t.id('moved'), t.lease('moved'), 'e', '0'), t.take(kinds => '{moved}'), jobq.fail(t.id('moved'), t.lease('moved'), 'e', '0'), t.seen('moved');
SELECT n, t.outcome(format('jobq.reschedule(t.id(%L), max_attempts => %s)', 'moved', n), 'max_attempts') FROM unnest('{-1,0,1,2,3,2147483647}'::int[]) AS n;
SELECT jobq.reschedule(t.id('moved'), max_attempts => 3), t.take(kinds => '{moved}'), jobq.fail(t.id('moved'), t.lease('moved'), 'e', '0'), t.seen('moved');
SELECT what, t.outcome(what, says) FROM (VALUES
    (1, $$jobq.reschedule(NULL)$$, 'id'),
    (2, $$jobq.reschedule('ffffffff-ffff-ffff-ffff-ffffffffffff')$$, NULL),
    (3, $$jobq.reschedule(t.id('x'))$$, 'running'),
    (4, $$jobq.reschedule(t.id('done'))$$, 'completed'),
    (5, $$jobq.reschedule(t.id('failed'))$$, 'failed'),
    (6, $$jobq.reschedule(t.id('pending'))$$, 'cancelled'),
    (10, $$jobq.reschedule(jobq.enqueue('n'), 'infinity')$$, 'run_at'),
    (11, $$jobq.reschedule(jobq.enqueue('n'), '-infinity')$$, 'run_at'),
    (12, $$jobq.reschedule(jobq.enqueue('n'), clock_timestamp() + interval '11 years')$$, 'run_at'),
    (13, $$jobq.reschedule(jobq.enqueue('n'), priority => -1)$$, 'priority'),
    (14, $$jobq.reschedule(jobq.enqueue('n'), priority => 32768)$$, 'priority'),
    (15, $$jobq.reschedule(jobq.enqueue('n'), priority => 32767)$$, NULL),
    (16, $$jobq.reschedule(jobq.enqueue('n'), '4713-01-01 BC')$$, NULL)
) AS v (n, what, says) ORDER BY n;

-- retry: failed and cancelled jobs, now; attempts start over, history stays.
SELECT t.seen('failed'), t.seen('pending');
SELECT jobq.retry(t.id('failed')), jobq.retry(t.id('pending')), jobq.retry(t.id('ahead'));
SELECT kind, t.seen(kind), last_error, jsonb_array_length(attempt_errors) AS errors, run_at <= clock_timestamp() AS due, finished_at FROM jobq.jobs WHERE kind IN ('failed', 'pending', 'ahead') ORDER BY kind;
SELECT t.take(kinds => '{failed,pending,ahead}', batch => 9) <> 'nothing' AS taken;
SELECT attempt, last_error FROM t.held WHERE kind = 'failed' ORDER BY n DESC LIMIT 1;
SELECT t.lease('failed') > t.lease('failed', 1) AS lease_grew;
SELECT jobq.fail(t.id('failed'), t.lease('failed'), 'again', retry => false);
SELECT jsonb_path_query_array(attempt_errors, '$[*].error') AS errors, attempt FROM jobq.failed_jobs WHERE kind = 'failed';
SELECT what, t.outcome(what, says) FROM (VALUES
    (1, $$jobq.retry(NULL)$$, 'id'),
    (2, $$jobq.retry('ffffffff-ffff-ffff-ffff-ffffffffffff')$$, NULL),
    (3, $$jobq.retry(t.id('x'))$$, 'running'),
    (4, $$jobq.retry(t.id('done'))$$, 'completed'),
    (5, $$jobq.retry(jobq.enqueue('n'))$$, 'pending')
) AS v (n, what, says) ORDER BY n;
-- A job keeps what it was enqueued with through failure and retry.
SELECT count(jobq.enqueue('same', '{"n": 1}', 'r', 9, '2000-01-01', NULL, 1, '90 seconds', 'key', '{"h": 1}'));
SELECT to_jsonb(j) - '{run_at}'::text[] AS before FROM jobq.jobs AS j WHERE kind = 'same' \gset
SELECT t.take('r'), jobq.fail(t.id('same'), t.lease('same'), 'e'), jobq.retry(t.id('same'));
SELECT o.key, o.value = b.value AS same FROM jobq.jobs AS j, jsonb_each(to_jsonb(j) - '{run_at}'::text[]) AS o JOIN jsonb_each(:'before') AS b USING (key)
WHERE j.kind = 'same' AND o.value IS DISTINCT FROM b.value ORDER BY o.key;
SELECT t.take('r');
SELECT t.seen('same'), deadline_at IS NOT NULL AS timeout_kept FROM t.held WHERE kind = 'same' ORDER BY n DESC LIMIT 1;

-- retry_failed: by queue, by kind, in portions, the longest failed first.
CREATE FUNCTION t.failures(kind text, queue text, n int) RETURNS bigint LANGUAGE sql AS $$
    SELECT count(jobq.enqueue($1, queue => $2)) FROM generate_series(1, $3);
    SELECT count(*) FROM (SELECT jobq.fail(c.id, c.lease, 'e', retry => false) FROM jobq.claim($2, $3, kinds => ARRAY[$1]) AS c) AS f;
$$;
SELECT t.failures('a', 'q', 5), t.failures('b', 'q', 3), t.failures('a', 'r', 4);
SELECT jobq.retry_failed('q', 'a', 2), jobq.retry_failed('q', 'a'), jobq.retry_failed('q', 'a');
SELECT jobq.retry_failed(kind => 'a', queue => 'r', batch => 1), jobq.retry_failed('q'), jobq.retry_failed('r');
SELECT kind, queue, state, attempt, count(*) FROM jobq.jobs WHERE kind IN ('a', 'b') GROUP BY kind, queue, state, attempt ORDER BY 1, 2;
SELECT jobq.retry_failed(), jobq.retry_failed();
SELECT count(*) FROM jobq.failed_jobs;
SELECT t.take('q,r', 100) <> 'nothing' AS taken;
SELECT jobq.fail(h.id, h.lease, 'e', retry => false) FROM t.held AS h JOIN jobq.running_jobs AS j ON j.id = h.id AND j.kind IN ('a', 'b') AND h.n > (SELECT max(n) - 12 FROM t.held) ORDER BY h.n;
SELECT jobq.retry_failed(batch => 3);
SELECT bool_and(p.n < d.n) AS longest_failed_first
FROM (SELECT max(h.n) AS n FROM t.held AS h JOIN jobq.jobs AS j USING (id) WHERE j.state = 'pending' AND j.kind IN ('a', 'b')) AS p,
     (SELECT min(n) AS n FROM (SELECT max(h.n) AS n FROM t.held AS h JOIN jobq.failed_jobs AS j USING (id) WHERE j.kind IN ('a', 'b') GROUP BY h.id) AS x) AS d;
SELECT what, t.outcome(what, says) FROM (VALUES
    (1, $$jobq.retry_failed('nosuch')$$, 'nosuch'),
    (2, $$jobq.retry_failed('')$$, 'queue'),
    (3, $$jobq.retry_failed(batch => 0)$$, 'batch'),
    (4, $$jobq.retry_failed(batch => -1)$$, 'batch'),
    (5, $$jobq.retry_failed(kind => '')$$, 'kind'),
    (6, $$jobq.retry_failed(NULL, NULL, NULL)$$, NULL)
) AS v (n, what, says) ORDER BY n;

-- delete: anything but running.
SELECT count(jobq.enqueue(kind)) FROM unnest('{d_pending,d_running,d_done,d_failed,d_cancelled,d_ahead}'::text[]) AS kind;
SELECT t.take(kinds => '{d_running,d_done,d_failed}', batch => 3);
SELECT jobq.complete(t.id('d_done'), t.lease('d_done')), jobq.fail(t.id('d_failed'), t.lease('d_failed'), retry => false), jobq.cancel(t.id('d_cancelled')), jobq.reschedule(t.id('d_ahead'), '2034-01-01');
SELECT kind, t.outcome(format('jobq.delete(t.id(%L))', kind)) FROM unnest('{d_pending,d_running,d_done,d_failed,d_cancelled,d_ahead}'::text[]) AS kind;
SELECT kind, jobq.delete(t.id(kind)), t.seen(kind) FROM unnest('{d_pending,d_done,d_failed,d_cancelled,d_ahead}'::text[]) AS kind;
SELECT kind, jobq.delete(t.id(kind)) FROM unnest('{d_done}'::text[]) AS kind;
SELECT jobq.delete('ffffffff-ffff-ffff-ffff-ffffffffffff'), t.outcome($$jobq.delete(NULL)$$, 'id'), t.seen('d_running'), t.take(kinds => '{d_pending,d_ahead}');

-- purge: one queue, one final state, by age, in portions.
SELECT jobq.create_queue('old');
SELECT count(*) FROM jobq.enqueue_many('p', (SELECT jsonb_agg('{}'::jsonb) FROM generate_series(1, 30)), 'old');
SELECT t.take('old', 20) <> 'nothing' AS taken;
SELECT count(*) FROM (SELECT array_agg(id) AS ids, array_agg(lease) AS leases FROM (SELECT * FROM t.held WHERE queue = 'old' ORDER BY n LIMIT 10) AS h) AS x, jobq.complete_many(x.ids, x.leases);
SELECT count(jobq.fail(id, lease, retry => false)) FROM (SELECT * FROM t.held WHERE queue = 'old' ORDER BY n OFFSET 10 LIMIT 8) AS h;
SELECT count(jobq.cancel(id)) FROM (SELECT id FROM jobq.jobs WHERE queue = 'old' AND state = 'pending' ORDER BY id LIMIT 5) AS j;
SELECT state, count(*) FROM jobq.jobs WHERE queue = 'old' GROUP BY state ORDER BY state;
SELECT jobq.purge('old', 'completed', '1 hour'), jobq.purge('old', 'failed', '1 hour'), jobq.purge('old', 'cancelled', '1 hour');
UPDATE jobq._history SET finished_at = finished_at - interval '2 hours' WHERE id IN (SELECT id FROM jobq.jobs WHERE queue = 'old' AND state IN ('completed', 'cancelled') ORDER BY id LIMIT 12);
UPDATE jobq._dead SET finished_at = finished_at - interval '2 hours' WHERE id IN (SELECT id FROM jobq.failed_jobs WHERE queue = 'old' ORDER BY id LIMIT 6);
SELECT jobq.purge('old', 'completed', '3 hours'), jobq.purge('r', 'completed', '0'), jobq.purge('old', 'completed', '1 hour', 4), jobq.purge('old', 'completed', '1 hour', 100), jobq.purge('old', 'completed', '1 hour');
SELECT jobq.purge('old', 'failed', '1 hour', 4), jobq.purge('old', 'failed', '1 hour'), jobq.purge('old', 'cancelled', '1 hour');
SELECT state, count(*) FROM jobq.jobs WHERE queue = 'old' GROUP BY state ORDER BY state;
SELECT jobq.purge('old', 'failed', '0'), jobq.purge('old', 'cancelled', '0'), jobq.purge('old', 'completed', '0');
SELECT state, count(*) FROM jobq.jobs WHERE queue = 'old' GROUP BY state ORDER BY state;
SELECT what, t.outcome(what, says) FROM (VALUES
    (1, $$jobq.purge(NULL, 'completed', '1 day')$$, 'queue'),
    (2, $$jobq.purge('old', NULL, '1 day')$$, 'state'),
    (3, $$jobq.purge('old', 'completed', NULL)$$, 'older_than'),
    (4, $$jobq.purge('old', 'pending', '1 day')$$, 'state'),
    (5, $$jobq.purge('old', 'running', '1 day')$$, 'state'),
    (6, $$jobq.purge('old', 'done', '1 day')$$, 'state'),
    (7, $$jobq.purge('old', '', '1 day')$$, 'state'),
    (8, $$jobq.purge('old', 'Completed', '1 day')$$, 'state'),
    (9, $$jobq.purge('nosuch', 'completed', '1 day')$$, 'nosuch'),
    (10, $$jobq.purge('', 'completed', '1 day')$$, 'queue'),
    (11, $$jobq.purge('old', 'completed', '-1 day')$$, 'older_than'),
    (12, $$jobq.purge('old', 'completed', '1 mon -30 days')$$, 'older_than'),
    (13, $$jobq.purge('old', 'completed', '1 day', 0)$$, 'batch'),
    (14, $$jobq.purge('old', 'completed', '1 day', -1)$$, 'batch'),
    (15, $$jobq.purge('default', 'completed', '1 day')$$, NULL)
) AS v (n, what, says) ORDER BY n;
SELECT t.outcome($$jobq.purge('old', 'completed', 'infinity')$$) IN ('22007', '22023') AS infinite;
SELECT t.unsound();
