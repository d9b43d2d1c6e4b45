-- Adding jobs: three forms, defaults, times, limits.
\getenv here PG_ABS_SRCDIR
\set prepare :here '/sql/prepare.inc'
\i :prepare
SELECT jobq.create_queue('mail', default_priority => 7, max_attempts => 5, timeout => '90 seconds');

-- Defaults.
SELECT count(jobq.enqueue('plain'));
SELECT j.queue, j.kind, j.state, j.priority, j.payload, j.headers, j.attempt, j.max_attempts, j.crashes, j.claimed_at, j.finished_at,
       j.lease_expires_at, j.deadline_at, j.worker, j.progress, j.note, j.result, j.last_error, j.attempt_errors, j.unique_key, j.cancel_requested
FROM jobq.jobs AS j WHERE j.kind = 'plain' \gx
SELECT j.run_at <= clock_timestamp() AS due, j.enqueued_at <= clock_timestamp() AS enqueued, substr(j.id::text, 15, 1) AS uuid_version FROM jobq.jobs AS j;

-- Positional callers pass NULLs: the same defaults.
SELECT count(jobq.enqueue('nulls', '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL));
SELECT count(*), bool_and(created) FROM jobq.enqueue_many('nulls_many', '[{}]', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
SELECT count(*), bool_and(created) FROM jobq.enqueue_jobs(jsonb_build_array(jsonb_build_object('kind', 'nulls_jobs', 'queue', NULL, 'priority', NULL,
    'run_at', NULL, 'delay', NULL, 'max_attempts', NULL, 'timeout', NULL, 'unique_key', NULL, 'headers', NULL, 'options', NULL)));
SELECT kind, queue, priority, max_attempts, payload, headers, unique_key, run_at <= clock_timestamp() AS due FROM jobq.jobs WHERE kind LIKE 'nulls%' ORDER BY id;

-- Everything given, in each form; the queue's own defaults.
SELECT count(jobq.enqueue('full', '{"n": 1}', 'mail', 32767, NULL, '1 hour', 9, '5 seconds', 'key', '{"trace": "x"}', '{"unique_while": "pending"}'));
SELECT count(*) FROM jobq.enqueue_many('full_many', '[{"n": 1}, [2]]', 'mail', 0, '2000-01-01', NULL, 1, '5 seconds', '{"trace": "x"}', '{}');
SELECT count(*) FROM jobq.enqueue_jobs('[{"kind": "full_jobs", "payload": {"n": 1}, "queue": "mail", "priority": 3, "delay": "1 hour", "max_attempts": 9,
    "timeout": "5 seconds", "unique_key": "other", "headers": {"trace": "x"}, "options": {"unique_while": "pending"}},
    {"kind": "full_jobs", "queue": "mail", "run_at": "2000-01-01T00:00:00Z"}]');
SELECT kind, queue, priority, max_attempts, payload, headers, unique_key, run_at > clock_timestamp() + interval '59 minutes' AS in_an_hour,
       run_at = '2000-01-01 00:00+00' OR run_at = '2000-01-01' AS long_ago
FROM jobq.jobs WHERE kind LIKE 'full%' ORDER BY id;

-- Rows come in the order of the input, ids grow in it, and the payloads belong to them.
CREATE TABLE t.added AS
SELECT 'many' AS form, e.* FROM jobq.enqueue_many('many', (SELECT jsonb_agg(jsonb_build_object('n', n) ORDER BY n) FROM generate_series(1, 2000) AS n))
    WITH ORDINALITY AS e (id, created, place)
UNION ALL
SELECT 'jobs', e.* FROM jobq.enqueue_jobs((SELECT jsonb_agg(jsonb_build_object('kind', 'many', 'payload', jsonb_build_object('n', n)) ORDER BY n)
    FROM generate_series(1, 2000) AS n)) WITH ORDINALITY AS e (id, created, place);
SELECT e.form, count(*), bool_and(e.created) AS created, bool_and(j.payload = jsonb_build_object('n', e.place)) AS payloads_in_order, bool_and(e.id > e.before) AS ids_grow
FROM (SELECT x.*, lag(x.id) OVER (PARTITION BY x.form ORDER BY x.place) AS before FROM t.added AS x) AS e JOIN jobq.jobs AS j ON j.id = e.id
GROUP BY e.form ORDER BY e.form;
SELECT bool_and(x.id > x.before) AS ids_grow
FROM (SELECT e.id, lag(e.id) OVER (ORDER BY e.n) AS before
      FROM (SELECT n, jobq.enqueue('one_by_one') AS id FROM generate_series(1, 2000) AS n) AS e) AS x;
SELECT count(*) FROM jobq.enqueue_many('none', '[]');
SELECT count(*) FROM jobq.enqueue_jobs('[]');

-- A statement may add many jobs; one that fails adds none.
SELECT count(*), count(DISTINCT id) FROM (SELECT jobq.enqueue('in_a_row', jsonb_build_object('n', n)) AS id FROM generate_series(1, 1000) AS n) AS e;
SELECT jobq.enqueue('half', CASE WHEN n < 5 THEN '{}' ELSE '5' END::jsonb) FROM generate_series(1, 10) AS n;
SELECT t.seen('half');
SELECT * FROM jobq.enqueue_jobs('[{"kind": "half"}, {"kind": "half", "priority": -1}]');
SELECT * FROM jobq.enqueue_many('half', '[{}, 5]');
SELECT t.seen('half');

-- run_at in the past, even before Christ: ready now, and no age underflows.
SELECT count(jobq.enqueue('past', queue => 'mail', run_at => x)) FROM unnest('{yesterday,4713-01-01 00:00 BC}'::timestamptz[]) AS x;
SELECT count(jobq.enqueue('now', queue => 'mail', delay => '0'));
SELECT t.take('mail', 10, kinds => '{past,now}');
SELECT count(*) FROM jobq.stats('mail');
SELECT count(*) FROM jobq.queues WHERE name = 'mail';
SELECT count(*) > 0 AS answers FROM jobq.diagnose();

-- As far ahead as it goes.
SELECT t.outcome($$jobq.enqueue('k', delay => '9 years')$$), t.outcome($$jobq.enqueue('k', run_at => clock_timestamp() + interval '9 years')$$);

-- Refused.
SELECT what, t.outcome(what, says) FROM (VALUES
    (1, $$jobq.enqueue(NULL)$$, 'kind'),
    (2, $$jobq.enqueue('')$$, 'kind'),
    (3, $$jobq.enqueue('with space')$$, 'kind'),
    (4, $$jobq.enqueue('comma,')$$, 'kind'),
    (5, $$jobq.enqueue(E'line\n')$$, 'kind'),
    (6, $$jobq.enqueue(repeat('k', 129))$$, 'kind'),
    (7, $$jobq.enqueue(repeat('k', 128))$$, NULL),
    (8, $$jobq.enqueue('mail.Welcome:v2/fast@eu-west_1')$$, NULL),
    (9, $$jobq.enqueue('k', NULL)$$, 'payload'),
    (10, $$jobq.enqueue('k', '5')$$, 'payload'),
    (11, $$jobq.enqueue('k', 'null')$$, 'payload'),
    (12, $$jobq.enqueue('k', '"{\"canary\": 1}"')$$, 'payload'),
    (13, $$jobq.enqueue('k', '"x"')$$, 'encoded twice'),
    (14, $$jobq.enqueue('k', 'true')$$, 'payload'),
    (15, $$jobq.enqueue('k', '[]')$$, NULL),
    (16, $$jobq.enqueue('k', '{}')$$, NULL),
    (20, $$jobq.enqueue('k', queue => '')$$, 'queue'),
    (21, $$jobq.enqueue('k', queue => ' ')$$, 'queue'),
    (22, $$jobq.enqueue('k', queue => 'a ')$$, 'queue'),
    (23, $$jobq.enqueue('k', queue => 'mail,default')$$, 'queue'),
    (24, $$jobq.enqueue('k', queue => repeat('q', 64))$$, 'queue'),
    (25, $$jobq.enqueue('k', queue => repeat('q', 10000))$$, 'queue'),
    (26, $$jobq.enqueue('k', queue => 'a"; DROP TABLE jobq._job; --')$$, 'queue'),
    (27, $x$jobq.enqueue('k', queue => '$$ %I %s '' \')$x$, 'queue'),
    (28, $$jobq.enqueue('k', queue => U&'mail\200B')$$, 'queue'),
    (29, $$jobq.enqueue('k', queue => 'nosuch')$$, 'create_queue'),
    (30, $$jobq.enqueue('k', queue => 'Mail')$$, 'Mail'),
    (31, $$jobq.enqueue('k', queue => 'jobs/eu')$$, 'queue'),
    (40, $$jobq.enqueue('k', priority => -1)$$, 'priority'),
    (41, $$jobq.enqueue('k', priority => 32768)$$, 'priority'),
    (42, $$jobq.enqueue('k', priority => 2147483647)$$, 'priority'),
    (43, $$jobq.enqueue('k', priority => -2147483648)$$, 'priority'),
    (44, $$jobq.enqueue('k', priority => 0)$$, NULL),
    (45, $$jobq.enqueue('k', priority => 32767)$$, NULL),
    (50, $$jobq.enqueue('k', run_at => clock_timestamp(), delay => '1 s')$$, 'delay'),
    (51, $$jobq.enqueue('k', run_at => 'infinity')$$, 'run_at'),
    (52, $$jobq.enqueue('k', run_at => '-infinity')$$, 'run_at'),
    (53, $$jobq.enqueue('k', run_at => clock_timestamp() + interval '11 years')$$, 'run_at'),
    (54, $$jobq.enqueue('k', run_at => '294276-12-31 23:59:59.999999+00')$$, 'run_at'),
    (60, $$jobq.enqueue('k', delay => '-1 second')$$, 'delay'),
    (61, $$jobq.enqueue('k', delay => '1 mon -30 days')$$, 'delay'),
    (62, $$jobq.enqueue('k', delay => '-1 mon 30 days')$$, 'delay'),
    (63, $$jobq.enqueue('k', delay => '1 day -1 second')$$, 'delay'),
    (64, $$jobq.enqueue('k', delay => '11 years')$$, 'delay'),
    (65, $$jobq.enqueue('k', delay => '90000000000')$$, 'seconds'),
    (66, $$jobq.enqueue('k', delay => '178000000 years')$$, 'delay'),
    (67, $$jobq.enqueue('k', delay => '2147483647 months 2147483647 days')$$, 'delay'),
    (70, $$jobq.enqueue('k', max_attempts => 0)$$, 'max_attempts'),
    (71, $$jobq.enqueue('k', max_attempts => -1)$$, 'max_attempts'),
    (72, $$jobq.enqueue('k', max_attempts => 2147483647)$$, 'max_attempts'),
    (73, $$jobq.enqueue('k', max_attempts => 1)$$, NULL),
    (74, $$jobq.enqueue('k', timeout => '-1 second')$$, 'timeout'),
    (75, $$jobq.enqueue('k', timeout => '1 mon -30 days')$$, 'timeout'),
    (76, $$jobq.enqueue('k', timeout => '178000000 years')$$, 'timeout'),
    (80, $$jobq.enqueue('k', unique_key => '')$$, 'unique_key'),
    (81, $$jobq.enqueue('k', unique_key => repeat('x', 10240))$$, 'unique_key'),
    (82, $$jobq.enqueue('k', unique_key => U&'any text, \00E9\D83D\DE00')$$, NULL),
    (83, $$jobq.enqueue('k', headers => '[]')$$, 'headers'),
    (84, $$jobq.enqueue('k', headers => '"canary"')$$, 'headers'),
    (85, $$jobq.enqueue('k', headers => 'null')$$, 'headers'),
    (86, $$jobq.enqueue('k', headers => jsonb_build_object('h', repeat('canary', 200000)))$$, 'headers'),
    (90, $$jobq.enqueue('k', options => '[]')$$, 'options'),
    (91, $$jobq.enqueue('k', options => '{"nosuch": 1}')$$, 'nosuch'),
    (92, $$jobq.enqueue('k', unique_key => 'u', options => '{"unique_while": "sleeping"}')$$, 'unique_while'),
    (93, $$jobq.enqueue('k', unique_key => 'u', options => '{"unique_while": 5}')$$, 'unique_while'),
    (94, $$jobq.enqueue('k', options => '{}')$$, NULL),
    (95, $$jobq.enqueue('k', jsonb_build_object('p', repeat('canary', 200000)))$$, 'payload'),
    (96, $$jobq.enqueue('k', jsonb_build_object('p', repeat('x', 1000000)))$$, NULL)
) AS v (n, what, says) ORDER BY n;

-- Durations that some versions cannot even read.
SELECT t.outcome($$jobq.enqueue('k', delay => 'infinity')$$) IN ('22007', '22023') AS infinite,
       t.outcome($$jobq.enqueue('k', delay => make_interval(secs => 1e300))$$) IN ('22008', '22023') AS overflowing,
       t.outcome($$jobq.enqueue('k', delay => make_interval(secs => 'NaN'))$$) IN ('22008', '22023') AS nan,
       t.outcome($$jobq.enqueue('k', run_at => to_timestamp('Infinity'))$$) AS infinite_run_at;

SELECT what, t.outcome(what, says) FROM (VALUES
    (1, $$jobq.enqueue_many(NULL, '[{}]')$$, 'kind'),
    (2, $$jobq.enqueue_many('k', NULL)$$, 'payloads'),
    (3, $$jobq.enqueue_many('k', '{}')$$, 'payloads'),
    (4, $$jobq.enqueue_many('k', '"canary"')$$, 'payloads'),
    (5, $$jobq.enqueue_many('k', 'null')$$, 'payloads'),
    (6, $$jobq.enqueue_many('k', '[{}, "canary"]')$$, 'payload'),
    (7, $$jobq.enqueue_many('k', '[{}, null]')$$, 'payload'),
    (8, $$jobq.enqueue_many('k', '[{}, "x"]')$$, 'encoded twice'),
    (9, $$jobq.enqueue_many('k', '[[], [1], {}]')$$, NULL),
    (10, $$jobq.enqueue_many('k', '[]', queue => 'nosuch')$$, 'nosuch'),
    (11, $$jobq.enqueue_many('k', '[{}]', run_at => clock_timestamp(), delay => '0')$$, 'delay'),
    (12, $$jobq.enqueue_many('k', '[{}]', options => '{"unique_key": "x"}')$$, 'unique_key'),
    (13, $$jobq.enqueue_many('k', jsonb_build_array(jsonb_build_object('p', repeat('canary', 200000))))$$, 'payload'),
    (14, $$jobq.enqueue_many('k', (SELECT jsonb_agg('{}'::jsonb) FROM generate_series(1, 10000)))$$, NULL),
    (15, $$jobq.enqueue_many('k', (SELECT jsonb_agg('{}'::jsonb) FROM generate_series(1, 100001)))$$, 'payloads'),
    (20, $$jobq.enqueue_jobs(NULL)$$, 'jobs'),
    (21, $$jobq.enqueue_jobs('{}')$$, 'jobs'),
    (22, $$jobq.enqueue_jobs('5')$$, 'jobs'),
    (23, $$jobq.enqueue_jobs('[5]')$$, 'jobs'),
    (24, $$jobq.enqueue_jobs('[null]')$$, 'jobs'),
    (25, $$jobq.enqueue_jobs('[{"kind": "k"}, [1]]')$$, 'jobs'),
    (26, $$jobq.enqueue_jobs('[{}]')$$, 'kind'),
    (27, $$jobq.enqueue_jobs('[{"kind": null}]')$$, 'kind'),
    (28, $$jobq.enqueue_jobs('[{"kind": ""}]')$$, 'kind'),
    (29, $$jobq.enqueue_jobs('[{"kind": "k", "payload": 5}]')$$, 'payload'),
    (30, $$jobq.enqueue_jobs('[{"kind": "k", "payload": "x"}]')$$, 'encoded twice'),
    (31, $$jobq.enqueue_jobs('[{"kind": "k", "payload": [1]}]')$$, NULL),
    (31, $$jobq.enqueue_jobs('[{"kind": "k", "payload": null}]')$$, 'payload'),
    (32, $$jobq.enqueue_jobs('[{"kind": "k", "nosuch": 1}]')$$, 'nosuch'),
    (33, $$jobq.enqueue_jobs('[{"kind": "k", "options": {"nosuch": 1}}]')$$, 'nosuch'),
    (34, $$jobq.enqueue_jobs('[{"kind": "k", "queue": "nosuch"}]')$$, 'nosuch'),
    (35, $$jobq.enqueue_jobs('[{"kind": "k", "priority": "high"}]')$$, NULL),
    (36, $$jobq.enqueue_jobs('[{"kind": "k", "priority": 2.5}]')$$, NULL),
    (37, $$jobq.enqueue_jobs('[{"kind": "k", "priority": 99999999999}]')$$, NULL),
    (38, $$jobq.enqueue_jobs('[{"kind": "k", "run_at": "someday"}]')$$, NULL),
    (39, $$jobq.enqueue_jobs('[{"kind": "k", "delay": "a while"}]')$$, NULL),
    (40, $$jobq.enqueue_jobs('[{"kind": "k", "headers": [1]}]')$$, 'headers'),
    (41, $$jobq.enqueue_jobs('[{"kind": "k", "unique_key": ""}]')$$, 'unique_key'),
    (42, $$jobq.enqueue_jobs('[{"kind": "k", "run_at": "2030-01-01Z", "delay": "1 s"}]')$$, 'delay'),
    (43, $$jobq.enqueue_jobs('[{"kind": "k", "delay": "-1 s"}]')$$, 'delay'),
    (44, $$jobq.enqueue_jobs('[{"kind": "k", "max_attempts": 0}]')$$, 'max_attempts'),
    (45, $$jobq.enqueue_jobs((SELECT jsonb_agg('{"kind": "k"}'::jsonb) FROM generate_series(1, 10000)))$$, NULL),
    (46, $$jobq.enqueue_jobs((SELECT jsonb_agg('{"kind": "k"}'::jsonb) FROM generate_series(1, 100001)))$$, 'jobs'),
    (47, $$jobq.enqueue_jobs(jsonb_build_array(jsonb_build_object('kind', 'k', 'payload', jsonb_build_object('p', repeat('canary', 200000)))))$$, 'payload')
) AS v (n, what, says) ORDER BY n;

-- Part of the caller's transaction.
BEGIN;
SELECT count(jobq.enqueue('rolled_back'));
SAVEPOINT s;
SELECT count(jobq.enqueue('to_savepoint'));
ROLLBACK TO SAVEPOINT s;
SELECT t.seen('rolled_back'), t.seen('to_savepoint');
ROLLBACK;
SELECT t.seen('rolled_back');
BEGIN;
SELECT count(jobq.enqueue('before_savepoint'));
SAVEPOINT s;
SELECT count(jobq.enqueue('to_savepoint'));
ROLLBACK TO SAVEPOINT s;
COMMIT;
SELECT t.seen('before_savepoint'), t.seen('to_savepoint');
BEGIN;
SELECT count(jobq.enqueue('prepared'));
PREPARE TRANSACTION 'regress_jobq';
SELECT t.seen('prepared');
COMMIT PREPARED 'regress_jobq';
SELECT t.seen('prepared');
BEGIN READ ONLY;
SELECT jobq.enqueue('k');
ROLLBACK;
BEGIN;
SELECT 1 / 0;
SELECT jobq.enqueue('k');
ROLLBACK;

-- From a trigger, in the transaction of the row.
CREATE TABLE t.account (name text);
CREATE FUNCTION t.welcome() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM jobq.enqueue('welcome', jsonb_build_object('name', NEW.name));
    RETURN NEW;
END
$$;
CREATE TRIGGER welcome AFTER INSERT ON t.account FOR EACH ROW EXECUTE FUNCTION t.welcome();
INSERT INTO t.account VALUES ('Ada'), ('Bob');
SELECT payload FROM jobq.jobs WHERE kind = 'welcome' ORDER BY id;

-- Nowhere where it could be planned away.
CREATE INDEX ON t.account (jobq.enqueue(name));

-- max_depth: approximate, but a limit.
SELECT jobq.create_queue('small', max_depth => 10);
DO $$
DECLARE
    added int := 0;
BEGIN
    LOOP
        PERFORM jobq.enqueue('deep', queue => 'small');
        added := added + 1;
        EXIT WHEN added = 1000;
    END LOOP;
    RAISE WARNING 'max_depth is no limit';
EXCEPTION WHEN SQLSTATE '53400' THEN
    IF added < 10 OR added > 100 THEN
        RAISE WARNING 'max_depth of 10 refused at %', added;
    END IF;
END
$$;
SELECT t.outcome($$jobq.enqueue('deep', queue => 'mail')$$);
SELECT count(*) FROM jobq.enqueue_many('deep', (SELECT jsonb_agg('{}'::jsonb) FROM generate_series(1, 10)), 'small');
SELECT t.outcome($$jobq.enqueue('deep', queue => 'small')$$, 'max_depth'),
       t.outcome($$jobq.enqueue_many('deep', '[{}]', 'small')$$, 'max_depth'),
       t.outcome($$jobq.enqueue_jobs('[{"kind": "deep", "queue": "small"}]')$$, 'max_depth');
SELECT t.unsound();
