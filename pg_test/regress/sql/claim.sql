-- Handing out jobs: order, filters, leases, limits.
\getenv here PG_ABS_SRCDIR
\set prepare :here '/sql/prepare.inc'
\i :prepare
SELECT jobq.create_queue('high'), jobq.create_queue('low'), jobq.create_queue('timed', timeout => '90 seconds', lease_for => '10 minutes');

-- By priority, run_at and id, whatever the order of arrival; rows come in that order.
SELECT count(jobq.enqueue(kind, priority => priority, run_at => run_at::timestamptz)) FROM (VALUES
    ('p3', 3, NULL), ('p2_first', NULL, NULL), ('p2_second', 2, NULL), ('p1', 1, NULL), ('p2_old', 2, '2001-01-01'), ('p2_older', 2, '2000-01-01'),
    ('p3_old', 3, '2000-01-01'), ('p0_ahead', 0, '2034-01-01'), ('p32767', 32767, '2000-01-01'), ('p0', 0, NULL)) AS v (kind, priority, run_at);
SELECT t.take();
SELECT t.take(batch => 3);
SELECT t.take(batch => 100);
SELECT t.take(batch => 100);
SELECT t.seen('p0_ahead');
-- Same time: in the order of their ids.
BEGIN;
SELECT count(*) FROM jobq.enqueue_many('batch', (SELECT jsonb_agg(jsonb_build_object('n', n) ORDER BY n) FROM generate_series(1, 500) AS n));
SELECT count(*), bool_and(place = (payload ->> 'n')::int) AS in_order FROM jobq.claim(batch => 200) WITH ORDINALITY AS c (id, lease, queue, kind, payload,
    headers, attempt, max_attempts, priority, enqueued_at, run_at, lease_expires_at, deadline_at, crashes, last_error, place);
SELECT count(*), min((payload ->> 'n')::int) FROM jobq.claim(batch => 10000);
ROLLBACK;

-- What a worker gets.
SELECT count(jobq.enqueue('row', '{"a": 1}', 'timed', 5, max_attempts => 4, headers => '{"h": 1}'));
SELECT clock_timestamp() AS before \gset
SELECT t.take('timed', worker => 'worker-1@host:8/x.y');
SELECT queue, kind, payload, headers, attempt, max_attempts, priority, crashes, last_error,
       lease > 0 AND lease < 9007199254740992 AS lease_in_range,
       enqueued_at < :'before' AND run_at < :'before' AS times,
       lease_expires_at BETWEEN :'before'::timestamptz + interval '10 minutes' AND clock_timestamp() + interval '10 minutes' AS lease_of_the_queue,
       deadline_at BETWEEN :'before'::timestamptz + interval '90 seconds' AND clock_timestamp() + interval '90 seconds' AS deadline_of_the_queue
FROM t.held WHERE kind = 'row' \gx
SELECT state, worker, claimed_at BETWEEN :'before' AND clock_timestamp() AS claimed, lease_expires_at > clock_timestamp() AS leased FROM jobq.jobs WHERE kind = 'row';
-- Without a name; without a timeout; with a lease and a timeout of its own.
SELECT count(jobq.enqueue('bare')), count(jobq.enqueue('own', timeout => '2 minutes'));
SELECT t.take(batch => 2, lease_for => '1 hour', kinds => '{bare,own}');
SELECT h.kind, j.worker = 'pid-' || pg_backend_pid() AS worker, h.headers, h.deadline_at BETWEEN :'before'::timestamptz + interval '2 minutes' AND clock_timestamp() + interval '2 minutes' AS deadline,
       h.lease_expires_at BETWEEN :'before'::timestamptz + interval '1 hour' AND clock_timestamp() + interval '1 hour' AS lease
FROM t.held AS h JOIN jobq.jobs AS j USING (id) WHERE h.kind IN ('bare', 'own') ORDER BY h.kind;
-- An old transaction gets a whole lease: time is the clock's, not the transaction's.
SELECT count(jobq.enqueue('late'));
BEGIN;
DO $$ BEGIN WHILE clock_timestamp() < now() + interval '20 milliseconds' LOOP NULL; END LOOP; END $$;
SELECT lease_expires_at >= now() + interval '1.02 seconds' AS whole FROM jobq.claim(kinds => '{late}', lease_for => '1 second');
COMMIT;

-- Several queues: in the order given, whatever the priorities.
SELECT count(jobq.enqueue('low', queue => 'low', priority => 0)), count(jobq.enqueue('high', queue => 'high', priority => 9)), count(jobq.enqueue('default', priority => 1))
FROM generate_series(1, 3);
SELECT t.take('high,low', 2), t.take('high,low', 2), t.take('high,low,default', 3);
SELECT t.take('low,high', 10), t.take('default', kinds => '{default}', batch => 10);

-- Kinds.
SELECT count(jobq.enqueue(kind)) FROM unnest('{red,green,blue,red,green,blue}'::text[]) AS kind;
SELECT t.take(kinds => '{green,blue}', batch => 3), t.take(kinds => '{nosuch}', batch => 3), t.take(kinds => '{green}', batch => 3), t.take(kinds => '{red,green,blue}', batch => 9);

-- Paused and scheduled jobs are not handed out; a paused queue in a list is passed over.
SELECT count(jobq.enqueue('waiting', queue => 'high')), count(jobq.enqueue('ahead', queue => 'high', delay => '1 hour')), count(jobq.enqueue('other', queue => 'low'));
SELECT jobq.pause('high');
SELECT t.take('high', 10), t.take('high,low', 10);
SELECT jobq.resume('high');
SELECT t.take('high', 10);
-- A job falls due while we look.
SELECT count(jobq.enqueue('soon', delay => '50 milliseconds'));
SELECT t.take(kinds => '{soon}');
DO $$
DECLARE
    deadline timestamptz := clock_timestamp() + interval '60 seconds';
BEGIN
    WHILE t.take(kinds => '{soon}') = 'nothing' LOOP
        IF clock_timestamp() > deadline THEN RAISE WARNING 'never fell due'; RETURN; END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
END
$$;
SELECT state, claimed_at >= run_at AS not_early FROM jobq.jobs WHERE kind = 'soon';

-- batch bounds the claim; LIMIT, WHERE and an abandoned cursor around it do not.
SELECT count(jobq.enqueue('bounded')) FROM generate_series(1, 20);
SELECT kind FROM jobq.claim(batch => 3, kinds => '{bounded}') LIMIT 1;
SELECT kind FROM jobq.claim(batch => 3, kinds => '{bounded}') WHERE attempt > 99;
BEGIN;
DECLARE c CURSOR FOR SELECT kind FROM jobq.claim(batch => 3, kinds => '{bounded}');
FETCH 1 FROM c;
CLOSE c;
COMMIT;
SELECT state, count(*) FROM jobq.jobs WHERE kind = 'bounded' GROUP BY state ORDER BY state;
-- Twice in one statement: no job twice.
SELECT count(*), count(DISTINCT id) FROM (
    SELECT id FROM jobq.claim(batch => 3, kinds => '{bounded}') UNION ALL SELECT id FROM jobq.claim(batch => 3, kinds => '{bounded}')) AS two;
SELECT state, count(*) FROM jobq.jobs WHERE kind = 'bounded' GROUP BY state ORDER BY state;

-- A claim rolled back never was; a lease never comes twice.
SELECT count(jobq.enqueue('undone'));
BEGIN;
SELECT t.take(kinds => '{undone}');
SELECT t.seen('undone');
ROLLBACK;
SELECT t.seen('undone');
BEGIN;
SAVEPOINT s;
SELECT lease AS lease0 FROM jobq.claim(kinds => '{undone}') \gset
ROLLBACK TO SAVEPOINT s;
SELECT t.seen('undone');
SELECT t.take(kinds => '{undone}');
COMMIT;
SELECT t.lease('undone') <> :lease0 AS another_lease, t.seen('undone');
SELECT jobq.release(t.id('undone'), t.lease('undone')), t.take(kinds => '{undone}'), jobq.fail(t.id('undone'), t.lease('undone'), 'x', '0'),
       t.take(kinds => '{undone}'), t.lose('undone'), t.take(kinds => '{undone}');
SELECT count(*) AS leases, bool_and(lease > before) AS growing FROM (SELECT lease, lag(lease, 1, 0::bigint) OVER (ORDER BY n) AS before FROM t.held WHERE kind = 'undone') AS x;
SELECT t.seen('undone'), last_error, attempt FROM t.held WHERE kind = 'undone' AND n = (SELECT max(n) FROM t.held WHERE kind = 'undone' AND last_error = 'x');

-- Leases grow even when the clock stands behind the last one.
SELECT count(jobq.enqueue('clock'));
UPDATE jobq._job SET lease = (1::bigint << 52) + 1 WHERE kind = 'clock';
SELECT t.take(kinds => '{clock}');
SELECT t.lease('clock') > (1::bigint << 52) + 1 AND t.lease('clock') < (1::bigint << 53) AS grown;
SELECT jobq.complete(t.id('clock'), t.lease('clock'));

-- Higher isolation levels: alone, all is well.
SELECT count(jobq.enqueue(kind)) FROM unnest('{repeatable,serializable}'::text[]) AS kind;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT t.take(kinds => '{repeatable}');
SELECT jobq.complete(t.id('repeatable'), t.lease('repeatable'));
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT t.take(kinds => '{serializable}');
SELECT jobq.fail(t.id('serializable'), t.lease('serializable'), 'e', '0');
COMMIT;
SELECT t.seen('repeatable'), t.seen('serializable');
BEGIN READ ONLY;
SELECT * FROM jobq.claim();
ROLLBACK;

-- Refused.
SELECT what, t.outcome(what, says) FROM (VALUES
    (1, $$jobq.claim(NULL, NULL, NULL, NULL, NULL, NULL)$$, NULL),
    (2, $$jobq.claim('')$$, 'queue'),
    (3, $$jobq.claim('nosuch')$$, 'nosuch'),
    (4, $$jobq.claim('high,nosuch')$$, 'nosuch'),
    (5, $$jobq.claim('high,,low')$$, 'queue'),
    (6, $$jobq.claim('high,')$$, 'queue'),
    (7, $$jobq.claim('High')$$, 'High'),
    (8, $$jobq.claim(repeat('q', 64))$$, 'queue'),
    (9, $$jobq.claim('high; DROP TABLE jobq._job')$$, 'queue'),
    (20, $$jobq.claim(batch => 0)$$, 'batch'),
    (21, $$jobq.claim(batch => -1)$$, 'batch'),
    (22, $$jobq.claim(batch => 10001)$$, 'batch'),
    (23, $$jobq.claim(batch => 2147483647)$$, 'batch'),
    (24, $$jobq.claim(batch => 10000)$$, NULL),
    (30, $$jobq.claim(worker => '')$$, 'worker'),
    (31, $$jobq.claim(worker => 'with space')$$, 'worker'),
    (32, $$jobq.claim(worker => repeat('w', 129))$$, 'worker'),
    (33, $$jobq.claim(worker => repeat('w', 128))$$, NULL),
    (40, $$jobq.claim(lease_for => '0')$$, 'lease_for'),
    (41, $$jobq.claim(lease_for => '-1 s')$$, 'lease_for'),
    (42, $$jobq.claim(lease_for => '1 us')$$, 'lease_for'),
    (43, $$jobq.claim(lease_for => '999 ms')$$, 'lease_for'),
    (44, $$jobq.claim(lease_for => '1 s')$$, NULL),
    (45, $$jobq.claim(lease_for => '7 days')$$, NULL),
    (46, $$jobq.claim(lease_for => '7 days 1 s')$$, 'lease_for'),
    (47, $$jobq.claim(lease_for => '1 mon -30 days')$$, 'lease_for'),
    (48, $$jobq.claim(lease_for => '178000000 years')$$, 'lease_for'),
    (50, $$jobq.claim(kinds => '{a,NULL}')$$, 'kinds'),
    (51, $$jobq.claim(kinds => '{"with space"}')$$, 'kinds'),
    (52, $$jobq.claim(kinds => '{{a,b},{c,d}}')$$, 'kinds'),
    (60, $$jobq.claim(bind => 'lease')$$, NULL),
    (61, $$jobq.claim(bind => 'forever')$$, 'bind'),
    (62, $$jobq.claim(bind => '')$$, 'bind'),
    (63, $$jobq.claim(bind => 'session')$$, NULL)
) AS v (n, what, says) ORDER BY n;
SELECT t.outcome($$jobq.claim(lease_for => make_interval(secs => 1e300))$$) IN ('22008', '22023') AS overflowing,
       t.outcome($$jobq.claim(lease_for => 'infinity')$$) IN ('22007', '22023') AS infinite;
SELECT t.unsound();
