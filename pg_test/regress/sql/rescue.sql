-- Jobs whose worker is lost: back to pending, to the dead-letter list, or cancelled.
\getenv here PG_ABS_SRCDIR
\set prepare :here '/sql/prepare.inc'
\i :prepare

-- Back at once, claimable; the attempt stays used; the error says who was lost and when it was last seen.
SELECT count(jobq.enqueue('lost', '{"n": 1}', run_at => '2000-01-01')), count(jobq.enqueue('alive'));
SELECT t.take(batch => 2, worker => 'worker-7');
SELECT jobq.heartbeat(t.id('lost'), t.lease('lost'), progress => 50, note => 'half');
SELECT jobq.rescue_zombies() AS nobody_yet;
SELECT t.lose('lost');
SELECT t.seen('lost'), t.seen('alive');
SELECT last_error LIKE '%worker-7%' AS says_who, last_error ~ 'last seen .*\d' AS says_when, jsonb_array_length(attempt_errors) AS errors, run_at <= clock_timestamp() AS due,
       attempt_errors -> 0 ->> 'worker' AS worker, attempt_errors -> 0 ->> 'attempt' AS attempt, payload
FROM jobq.jobs WHERE kind = 'lost';
SELECT t.take(kinds => '{lost}', worker => 'worker-8');
SELECT attempt, crashes, last_error LIKE '%worker-7%' AS told FROM t.held WHERE kind = 'lost' ORDER BY n DESC LIMIT 1;
SELECT t.lose('lost'), t.take(kinds => '{lost}', worker => 'worker-9');
-- Attempts spent: failed.
SELECT jobq.alter_queue('default', max_crashes => 9);
SELECT t.lose('lost');
SELECT t.seen('lost'), last_error LIKE '%worker-9%' AS says_who, jsonb_array_length(attempt_errors) AS errors FROM jobq.failed_jobs WHERE kind = 'lost';
SELECT jobq.complete(t.id('alive'), t.lease('alive'));

-- Poison: it took max_crashes workers with it, whatever attempts are left.
SELECT jobq.create_queue('poison', max_attempts => 100), jobq.create_queue('brittle', max_attempts => 100, max_crashes => 1);
SELECT count(jobq.enqueue('poison', queue => 'poison')), count(jobq.enqueue('brittle', queue => 'brittle'));
SELECT t.take('poison'), t.lose('poison'), t.seen('poison');
-- An attempt that ends properly in between does not wipe the slate.
SELECT t.take('poison'), jobq.fail(t.id('poison'), t.lease('poison'), 'plain error', '0'), t.seen('poison');
SELECT t.take('poison'), t.lose('poison'), t.seen('poison');
SELECT t.take('poison'), t.lose('poison'), t.seen('poison');
SELECT last_error ILIKE '%poison%' OR last_error LIKE '%crash%' AS says_poison FROM jobq.failed_jobs WHERE kind = 'poison';
SELECT t.take('brittle'), t.lose('brittle'), t.seen('brittle');
-- A retry starts over: attempts and crashes.
SELECT jobq.retry(t.id('poison')), t.seen('poison');
SELECT t.take('poison'), t.lose('poison'), t.seen('poison');
SELECT jobq.delete(t.id('poison')), jobq.delete(t.id('brittle'));

-- Cancellation was asked for: cancelled.
SELECT count(jobq.enqueue('stopped'));
SELECT t.take(kinds => '{stopped}'), jobq.cancel(t.id('stopped')), t.lose('stopped'), t.seen('stopped');

-- older_than: no sign of life, whatever the lease. A heartbeat is one.
SELECT count(jobq.enqueue(kind)) FROM unnest('{silent,noisy}'::text[]) AS kind;
BEGIN;
SELECT t.take(kinds => '{silent,noisy}', batch => 2);
UPDATE jobq._job SET lease_expires_at = clock_timestamp() + interval '1 hour', claimed_at = clock_timestamp() - interval '1 hour', seen_at = clock_timestamp() - interval '1 hour', lease_ms = 1 WHERE kind IN ('silent', 'noisy');
SELECT jobq.rescue_zombies(), jobq.rescue_zombies('2 hours');
SELECT jobq.heartbeat(t.id('noisy'), t.lease('noisy'));
SELECT jobq.rescue_zombies('30 minutes');
SELECT t.seen('silent'), t.seen('noisy');
COMMIT;

-- In portions; the rest next time.
SELECT count(jobq.enqueue('portion')) FROM generate_series(1, 25);
SELECT count(*) FROM jobq.claim(batch => 100, kinds => '{portion}');
BEGIN;
UPDATE jobq._job SET lease_expires_at = clock_timestamp() - interval '1 second', lease_ms = 1 WHERE kind = 'portion';
SELECT jobq.rescue_zombies(batch => 10), jobq.rescue_zombies(NULL, 10), jobq.rescue_zombies(batch => 10), jobq.rescue_zombies(batch => 10);
SELECT state, attempt, crashes, count(*) FROM jobq.jobs WHERE kind = 'portion' GROUP BY state, attempt, crashes;
COMMIT;

-- A paused queue's jobs are rescued too. So are those of several queues at once.
SELECT jobq.pause('poison'), count(jobq.enqueue('p', queue => 'brittle')), count(jobq.enqueue('q', queue => 'poison'));
SELECT jobq.resume('poison'), t.take('poison,brittle', 2), jobq.pause('poison');
BEGIN;
UPDATE jobq._job SET lease_expires_at = clock_timestamp() - interval '1 second', lease_ms = 1 WHERE kind IN ('p', 'q');
SELECT jobq.rescue_zombies();
COMMIT;
SELECT t.seen('p'), t.seen('q');

-- An attempt that runs past its timeout ends as if it had failed, even while it heartbeats. (The background worker may be faster
-- than this tick: all in one transaction.)
SELECT jobq.create_queue('timed', timeout => '1 hour', backoff => '{"kind": "constant", "base": "0s"}');
SELECT count(jobq.enqueue('overdue', queue => 'timed')), count(jobq.enqueue('overdue_last', queue => 'timed', max_attempts => 1)), count(jobq.enqueue('overdue_stopped', queue => 'timed')),
       count(jobq.enqueue('in_time', queue => 'timed'));
SELECT t.take('timed', 4);
SELECT jobq.cancel(t.id('overdue_stopped'));
BEGIN;
UPDATE jobq._job SET deadline_at = clock_timestamp() - interval '1 second' WHERE kind LIKE 'overdue%';
SELECT jobq.heartbeat(t.id('overdue'), t.lease('overdue'));
SELECT jobq.tick();
COMMIT;
SELECT kind, t.seen(kind), last_error FROM jobq.jobs WHERE queue = 'timed' ORDER BY kind;
SELECT t.outcome($$jobq.complete(t.id('overdue'), t.lease('overdue'))$$);

-- tick rescues as well.
SELECT count(jobq.enqueue('ticked'));
SELECT t.take(kinds => '{ticked}');
BEGIN;
UPDATE jobq._job SET lease_expires_at = clock_timestamp() - interval '1 second', lease_ms = 1 WHERE kind = 'ticked';
SELECT jobq.tick();
COMMIT;
SELECT t.seen('ticked');

SELECT what, t.outcome(what, says) FROM (VALUES
    (1, $$jobq.rescue_zombies(batch => 0)$$, 'batch'),
    (2, $$jobq.rescue_zombies(batch => -1)$$, 'batch'),
    (3, $$jobq.rescue_zombies('-1 s')$$, 'older_than'),
    (4, $$jobq.rescue_zombies('1 mon -30 days')$$, 'older_than'),
    (5, $$jobq.rescue_zombies('178000000 years')$$, 'older_than'),
    (6, $$jobq.rescue_zombies('1 day', 10000)$$, NULL),
    (7, $$jobq.rescue_zombies(NULL, NULL)$$, NULL)
) AS v (n, what, says) ORDER BY n;
BEGIN READ ONLY;
SELECT jobq.rescue_zombies();
ROLLBACK;
SELECT t.unsound();
