-- Queues: make, change, pause, drop.
\getenv here PG_ABS_SRCDIR
\set prepare :here '/sql/prepare.inc'
\i :prepare

-- "default" is there before anybody makes it, with the documented options.
SELECT name, paused, default_priority, max_attempts, lease_seconds, timeout_seconds, backoff, max_crashes, retention_seconds, keep_completed, max_depth FROM jobq.queues \gx
SELECT t.outcome($$jobq.create_queue('default')$$, 'default');
-- Altered, it is there for good.
SELECT jobq.alter_queue('default', max_attempts => 3), jobq.alter_queue('default', max_attempts => 8), jobq.alter_queue('default', max_attempts => 8);
SELECT count(jobq.enqueue('eight'));
SELECT t.seen('eight');
SELECT name, max_attempts, default_priority, lease_seconds FROM jobq.queues;
SELECT t.outcome($$jobq.drop_queue('default')$$) NOT IN ('ok', 'XX000') AS refused, t.outcome($$jobq.drop_queue('default', true)$$) NOT IN ('ok', 'XX000') AS refused_by_force;
SELECT t.seen('eight');

-- Made with defaults, or with everything.
SELECT jobq.create_queue('plain');
SELECT jobq.create_queue('full', 5, 7, '90 seconds', '2 hours', '{"kind": "linear", "base": "10s"}', 2, '30 days', false, 1000, '{}');
SELECT jobq.create_queue('nulls', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
SELECT name, paused, default_priority, max_attempts, lease_seconds, timeout_seconds, backoff, max_crashes, retention_seconds, keep_completed, max_depth, created_at <= clock_timestamp() AS created
FROM jobq.queues WHERE name IN ('plain', 'full', 'nulls') ORDER BY name \gx
SELECT t.outcome($$jobq.create_queue('plain')$$, 'alter_queue'), t.outcome($$jobq.create_queue('Plain')$$), t.outcome(format('jobq.create_queue(%L)', repeat('q', 63))),
       t.outcome($$jobq.create_queue('A.b:c_d-9')$$);
-- Names that agree in their first 62 characters are two queues.
SELECT jobq.create_queue(repeat('q', 62) || 'a'), jobq.create_queue(repeat('q', 62) || 'b');
SELECT jobq.drop_queue(repeat('q', 62) || 'a'), jobq.drop_queue(repeat('q', 62) || 'b');

-- alter_queue: NULL is unchanged; true when something changed; for jobs to come.
SELECT jobq.alter_queue('full'), jobq.alter_queue('full', 5, 7, '90 seconds', '2 hours', '{"base": "10s", "kind": "linear"}', 2, '30 days', false, 1000), jobq.alter_queue('full', default_priority => 6);
SELECT jobq.alter_queue('full', timeout => '0', max_depth => 0, keep_completed => true), jobq.alter_queue('full', timeout => '0', max_depth => 0);
SELECT name, default_priority, max_attempts, lease_seconds, timeout_seconds, max_depth, keep_completed, max_crashes FROM jobq.queues WHERE name = 'full';
SELECT count(jobq.enqueue('before', queue => 'full'));
SELECT jobq.alter_queue('full', default_priority => 1, max_attempts => 2, lease_for => '1 hour');
SELECT count(jobq.enqueue('after', queue => 'full'));
SELECT kind, priority, max_attempts FROM jobq.jobs WHERE queue = 'full' ORDER BY id;
BEGIN;
SELECT jobq.alter_queue('full', max_attempts => 9), jobq.create_queue('undone');
ROLLBACK;
SELECT name, max_attempts FROM jobq.queues WHERE name IN ('full', 'undone');

SELECT what, t.outcome(what, says) FROM (VALUES
    (1, $$jobq.create_queue(NULL)$$, 'name'),
    (2, $$jobq.create_queue('')$$, 'name'),
    (3, $$jobq.create_queue('a,b')$$, 'name'),
    (4, $$jobq.create_queue('a b')$$, 'name'),
    (5, $$jobq.create_queue(repeat('q', 64))$$, 'name'),
    (6, $$jobq.create_queue(U&'caf\00E9')$$, 'name'),
    (7, $$jobq.create_queue('a''; DROP TABLE jobq._job; --')$$, 'name'),
    (8, $$jobq.create_queue('a/b')$$, 'name'),
    (10, $$jobq.create_queue('n', default_priority => -1)$$, 'default_priority'),
    (11, $$jobq.create_queue('n', default_priority => 32768)$$, 'default_priority'),
    (12, $$jobq.create_queue('n', max_attempts => 0)$$, 'max_attempts'),
    (13, $$jobq.create_queue('n', max_attempts => 2147483647)$$, 'max_attempts'),
    (14, $$jobq.create_queue('n', lease_for => '0')$$, 'lease_for'),
    (15, $$jobq.create_queue('n', lease_for => '8 days')$$, 'lease_for'),
    (16, $$jobq.create_queue('n', lease_for => '1 mon -30 days')$$, 'lease_for'),
    (17, $$jobq.create_queue('n', timeout => '-1 s')$$, 'timeout'),
    (18, $$jobq.create_queue('n', timeout => '178000000 years')$$, 'timeout'),
    (19, $$jobq.create_queue('n', max_crashes => -1)$$, 'max_crashes'),
    (20, $$jobq.create_queue('n', max_crashes => 2147483647)$$, 'max_crashes'),
    (21, $$jobq.create_queue('n', retention => '-1 day')$$, 'retention'),
    (22, $$jobq.create_queue('n', retention => '1 mon -30 days')$$, 'retention'),
    (23, $$jobq.create_queue('n', retention => '178000000 years')$$, 'retention'),
    (24, $$jobq.create_queue('n', max_depth => -1)$$, 'max_depth'),
    (25, $$jobq.create_queue('n', options => '{"nosuch": 1}')$$, 'nosuch'),
    (26, $$jobq.create_queue('n', options => '[]')$$, 'options'),
    (27, $$jobq.create_queue('n', options => '{"max_attempts": 5}')$$, 'max_attempts'),
    (30, $$jobq.create_queue('n', backoff => '{}')$$, 'kind'),
    (31, $$jobq.create_queue('n', backoff => '[]')$$, 'backoff'),
    (32, $$jobq.create_queue('n', backoff => '"5s"')$$, 'backoff'),
    (33, $$jobq.create_queue('n', backoff => 'null')$$, 'backoff'),
    (34, $$jobq.create_queue('n', backoff => '{"kind": "fibonacci"}')$$, 'fibonacci'),
    (35, $$jobq.create_queue('n', backoff => '{"kind": "exponential", "nosuch": 1}')$$, 'nosuch'),
    (36, $$jobq.create_queue('n', backoff => '{"kind": "linear", "base": "10s", "delays": ["1s"]}')$$, 'delays'),
    (37, $$jobq.create_queue('n', backoff => '{"kind": "linear"}')$$, 'base'),
    (38, $$jobq.create_queue('n', backoff => '{"kind": "constant"}')$$, 'base'),
    (39, $$jobq.create_queue('n', backoff => '{"kind": "list"}')$$, 'delays'),
    (40, $$jobq.create_queue('n', backoff => '{"kind": "list", "delays": []}')$$, 'delays'),
    (41, $$jobq.create_queue('n', backoff => '{"kind": "list", "delays": ["1s", "soon"]}')$$, 'soon'),
    (42, $$jobq.create_queue('n', backoff => '{"kind": "list", "delays": ["-1s"]}')$$, '-1s'),
    (43, $$jobq.create_queue('n', backoff => '{"kind": "exponential", "base": "forever"}')$$, 'forever'),
    (44, $$jobq.create_queue('n', backoff => '{"kind": "exponential", "base": "99999999999999999999s"}')$$, '9999'),
    (45, $$jobq.create_queue('n', backoff => '{"kind": "exponential", "factor": 0}')$$, 'factor'),
    (46, $$jobq.create_queue('n', backoff => '{"kind": "exponential", "factor": -2}')$$, 'factor'),
    (47, $$jobq.create_queue('n', backoff => '{"kind": "exponential", "factor": 1e400}')$$, NULL),
    (48, $$jobq.create_queue('n', backoff => '{"kind": "exponential", "factor": "2"}')$$, NULL),
    (49, $$jobq.create_queue('n', backoff => '{"kind": "exponential", "jitter": -0.1}')$$, 'jitter'),
    (50, $$jobq.create_queue('n', backoff => '{"kind": "exponential", "jitter": 1.5}')$$, 'jitter'),
    (51, $$jobq.create_queue('n', backoff => '{"kind": "exponential", "base": 5}')$$, NULL),
    (52, $$jobq.create_queue('n', backoff => ('{"kind":' || repeat('[', 500) || repeat(']', 500) || '}')::jsonb)$$, NULL),
    (53, $$jobq.create_queue('n', backoff => '{"kind": "exponential", "base": "5s", "factor": 2, "max": "1h", "jitter": 0.1}')$$, NULL),
    (60, $$jobq.alter_queue(NULL)$$, 'name'),
    (61, $$jobq.alter_queue('nosuch', max_attempts => 1)$$, 'create_queue'),
    (62, $$jobq.alter_queue('full', max_attempts => 0)$$, 'max_attempts'),
    (63, $$jobq.alter_queue('full', backoff => '{"kind": "nosuch"}')$$, 'nosuch'),
    (64, $$jobq.alter_queue('full', options => '{"nosuch": 1}')$$, 'nosuch'),
    (65, $$jobq.alter_queue('nosuch')$$, 'nosuch'),
    (70, $$jobq.pause(NULL)$$, 'queue'),
    (71, $$jobq.pause('nosuch')$$, 'nosuch'),
    (72, $$jobq.resume(NULL)$$, 'queue'),
    (73, $$jobq.resume('nosuch')$$, 'nosuch'),
    (74, $$jobq.pause('')$$, 'queue'),
    (80, $$jobq.drop_queue(NULL)$$, 'name'),
    (81, $$jobq.drop_queue('nosuch')$$, 'nosuch'),
    (82, $$jobq.drop_queue('')$$, 'name'),
    (83, $$jobq.drop_queue('nosuch', true)$$, 'nosuch')
) AS v (n, what, says) ORDER BY n;

-- pause and resume: true when something changed. Enqueue goes on, running jobs go on.
SELECT jobq.pause('plain'), jobq.pause('plain'), jobq.resume('plain'), jobq.resume('plain');
SELECT count(jobq.enqueue('p1', queue => 'plain'));
SELECT t.take('plain'), jobq.pause('plain');
SELECT count(jobq.enqueue('p2', queue => 'plain'));
SELECT t.take('plain'), jobq.heartbeat(t.id('p1'), t.lease('p1')), jobq.complete(t.id('p1'), t.lease('p1')), t.seen('p2');
SELECT name, paused, pending FROM jobq.queues WHERE name = 'plain';
SELECT jobq.resume('plain'), t.take('plain');
SELECT jobq.pause('default'), t.take(), jobq.resume('default'), t.take();
SELECT max_attempts FROM jobq.queues WHERE name = 'default';
-- "default" can be paused before anybody altered it.
BEGIN;
DELETE FROM jobq._job;
DELETE FROM jobq._queue;
SELECT jobq.resume('default'), jobq.pause('default');
SELECT name, paused, max_attempts FROM jobq.queues;
ROLLBACK;

-- drop_queue: not with unfinished jobs, unless forced. Failed jobs go, history stays.
SELECT jobq.create_queue('doomed');
SELECT jobq.drop_queue('doomed'), t.outcome($$jobq.enqueue('k', queue => 'doomed')$$, 'doomed'), t.outcome($$jobq.claim('doomed')$$, 'doomed'), t.outcome($$jobq.drop_queue('doomed')$$, 'doomed');
SELECT jobq.create_queue('doomed', max_attempts => 77);
SELECT max_attempts FROM jobq.queues WHERE name = 'doomed';
SELECT count(jobq.enqueue(kind, queue => 'doomed')) FROM unnest('{d_done,d_failed,d_cancelled,d_running,d_pending,d_ahead}'::text[]) AS kind;
SELECT jobq.reschedule(t.id('d_ahead'), '2034-01-01'), t.take('doomed', 4, worker => 'w1');
SELECT jobq.complete(t.id('d_done'), t.lease('d_done')), jobq.fail(t.id('d_failed'), t.lease('d_failed'), retry => false), jobq.cancel(t.id('d_cancelled')), jobq.release(t.id('d_cancelled'), t.lease('d_cancelled'));
SELECT t.outcome($$jobq.drop_queue('doomed')$$, 'force'), t.outcome($$jobq.drop_queue('doomed', false)$$, 'force'), t.outcome($$jobq.drop_queue('doomed', true)$$);
BEGIN;
SELECT jobq.drop_queue('doomed', true);
SELECT count(*) FROM jobq.queues WHERE name = 'doomed';
ROLLBACK;
SELECT kind, queue, t.seen(kind) FROM jobq.jobs WHERE kind LIKE 'd\_%' ORDER BY kind;
SELECT jobq.drop_queue('doomed', true);
SELECT kind, queue, t.seen(kind) FROM jobq.jobs WHERE kind LIKE 'd\_%' ORDER BY kind;
SELECT t.outcome($$jobq.complete(t.id('d_running'), t.lease('d_running'))$$), t.outcome($$jobq.heartbeat(t.id('d_running'), t.lease('d_running'))$$), t.outcome($$jobq.retry(t.id('d_failed'))$$);
SELECT t.outcome($$jobq.pause('doomed')$$, 'doomed'), t.outcome($$jobq.alter_queue('doomed', max_attempts => 1)$$, 'doomed'), t.outcome($$jobq.purge('doomed', 'completed', '0')$$, 'doomed'), t.outcome($$jobq.stats('doomed')$$, 'doomed');
-- The name again, at once: a new queue that inherits nothing.
SELECT jobq.create_queue('doomed');
SELECT name, max_attempts, pending, scheduled, running, failed FROM jobq.queues WHERE name = 'doomed';
SELECT pending, running, failed, completed_today FROM jobq.stats('doomed');
SELECT jobq.drop_queue('doomed');
-- A cancelled job of a dropped queue has nowhere to go back to.
SELECT t.outcome($$jobq.retry(t.id('d_cancelled'))$$) NOT IN ('ok', 'XX000') AS refused, t.seen('d_cancelled');
-- The duties remove tombstones only when nothing refers to them; asking for it breaks nothing.
SELECT jobq.tick() >= 0 AS ticked;
SELECT kind, queue FROM jobq.jobs WHERE kind LIKE 'd\_%' ORDER BY kind;
-- Dropped without force when only failed jobs are left: they are counted.
SELECT jobq.create_queue('bitter');
SELECT count(jobq.enqueue('b', queue => 'bitter')) FROM generate_series(1, 3);
SELECT count(jobq.fail(c.id, c.lease, retry => false)) FROM jobq.claim('bitter', 3) AS c;
SELECT jobq.drop_queue('bitter');
SELECT count(*) FROM jobq.failed_jobs WHERE kind = 'b';
-- And all in one transaction.
BEGIN;
SELECT jobq.create_queue('brief'), jobq.enqueue('k', queue => 'brief') IS NOT NULL AS enqueued;
SELECT t.take('brief');
SELECT jobq.drop_queue('brief', true), jobq.create_queue('brief');
SELECT t.take('brief'), jobq.drop_queue('brief');
COMMIT;
SELECT name FROM jobq.queues ORDER BY name;
SELECT t.unsound();
