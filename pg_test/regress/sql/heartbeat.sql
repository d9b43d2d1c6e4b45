-- Keeping a lease.
\getenv here PG_ABS_SRCDIR
\set prepare :here '/sql/prepare.inc'
\i :prepare
SELECT count(jobq.enqueue(kind)) FROM unnest('{a,b,c,d}'::text[]) AS kind;
SELECT t.take(batch => 3, worker => 'w1', lease_for => '10 minutes');
CREATE FUNCTION t.left_of(kind text) RETURNS interval LANGUAGE sql AS $$
    SELECT j.lease_expires_at - clock_timestamp() FROM jobq.jobs AS j WHERE j.kind = $1
$$;

-- What it was claimed with, from now; shorter never shortens; longer lengthens.
BEGIN;
UPDATE jobq._job SET lease_expires_at = clock_timestamp() + interval '1 second', seen_at = claimed_at WHERE kind = 'a';
SELECT jobq.heartbeat(t.id('a'), t.lease('a'));
SELECT t.left_of('a') BETWEEN '9 minutes 50 seconds' AND '10 minutes' AS as_claimed, last_seen_at > claimed_at AS seen FROM jobq.running_jobs WHERE kind = 'a';
COMMIT;
SELECT lease_expires_at AS before FROM jobq.jobs WHERE kind = 'a' \gset
SELECT jobq.heartbeat(t.id('a'), t.lease('a'), '1 second');
SELECT lease_expires_at >= :'before' AS not_shortened FROM jobq.jobs WHERE kind = 'a';
SELECT jobq.heartbeat(t.id('a'), t.lease('a'), '2 hours');
SELECT t.left_of('a') BETWEEN '1 hour 59 minutes 50 seconds' AND '2 hours' AS two_hours;
-- The clock went back: the lease does not.
BEGIN;
UPDATE jobq._job SET lease_expires_at = clock_timestamp() + interval '1 day', claimed_at = clock_timestamp() + interval '23 hours', seen_at = clock_timestamp() + interval '23 hours' WHERE kind = 'b';
SELECT jobq.heartbeat(t.id('b'), t.lease('b'));
SELECT t.left_of('b') > '23 hours 59 minutes' AS kept;
ROLLBACK;
-- The holder is the one with the lease, in whatever session; attempts and everything else stay.
SELECT t.seen('a');

-- Progress and a note: what is not given stays.
SELECT jobq.heartbeat(t.id('a'), t.lease('a'), NULL, 12.5, 'page 1');
SELECT progress, note FROM jobq.jobs WHERE kind = 'a';
SELECT jobq.heartbeat(t.id('a'), t.lease('a'), NULL, NULL, repeat(U&'\00E9', 200));
SELECT progress, note = repeat(U&'\00E9', 200) AS note_kept FROM jobq.running_jobs WHERE kind = 'a';
SELECT jobq.heartbeat(t.id('a'), t.lease('a'), progress => 100);
SELECT jobq.heartbeat(t.id('a'), t.lease('a'), progress => 0);
SELECT progress, note = repeat(U&'\00E9', 200) AS note_kept FROM jobq.jobs WHERE kind = 'a';
SELECT jobq.complete(t.id('a'), t.lease('a'));
SELECT progress, note IS NOT NULL AS note_kept FROM jobq.jobs WHERE kind = 'a';

-- Cancellation is learnt here; the lease is kept all the same.
SELECT jobq.cancel(t.id('b'));
BEGIN;
UPDATE jobq._job SET lease_expires_at = clock_timestamp() WHERE kind = 'b';
SELECT jobq.heartbeat(t.id('b'), t.lease('b')), jobq.heartbeat(t.id('b'), t.lease('b'), progress => 1);
SELECT t.left_of('b') > '9 minutes' AS kept, t.seen('b');
COMMIT;

-- heartbeat_many reports and does not raise: current, cancelled, stale, finished, never claimed, no such job.
SELECT f.place, f.held, f.cancel_requested, f.id = x.ids[f.place] AS same_place
FROM (SELECT ARRAY[t.id('c'), t.id('b'), t.id('a'), t.id('d'), 'ffffffff-ffff-ffff-ffff-ffffffffffff'] AS ids, ARRAY[t.lease('c'), t.lease('b'), t.lease('a'), 0, 1] AS leases) AS x,
     jobq.heartbeat_many(x.ids, x.leases, '3 hours') WITH ORDINALITY AS f (id, held, cancel_requested, place) ORDER BY f.place;
SELECT t.left_of('b') > '2 hours 59 minutes' AS b, t.left_of('c') > '2 hours 59 minutes' AS c;
SELECT jobq.release(t.id('c'), t.lease('c'));
SELECT held, cancel_requested FROM jobq.heartbeat_many(ARRAY[t.id('c')], ARRAY[t.lease('c')]);
SELECT t.seen('c');
SELECT count(*) FROM jobq.heartbeat_many('{}', '{}');

-- It resurrects nothing.
SELECT t.outcome($$jobq.heartbeat(t.id('a'), t.lease('a'))$$), t.outcome($$jobq.heartbeat(t.id('c'), t.lease('c'))$$), t.outcome($$jobq.heartbeat('ffffffff-ffff-ffff-ffff-ffffffffffff', 1)$$);
SELECT t.seen('a'), t.seen('c');

SELECT what, t.outcome(what, says) FROM (VALUES
    (1, $$jobq.heartbeat(t.id('b'), t.lease('b'), '0')$$, 'lease_for'),
    (2, $$jobq.heartbeat(t.id('b'), t.lease('b'), '-1 s')$$, 'lease_for'),
    (3, $$jobq.heartbeat(t.id('b'), t.lease('b'), '999 ms')$$, 'lease_for'),
    (4, $$jobq.heartbeat(t.id('b'), t.lease('b'), '8 days')$$, 'lease_for'),
    (5, $$jobq.heartbeat(t.id('b'), t.lease('b'), '1000000000 years')$$, NULL),
    (6, $$jobq.heartbeat(t.id('b'), t.lease('b'), '178000000 years')$$, 'lease_for'),
    (7, $$jobq.heartbeat(t.id('b'), t.lease('b'), '1 mon -30 days')$$, 'lease_for'),
    (8, $$jobq.heartbeat(t.id('b'), t.lease('b'), '7 days')$$, NULL),
    (10, $$jobq.heartbeat(t.id('b'), t.lease('b'), progress => -0.1)$$, 'progress'),
    (11, $$jobq.heartbeat(t.id('b'), t.lease('b'), progress => 100.1)$$, 'progress'),
    (12, $$jobq.heartbeat(t.id('b'), t.lease('b'), progress => 'NaN')$$, 'progress'),
    (13, $$jobq.heartbeat(t.id('b'), t.lease('b'), progress => 'Infinity')$$, 'progress'),
    (14, $$jobq.heartbeat(t.id('b'), t.lease('b'), progress => '-Infinity')$$, 'progress'),
    (15, $$jobq.heartbeat(t.id('b'), t.lease('b'), note => repeat('x', 201))$$, 'note'),
    (16, $$jobq.heartbeat(t.id('b'), t.lease('b'), note => repeat('x', 200))$$, NULL),
    (20, $$jobq.heartbeat_many(NULL, '{1}')$$, 'ids'),
    (21, $$jobq.heartbeat_many('{}', NULL)$$, 'leases'),
    (22, $$jobq.heartbeat_many(ARRAY[t.id('b')], '{1,2}')$$, 'leases'),
    (23, $$jobq.heartbeat_many(ARRAY[t.id('b'), t.id('b')], '{1,2}')$$, 'ids'),
    (24, $$jobq.heartbeat_many(ARRAY[t.id('b'), NULL], '{1,2}')$$, 'ids'),
    (25, $$jobq.heartbeat_many(ARRAY[t.id('b')], '{NULL}')$$, 'leases'),
    (26, $$jobq.heartbeat_many(ARRAY[ARRAY[t.id('b')]], '{{1}}')$$, 'ids'),
    (27, $$jobq.heartbeat_many(ARRAY[t.id('b')], '{1}', '0')$$, 'lease_for'),
    (28, $$jobq.heartbeat_many('{}', '{}', '8 days')$$, 'lease_for')
) AS v (n, what, says) ORDER BY n;
BEGIN READ ONLY;
SELECT jobq.heartbeat(t.id('b'), t.lease('b'));
ROLLBACK;
BEGIN READ ONLY;
SELECT * FROM jobq.heartbeat_many(ARRAY[t.id('b')], ARRAY[t.lease('b')]);
ROLLBACK;
SELECT t.unsound();
