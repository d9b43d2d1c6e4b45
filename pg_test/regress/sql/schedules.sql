-- Schedules: make, change, pause, run, preview, drop. Their ticks are far ahead, or moved into the past and run by tick() in the same
-- transaction: the background worker may be at work beside.
\getenv here PG_ABS_SRCDIR
\set prepare :here '/sql/prepare.inc'
\i :prepare
SET TimeZone = 'UTC';
\set ECHO none
-- Moves a schedule's next tick, as if time had passed, and runs what is due: the jobs that come of it.
CREATE FUNCTION t.pass(name text, ago interval, OUT jobs bigint) LANGUAGE plpgsql AS $$
DECLARE
    before bigint := (SELECT count(*) FROM jobq._job AS j WHERE j.headers ->> 'jobq_schedule' = pass.name);
BEGIN
    UPDATE jobq._schedule AS s SET next_at = date_trunc('minute', clock_timestamp()) - ago, due_at = date_trunc('minute', clock_timestamp()) - ago WHERE s.name = pass.name;
    PERFORM jobq.tick();
    jobs := (SELECT count(*) FROM jobq._job AS j WHERE j.headers ->> 'jobq_schedule' = pass.name) - before;
END
$$;
\set ECHO all

-- Made with defaults, or with everything; the next run comes back.
SELECT jobq.schedule('plain', '0 3 1 1 *', 'report') > clock_timestamp() AS ahead;
SELECT jobq.create_queue('cellar');
SELECT jobq.schedule('full', '30 0 3 * * mon-fri', 'back/up', '{"n": 123456789012345678901234567890.10}', 'cellar', 'europe/berlin', 'all', 'queue', '90 seconds',
    '2033-01-03 00:00:00+00', '2034-01-01', 0, 7, '2 hours', '{"trace": "x"}', '{"catch_up_max": 5}');
SELECT jobq.schedule('nulls', '@daily', 'k', '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL) = date_trunc('day', now()) + interval '1 day' AS midnight;
SELECT name, cron, timezone, kind, queue, payload, headers, priority, max_attempts, timeout_seconds, catch_up, catch_up_max, overlap, jitter_seconds, starts_at, ends_at, paused,
       next_run_at > clock_timestamp() AS ahead, last_run_at, last_enqueued_at, last_job_id, last_error, created_at <= clock_timestamp() AS created
FROM jobq.schedules ORDER BY name \gx
SELECT * FROM jobq.preview('full', 3);
SELECT count(*), min(preview) = date_trunc('day', now()) + interval '1 day' AS from_the_next FROM jobq.preview('nulls');
SELECT jobq.preview('full', 2), 1 AS one;
-- Intervals begin with starts_at, or count from now on whole seconds. A window without a tick, or one that is over: none.
SELECT jobq.schedule('steps', '1 hour 30 min', 'k', starts_at => '2033-01-03 00:00:00.2+00');
SELECT * FROM jobq.preview('steps', 3);
SELECT jobq.schedule('from_now', '@every 10 s', 'k') > clock_timestamp() AS ahead;
SELECT next_run_at < clock_timestamp() + interval '10 s' AS soon, extract(microseconds FROM next_run_at)::int % 1000000 AS micros FROM jobq.schedules WHERE name = 'from_now';
SELECT jobq.schedule('over', '* * * * *', 'k', ends_at => '2020-01-01'), jobq.schedule('between', '0 0 1 1 *', 'k', starts_at => '2033-02-01', ends_at => '2033-03-01');
SELECT count(*) FROM jobq.preview('over');
SELECT jobq.unschedule('from_now'), jobq.unschedule('from_now'), jobq.unschedule('over'), jobq.unschedule('between'), jobq.unschedule('nulls'), jobq.unschedule('steps');

-- alter_schedule: NULL is unchanged. The next run is found anew if the times have changed.
SELECT jobq.alter_schedule('full');
SELECT jobq.alter_schedule('full', cron => '0 4 * * *', timezone => 'UTC', kind => 'other', payload => '[1]', queue => 'default', catch_up => 'skip', overlap => 'skip', jitter => '0',
    starts_at => '2033-05-01', priority => 3, max_attempts => 2, timeout => '1 min', headers => '{}', options => '{"catch_up_max": 9}');
SELECT jobq.alter_schedule('full', options => '{"clear": ["ends_at", "priority", "max_attempts", "timeout", "headers"]}');
SELECT name, cron, timezone, kind, queue, payload, headers, priority, max_attempts, timeout_seconds, catch_up, catch_up_max, overlap, jitter_seconds, starts_at, ends_at, next_run_at
FROM jobq.schedules WHERE name = 'full' \gx
SELECT jobq.alter_schedule('full', options => '{"clear": ["starts_at"]}') < clock_timestamp() + interval '1 day' AS soon;
BEGIN;
SELECT jobq.alter_schedule('full', ends_at => '2020-01-01'), jobq.unschedule('plain');
ROLLBACK;
SELECT name, ends_at FROM jobq.schedules ORDER BY name;

SELECT n, what, t.outcome(what, says) FROM (VALUES
    (1, $$jobq.schedule(NULL, '@daily', 'k')$$, 'name'),
    (2, $$jobq.schedule('n', NULL, 'k')$$, 'cron'),
    (3, $$jobq.schedule('n', '@daily', NULL)$$, 'kind'),
    (4, $$jobq.schedule('n', '@daily', 'k', NULL)$$, 'payload'),
    (5, $$jobq.schedule('', '@daily', 'k')$$, 'name'),
    (6, $$jobq.schedule('a b', '@daily', 'k')$$, 'name'),
    (7, $$jobq.schedule(repeat('n', 64), '@daily', 'k')$$, 'name'),
    (8, $$jobq.schedule('plain', '@daily', 'k')$$, 'alter_schedule'),
    (9, $$jobq.schedule('Plain', '@daily', 'k')$$, NULL),
    (10, $$jobq.schedule('n', '', 'k')$$, 'cron'),
    (11, $$jobq.schedule('n', 'soon', 'k')$$, 'cron'),
    (12, $$jobq.schedule('n', '* * * *', 'k')$$, 'cron'),
    (13, $$jobq.schedule('n', '61 * * * *', 'k')$$, 'minute'),
    (14, $$jobq.schedule('n', '0 0 30 2 *', 'k')$$, 'never'),
    (15, $$jobq.schedule('n', '@reboot', 'k')$$, 'cron'),
    (16, $$jobq.schedule('n', '0 s', 'k')$$, 'cron'),
    (17, $$jobq.schedule('n', '400 days', 'k')$$, 'cron'),
    (18, $$jobq.schedule('n', repeat('* ', 200), 'k')$$, 'cron'),
    (19, $$jobq.schedule('n', '* * * * jan', 'k')$$, 'JAN'),
    (20, $$jobq.schedule('n', '@daily', 'k', '"text"')$$, 'payload'),
    (21, $$jobq.schedule('n', '@daily', 'k', jsonb_build_object('x', repeat('x', 1100000)))$$, 'payload'),
    (22, $$jobq.schedule('n', '@daily', 'a kind')$$, 'kind'),
    (23, $$jobq.schedule('n', '@daily', 'k', queue => 'nosuch')$$, 'create_queue'),
    (24, $$jobq.schedule('n', '@daily', 'k', queue => 'a,b')$$, 'queue'),
    (25, $$jobq.schedule('n', '@daily', 'k', timezone => 'Mars/Phobos')$$, 'IANA'),
    (26, $$jobq.schedule('n', '@daily', 'k', timezone => '')$$, 'timezone'),
    (27, $$jobq.schedule('n', '@daily', 'k', catch_up => 'some')$$, 'skip, last, all'),
    (28, $$jobq.schedule('n', '@daily', 'k', overlap => 'cancel')$$, 'allow, skip, queue'),
    (29, $$jobq.schedule('n', '@daily', 'k', jitter => '-1 s')$$, 'jitter'),
    (30, $$jobq.schedule('n', '@daily', 'k', jitter => '61 min')$$, 'jitter'),
    (31, $$jobq.schedule('n', '@daily', 'k', starts_at => 'infinity')$$, 'starts_at'),
    (32, $$jobq.schedule('n', '@daily', 'k', starts_at => '2099-01-01')$$, 'starts_at'),
    (33, $$jobq.schedule('n', '@daily', 'k', ends_at => '-infinity')$$, 'ends_at'),
    (34, $$jobq.schedule('n', '@daily', 'k', starts_at => '2033-01-01', ends_at => '2033-01-01')$$, 'ends_at'),
    (35, $$jobq.schedule('n', '@daily', 'k', priority => -1)$$, 'priority'),
    (36, $$jobq.schedule('n', '@daily', 'k', max_attempts => 0)$$, 'max_attempts'),
    (37, $$jobq.schedule('n', '@daily', 'k', timeout => '0')$$, 'timeout'),
    (38, $$jobq.schedule('n', '@daily', 'k', headers => '[]')$$, 'headers'),
    (39, $$jobq.schedule('n', '@daily', 'k', headers => jsonb_build_object('x', repeat('x', 70000)))$$, 'headers'),
    (40, $$jobq.schedule('n', '@daily', 'k', options => '{"nosuch": 1}')$$, 'nosuch'),
    (41, $$jobq.schedule('n', '@daily', 'k', options => '{"clear": []}')$$, 'clear'),
    (42, $$jobq.schedule('n', '@daily', 'k', options => '[]')$$, 'options'),
    (43, $$jobq.schedule('n', '@daily', 'k', options => '{"catch_up_max": 0}')$$, 'catch_up_max'),
    (44, $$jobq.schedule('n', '@daily', 'k', options => '{"catch_up_max": "5"}')$$, 'catch_up_max'),
    (45, $$jobq.schedule('n', '@daily', 'k', options => '{"catch_up_max": 10001}')$$, 'catch_up_max'),
    (50, $$jobq.alter_schedule(NULL)$$, 'name'),
    (51, $$jobq.alter_schedule('nosuch')$$, 'jobq.schedules'),
    (52, $$jobq.alter_schedule('plain', cron => 'x')$$, 'cron'),
    (53, $$jobq.alter_schedule('plain', queue => 'nosuch')$$, 'create_queue'),
    (54, $$jobq.alter_schedule('plain', timezone => 'nosuch')$$, 'timezone'),
    (55, $$jobq.alter_schedule('plain', cron => '0 0 31 4 *')$$, 'never'),
    (56, $$jobq.alter_schedule('plain', starts_at => '2033-01-01', ends_at => '2032-01-01')$$, 'ends_at'),
    (57, $$jobq.alter_schedule('plain', options => '{"clear": ["cron"]}')$$, 'clear'),
    (58, $$jobq.alter_schedule('plain', options => '{"clear": "ends_at"}')$$, 'clear'),
    (59, $$jobq.alter_schedule('plain', priority => 1, options => '{"clear": ["priority"]}')$$, 'priority'),
    (60, $$jobq.unschedule(NULL)$$, 'name'),
    (61, $$jobq.unschedule('')$$, 'name'),
    (62, $$jobq.pause_schedule(NULL)$$, 'name'),
    (63, $$jobq.pause_schedule('nosuch')$$, 'nosuch'),
    (64, $$jobq.resume_schedule(NULL)$$, 'name'),
    (65, $$jobq.resume_schedule('nosuch')$$, 'nosuch'),
    (66, $$jobq.run_now(NULL)$$, 'name'),
    (67, $$jobq.run_now('nosuch')$$, 'nosuch'),
    (68, $$jobq.preview(NULL)$$, 'name'),
    (69, $$jobq.preview('nosuch')$$, 'nosuch'),
    (70, $$jobq.preview('plain', 0)$$, 'between 1 and 1000'),
    (71, $$jobq.preview('plain', 1001)$$, 'between 1 and 1000'),
    (72, $$jobq.drop_queue('cellar')$$, NULL)
) AS v (n, what, says) ORDER BY n;

-- A queue that a schedule names goes only by force; the schedule then fails until it is altered.
SELECT jobq.schedule('in_cellar', '0 0 29 2 *', 'k', queue => 'cellar') > now() AS ahead;
SELECT t.outcome($$jobq.drop_queue('cellar')$$, 'force'), t.outcome($$jobq.drop_queue('cellar')$$, 'in_cellar');
SELECT jobq.drop_queue('cellar', true);
SELECT t.pass('in_cellar', '0');
SELECT name, last_error, last_run_at, next_run_at < clock_timestamp() AS due_still FROM jobq.schedules WHERE name = 'in_cellar';
SELECT failures > 0 AS failed, due_at > clock_timestamp() AS later FROM jobq._schedule WHERE name = 'in_cellar';
SELECT status, detail ~ '1 could not enqueue.*in_cellar' AS names_it, hint ~ 'last_error' AS hints FROM jobq.diagnose() WHERE check_name = 'schedules';
-- Each failure doubles the pause, up to a minute; no tick is lost.
SELECT t.pass('in_cellar', '0') FROM generate_series(1, 8);
SELECT failures > 8 AS failed, due_at > clock_timestamp() + interval '50 s' AS much_later FROM jobq._schedule WHERE name = 'in_cellar';
BEGIN;
SELECT jobq.alter_schedule('in_cellar', queue => 'default') < clock_timestamp() AS at_once;
SELECT last_error FROM jobq.schedules WHERE name = 'in_cellar';
SELECT jobq.tick() >= 0 AS ticked;
SELECT s.last_error, j.kind, j.queue, s.last_run_at = (j.headers ->> 'jobq_tick')::timestamptz AS its_tick, s.next_run_at > clock_timestamp() AS ahead
FROM jobq.schedules AS s JOIN jobq.jobs AS j ON j.id = s.last_job_id WHERE s.name = 'in_cellar';
COMMIT;
SELECT status FROM jobq.diagnose() WHERE check_name = 'schedules';
SELECT jobq.unschedule('in_cellar'), count(jobq.delete(id)) FROM jobq.jobs;

-- A tick: the job has the schedule's values and says which tick it is of; it is ready from the tick on.
SELECT jobq.unschedule('full'), jobq.unschedule('plain');
SELECT jobq.schedule('tick', '0 0 29 2 *', 'made', '{"big": 1.10}', priority => 5, max_attempts => 9, timeout => '1 h', headers => '{"a": 1, "jobq_tick": "mine"}') IS NOT NULL AS made;
SELECT t.pass('tick', '0');
SELECT j.kind, j.payload, j.priority, j.max_attempts, j.headers - 'jobq_tick' AS headers, (j.headers ->> 'jobq_tick')::timestamptz = date_trunc('minute', j.run_at) AS says_when,
       j.headers ->> 'jobq_tick' ~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:00Z$' AS iso, j.unique_key ~ '^schedule/tick/\d+$' AS keyed
FROM jobq.jobs AS j WHERE j.kind = 'made';
SELECT name, last_run_at <= last_enqueued_at AS ran, last_job_id = t.id('made') AS its_job, next_run_at > clock_timestamp() AS ahead, last_error FROM jobq.schedules WHERE name = 'tick';
SELECT t.pass('tick', '0'), t.pass('tick', '1 min');
SELECT count(*), count(DISTINCT unique_key) FROM jobq.jobs WHERE kind = 'made';
SELECT count(jobq.delete(id)) FROM jobq.jobs;
-- Rolled back, the job is gone and the tick is still to come.
BEGIN;
SELECT t.pass('tick', '0');
ROLLBACK;
SELECT count(*) FROM jobq.jobs;
SELECT jobq.unschedule('tick');

-- catch_up. Every minute, the first tick an hour ago: a tick that is up to a minute late is not missed.
SELECT jobq.schedule(name, '* * * * *', 'caught', catch_up => catch_up, options => options::jsonb) IS NOT NULL AS made, jobq.pause_schedule(name)
FROM (VALUES ('skips', 'skip', NULL), ('lasts', 'last', NULL), ('alls', 'all', '{"catch_up_max": 7}'), ('defaults', NULL, NULL)) AS v (name, catch_up, options);
BEGIN;
UPDATE jobq._schedule SET paused = false, next_at = date_trunc('minute', clock_timestamp()) - interval '1 h', due_at = date_trunc('minute', clock_timestamp()) - interval '1 h';
SELECT jobq.tick() >= 0 AS ticked;
SELECT s.name, count(j.id) BETWEEN w.least AND w.least + 1 AS as_many_as_wanted,
       min(s.next_run_at) > clock_timestamp() - interval '1 min' AS goes_on
FROM jobq.schedules AS s JOIN (VALUES ('skips', 1), ('lasts', 1), ('alls', 8), ('defaults', 1)) AS w (name, least) USING (name)
LEFT JOIN jobq.jobs AS j ON j.headers ->> 'jobq_schedule' = s.name GROUP BY s.name, w.least ORDER BY s.name;
ROLLBACK;
SELECT count(jobq.unschedule(name)) FROM jobq.schedules;
-- Once a year, the tick two hours ago: only what was missed is due.
SELECT jobq.schedule('skips', '0 0 29 2 *', 'caught', catch_up => 'skip') IS NOT NULL, jobq.schedule('lasts', '0 0 29 2 *', 'caught') IS NOT NULL, jobq.schedule('alls', '0 0 29 2 *', 'caught', catch_up => 'all') IS NOT NULL;
SELECT t.pass('skips', '2 h'), t.pass('lasts', '2 h'), t.pass('alls', '2 h');
SELECT name, next_run_at > clock_timestamp() AS goes_on, last_run_at IS NULL AS never_ran FROM jobq.schedules ORDER BY name;
SELECT count(jobq.delete(id)) FROM jobq.jobs;
SELECT count(jobq.unschedule(name)) FROM jobq.schedules;

-- overlap. skip: nothing new while its job is unfinished. queue: one may wait.
SELECT jobq.schedule('skips', '0 0 29 2 *', 'lone', overlap => 'skip') IS NOT NULL, jobq.schedule('queues', '0 0 29 2 *', 'line', overlap => 'queue') IS NOT NULL;
SELECT t.pass('skips', '0'), t.pass('queues', '0');
SELECT t.pass('skips', '0'), t.pass('queues', '0');
SELECT t.take(kinds => '{lone}'), t.take(kinds => '{line}');
SELECT t.pass('skips', '0'), t.pass('queues', '0');
SELECT t.pass('skips', '0'), t.pass('queues', '0');
SELECT t.seen('lone') AS lone, t.seen('line') AS line;
SELECT jobq.complete(t.id('lone'), t.lease('lone'));
SELECT t.pass('skips', '0'), t.seen('lone');
-- run_now respects it; with allow it makes a job each time, also of a paused schedule. It is no tick.
SELECT jobq.run_now('skips') = t.id('lone') AS the_one_that_is_there;
SELECT jobq.schedule('allows', '0 0 29 2 *', 'free', headers => '{"a": 1}') IS NOT NULL, jobq.pause_schedule('allows');
SELECT jobq.run_now('allows') <> jobq.run_now('allows') AS two_jobs;
SELECT headers, unique_key FROM jobq.jobs WHERE kind = 'free';
SELECT last_run_at, last_enqueued_at IS NOT NULL AS enqueued, last_job_id = t.id('free') AS the_last FROM jobq.schedules WHERE name = 'allows';
SELECT count(jobq.unschedule(name)) FROM jobq.schedules;
SELECT count(jobq.delete(id)) FROM jobq.jobs WHERE state <> 'running';
SELECT jobq.complete(id, lease) FROM t.held WHERE kind = 'line';

-- pause and resume: what was due meanwhile is not made up for.
SELECT jobq.schedule('rests', '* * * * *', 'k', catch_up => 'all') IS NOT NULL AS made, jobq.pause_schedule('rests'), jobq.pause_schedule('rests');
SELECT paused, next_run_at FROM jobq.schedules WHERE name = 'rests';
SELECT count(*) FROM jobq.preview('rests', 5);
SELECT jobq.alter_schedule('rests', cron => '@hourly');
SELECT jobq.resume_schedule('rests'), jobq.resume_schedule('rests');
SELECT paused, next_run_at < clock_timestamp() + interval '1 h' AND extract(minute FROM next_run_at) = 0 AS next_hour FROM jobq.schedules WHERE name = 'rests';
SELECT jobq.unschedule('rests');

-- jitter delays the job, not the tick.
SELECT jobq.schedule('shakes', '0 0 29 2 *', 'shaken', jitter => '1 h') IS NOT NULL AS made;
SELECT t.pass('shakes', '0');
SELECT run_at - (headers ->> 'jobq_tick')::timestamptz BETWEEN '0' AND '1 h' AS within, run_at <> (headers ->> 'jobq_tick')::timestamptz AS delayed FROM jobq.jobs WHERE kind = 'shaken';
SELECT count(jobq.delete(id)), min(jobq.unschedule('shakes')::text) FROM jobq.jobs WHERE kind = 'shaken';

-- What can go wrong at a tick does not stop the others.
SELECT jobq.create_queue('small', max_depth => 1);
SELECT jobq.schedule('a_fails', '0 0 29 2 *', 'k', queue => 'small') IS NOT NULL, jobq.schedule('b_works', '0 0 29 2 *', 'k') IS NOT NULL;
SELECT count(jobq.enqueue('k', queue => 'small'));
BEGIN;
UPDATE jobq._schedule SET next_at = date_trunc('minute', clock_timestamp()), due_at = date_trunc('minute', clock_timestamp());
SELECT jobq.tick() >= 0 AS ticked;
SELECT name, last_error, last_job_id IS NOT NULL AS ran FROM jobq.schedules ORDER BY name;
COMMIT;
SELECT count(jobq.delete(id)) FROM jobq.jobs;
SELECT count(jobq.unschedule(name)) FROM jobq.schedules;
SELECT jobq.drop_queue('small');

-- Read only.
BEGIN READ ONLY;
SELECT t.outcome($$jobq.schedule('n', '@daily', 'k')$$), t.outcome($$jobq.unschedule('n')$$), t.outcome($$jobq.alter_schedule('n')$$), t.outcome($$jobq.pause_schedule('n')$$), t.outcome($$jobq.run_now('n')$$);
COMMIT;
SELECT t.unsound();
