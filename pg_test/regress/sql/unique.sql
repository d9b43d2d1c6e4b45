-- unique_key: at most one unfinished job per queue and key.
\getenv here PG_ABS_SRCDIR
\set prepare :here '/sql/prepare.inc'
\i :prepare
SELECT jobq.create_queue('other');

-- A second enqueue returns the id of the first, and changes nothing about it.
SELECT jobq.enqueue('first', '{"n": 1}', unique_key => 'k', priority => 3) AS first \gset
SELECT jobq.enqueue('second', '{"n": 2}', unique_key => 'k', priority => 1) = :'first' AS same;
SELECT kind, payload, priority, unique_key FROM jobq.jobs;
-- In another queue the key is free; a job without a key is never counted.
SELECT jobq.enqueue('elsewhere', queue => 'other', unique_key => 'k') <> :'first' AS another;
SELECT jobq.enqueue('keyless') <> jobq.enqueue('keyless') AS another;
-- Keys differ in case and in blanks.
SELECT count(DISTINCT jobq.enqueue('spelt', unique_key => key)) FROM unnest(ARRAY['a', 'A', ' a', 'a ', U&'\00E1']) AS key;

-- enqueue_jobs says which were there already, also within one call, and rows stay in order.
SELECT place, created, id = :'first' AS the_first
FROM jobq.enqueue_jobs('[{"kind": "z", "unique_key": "z"}, {"kind": "k", "unique_key": "k"}, {"kind": "a", "unique_key": "y"}, {"kind": "free"},
    {"kind": "twin", "unique_key": "z"}, {"kind": "far", "queue": "other", "unique_key": "z"}]') WITH ORDINALITY AS e (id, created, place) ORDER BY place;
SELECT kind, queue, unique_key FROM jobq.jobs WHERE unique_key IN ('y', 'z') OR kind = 'free' ORDER BY kind;

-- Unfinished: pending, running, waiting for its next attempt. Finished: completed, failed, cancelled.
SELECT t.take(kinds => '{first}');
SELECT jobq.enqueue('while_running', unique_key => 'k') = :'first' AS same;
SELECT jobq.fail(t.id('first'), t.lease('first'), 'once', '1 hour');
SELECT jobq.enqueue('while_retrying', unique_key => 'k') = :'first' AS same;
SELECT jobq.reschedule(:'first'), t.take(kinds => '{first}');
SELECT jobq.release(:'first', t.lease('first'));
SELECT jobq.enqueue('after_release', unique_key => 'k') = :'first' AS same;
SELECT t.take(kinds => '{first}');
SELECT jobq.complete(:'first', t.lease('first'));
SELECT jobq.enqueue('after_completed', unique_key => 'k') <> :'first' AS another;
SELECT jobq.cancel(t.id('after_completed'));
SELECT count(jobq.enqueue('after_cancelled', unique_key => 'k'));
SELECT t.take(kinds => '{after_cancelled}');
SELECT jobq.fail(t.id('after_cancelled'), t.lease('after_cancelled'), retry => false);
SELECT count(jobq.enqueue('after_failed', unique_key => 'k'));
SELECT jobq.delete(t.id('after_failed'));
SELECT count(jobq.enqueue('after_deleted', unique_key => 'k'));
SELECT kind, state FROM jobq.jobs WHERE unique_key = 'k' AND queue = 'default' ORDER BY id;

-- Retrying a finished job whose key another one has now would make two: refused, and it stays where it is.
SELECT t.outcome($$jobq.retry(t.id('after_failed'))$$);
SELECT t.outcome($$jobq.retry(t.id('after_cancelled'))$$) NOT IN ('ok', '23505', 'XX000') AS refused;
SELECT jobq.retry_failed(kind => 'after_cancelled');
SELECT t.seen('after_cancelled');
SELECT jobq.cancel(t.id('after_deleted'));
SELECT jobq.retry(t.id('after_cancelled'));
SELECT t.seen('after_cancelled');
SELECT jobq.enqueue('after_retry', unique_key => 'k') = t.id('after_cancelled') AS same;

-- unique_while pending: the signal that arrives while the job runs is not dropped.
SELECT jobq.enqueue('signal', unique_key => 's', options => '{"unique_while": "pending"}') AS signal \gset
SELECT jobq.enqueue('signal', unique_key => 's', options => '{"unique_while": "pending"}') = :'signal' AS same_while_pending;
SELECT t.take(kinds => '{signal}');
SELECT jobq.enqueue('signal2', unique_key => 's', options => '{"unique_while": "pending"}') <> :'signal' AS another_while_running;
SELECT jobq.enqueue('signal3', unique_key => 's', options => '{"unique_while": "pending"}') = t.id('signal2') AS same_while_pending;
SELECT t.take(kinds => '{signal,signal2,signal3}');
SELECT count(*) FROM jobq.running_jobs WHERE kind LIKE 'signal%';
SELECT jobq.enqueue('signal4', unique_key => 's', options => '{"unique_while": "pending"}') <> t.id('signal2') AS another_while_running;
-- All three remember the key, and those that run may come back without a quarrel.
SELECT kind, state, unique_key FROM jobq.jobs WHERE kind LIKE 'signal%' ORDER BY id;
SELECT jobq.release(t.id('signal'), t.lease('signal')), jobq.fail(t.id('signal2'), t.lease('signal2'), 'again', '0');
SELECT t.take(kinds => '{signal,signal2,signal4}', batch => 10);
SELECT jobq.complete(t.id('signal'), t.lease('signal')), t.lose('signal2');
SELECT t.seen('signal'), t.seen('signal2');
SELECT kind, unique_key FROM jobq.jobs WHERE kind LIKE 'signal%' ORDER BY id;

-- Many with the same key in one statement and in one list.
SELECT count(DISTINCT jobq.enqueue('stampede', unique_key => 'stampede')) FROM generate_series(1, 1000);
SELECT count(*), count(DISTINCT id), count(*) FILTER (WHERE created)
FROM jobq.enqueue_jobs((SELECT jsonb_agg('{"kind": "crowd", "unique_key": "crowd"}'::jsonb) FROM generate_series(1, 1000)));
SELECT count(*) FROM jobq.jobs WHERE kind IN ('stampede', 'crowd');
-- A rolled-back holder holds nothing.
BEGIN;
SELECT count(jobq.enqueue('gone', unique_key => 'g'));
ROLLBACK;
SELECT jobq.enqueue('stays', unique_key => 'g') = t.id('stays') AS created;
-- In one transaction at a higher level too.
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT jobq.enqueue('serial', unique_key => 'serial') = jobq.enqueue('serial', unique_key => 'serial') AS same;
COMMIT;
SELECT queue, unique_key, count(*) FROM jobq.jobs WHERE state IN ('pending', 'running') AND unique_key IS NOT NULL AND kind NOT LIKE 'signal%'
GROUP BY queue, unique_key HAVING count(*) > 1;
SELECT t.unsound();
