-- why: one sentence about a job in every situation. Times are replaced: <time>, <span>.
\getenv here PG_ABS_SRCDIR
\set prepare :here '/sql/prepare.inc'
\i :prepare
CREATE FUNCTION t.why(id uuid) RETURNS text LANGUAGE sql AS $$
    SELECT regexp_replace(regexp_replace(jobq.why(id), '\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \w+', '<time>', 'g'), '\d+d \d\d:\d\d:\d\d', '<span>', 'g')
$$;
SET TimeZone = 'UTC';
SELECT jobq.create_queue('q', max_attempts => 2);
SELECT count(jobq.enqueue(kind, '{"n": "secret"}', queue => 'q')) FROM unnest('{running,stopping,limited,lost,retrying,failed,done,cancelled,first,second,third}'::text[]) AS kind;
SELECT t.why(t.id('running')), t.why(t.id('stopping')), t.why(t.id('third'));
SELECT t.take('q', 10, 'w1', kinds => '{running,stopping,lost,retrying,failed,done}');
SELECT jobq.complete(t.id('done'), t.lease('done')), jobq.cancel(t.id('cancelled')), jobq.cancel(t.id('stopping')),
       jobq.fail(t.id('failed'), t.lease('failed'), 'broken', retry => false), jobq.fail(t.id('retrying'), t.lease('retrying'), 'no answer', '1 hour');
SELECT jobq.delete(t.id('limited'));
SELECT jobq.enqueue('scheduled', queue => 'q', delay => '3 days') IS NOT NULL AS added, jobq.enqueue('limited', queue => 'q', timeout => '1 h', priority => 1) IS NOT NULL AS added_too;
SELECT t.take('q', 1, 'w2', kinds => '{limited}');
SELECT kind, t.why(id) FROM jobq.jobs WHERE queue = 'q' ORDER BY kind;

-- Its lease has ended; nobody has been here to rescue it yet.
BEGIN;
UPDATE jobq._job SET lease_expires_at = '2020-01-01 00:00:00+00' WHERE id = t.id('lost');
SELECT t.why(t.id('lost'));
ROLLBACK;

-- Paused; scheduled, too; dropped, with a job that came late.
SELECT jobq.pause('q');
SELECT t.why(t.id('first')), t.why(t.id('scheduled'));
SELECT jobq.resume('q');
BEGIN;
UPDATE jobq._queue SET dropped_at = clock_timestamp() WHERE name = 'q';
SELECT t.why(t.id('first'));
ROLLBACK;

-- No such job, no job at all.
SELECT t.why('00000000-0000-0000-0000-000000000000'), t.why(gen_random_uuid());
SELECT t.outcome('jobq.why(NULL)', 'id');
-- Neither lease nor payload.
SELECT count(*) FROM jobq.jobs AS j, t.held AS h WHERE jobq.why(j.id) LIKE '%' || h.lease || '%' OR jobq.why(j.id) LIKE '%secret%';
-- The queue that every installation has; more jobs ahead than are counted.
SELECT count(*) FROM jobq.enqueue_many('many', (SELECT jsonb_agg('{}'::jsonb) FROM generate_series(1, 1200)));
SELECT jobq.enqueue('last') IS NOT NULL AS added;
SELECT t.why(t.id('last'));
BEGIN READ ONLY;
SELECT t.why(t.id('last'));
COMMIT;
SELECT t.unsound();
