-- Ending an attempt: complete, complete_many, fail, release; and the fence around them.
\getenv here PG_ABS_SRCDIR
\set prepare :here '/sql/prepare.inc'
\i :prepare

-- complete: with a result, without one.
SELECT count(jobq.enqueue(kind, '{"n": 1}')) FROM unnest('{done,plain,none}'::text[]) AS kind;
SELECT t.take(batch => 3, worker => 'w1');
SELECT jobq.complete(t.id('done'), t.lease('done'), '{"pages": 3}'), jobq.complete(t.id('plain'), t.lease('plain')), jobq.complete(t.id('none'), t.lease('none'), NULL);
SELECT kind, state, attempt, worker, payload, result, finished_at BETWEEN claimed_at AND clock_timestamp() AS times, lease_expires_at, last_error
FROM jobq.jobs ORDER BY kind;

-- As part of the caller's transaction.
SELECT count(jobq.enqueue('undone'));
SELECT t.take(worker => 'w1');
BEGIN;
SELECT jobq.complete(t.id('undone'), t.lease('undone'));
SELECT t.seen('undone');
ROLLBACK;
SELECT t.seen('undone');
BEGIN;
SELECT jobq.complete(t.id('undone'), t.lease('undone'));
PREPARE TRANSACTION 'regress_jobq';
ROLLBACK PREPARED 'regress_jobq';
SELECT t.seen('undone');
BEGIN;
SELECT jobq.complete(t.id('undone'), t.lease('undone'));
PREPARE TRANSACTION 'regress_jobq';
SELECT t.seen('undone');
COMMIT PREPARED 'regress_jobq';
SELECT t.seen('undone');

-- A queue that keeps no completed jobs: nothing is left of it, and nobody can say who finished it.
SELECT jobq.create_queue('fleeting', keep_completed => false);
SELECT count(jobq.enqueue('fleeting', queue => 'fleeting')) FROM generate_series(1, 3);
SELECT t.take('fleeting', 3);
SELECT jobq.complete(id, lease) FROM t.held WHERE kind = 'fleeting' ORDER BY n LIMIT 1;
SELECT completed FROM (SELECT array_agg(id) AS ids, array_agg(lease) AS leases FROM (SELECT * FROM t.held WHERE kind = 'fleeting' ORDER BY n OFFSET 1) AS h) AS x,
    jobq.complete_many(x.ids, x.leases);
SELECT t.seen('fleeting'), t.outcome($$jobq.complete(t.id('fleeting'), t.lease('fleeting'))$$);

-- The fence. Every verb of a worker, with every kind of wrong lease: the right SQLSTATE, nothing changed, and no lease number in
-- what is said. JQ001 says who holds the job, or its state.
CREATE TABLE t.verb (n int, call text);
INSERT INTO t.verb VALUES (1, 'jobq.complete(%L, %s)'), (2, 'jobq.complete_many(ARRAY[%L]::uuid[], ARRAY[%s]::bigint[])'), (3, 'jobq.fail(%L, %s, ''x'')'),
    (4, 'jobq.fail(%L, %s, retry => false)'), (5, 'jobq.release(%L, %s)'), (6, 'jobq.heartbeat(%L, %s)');
CREATE FUNCTION t.fence(id uuid, lease bigint, says text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    outcomes text[];
    number bigint;
    call text;
    code text;
    message text;
    detail text;
    hint text;
BEGIN
    FOR call IN SELECT format(v.call, fence.id, fence.lease) FROM t.verb AS v ORDER BY v.n LOOP
        BEGIN
            EXECUTE 'SELECT count(*) FROM ' || call;
            RAISE EXCEPTION USING ERRCODE = 'T0000';
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS code = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
        END;
        IF says IS NOT NULL AND strpos(detail, says) = 0 THEN code := code || ' detail does not say ' || says; END IF;
        FOR number IN SELECT fence.lease WHERE fence.lease > 99999 UNION SELECT h.lease FROM t.held AS h LOOP
            IF strpos(concat_ws(' ', message, detail, hint), number::text) > 0 THEN code := code || ' tells a lease'; END IF;
        END LOOP;
        outcomes := outcomes || code;
    END LOOP;
    RETURN (SELECT string_agg(DISTINCT o, ', ') FROM unnest(outcomes) AS o);
END
$$;
SELECT count(jobq.enqueue(kind)) FROM unnest('{fenced,other,never}'::text[]) AS kind;
SELECT t.take(batch => 2, worker => 'w1', kinds => '{fenced,other}');
SELECT t.fence(t.id('fenced'), 0, 'w1') AS zero, t.fence(t.id('fenced'), -1, 'w1') AS negative, t.fence(t.id('fenced'), 9223372036854775807, 'w1') AS highest,
       t.fence(t.id('fenced'), t.lease('fenced') + 1, 'w1') AS next, t.fence(t.id('fenced'), t.lease('other'), 'w1') AS anothers;
SELECT t.fence(t.id('never'), 0, 'pending') AS never_claimed, t.fence('00000000-0000-0000-0000-000000000000', 1, NULL) AS no_such_job,
       t.fence('ffffffff-ffff-ffff-ffff-ffffffffffff', 1, NULL) AS no_such_job2;
-- Released, failed for now, rescued: the old lease is lost, before and after somebody else claims the job.
SELECT jobq.release(t.id('fenced'), t.lease('fenced'));
SELECT t.fence(t.id('fenced'), t.lease('fenced'), 'pending') AS released;
SELECT t.take(worker => 'w2', kinds => '{fenced}');
SELECT t.fence(t.id('fenced'), t.lease('fenced', 1), 'w2') AS released_reclaimed;
SELECT jobq.fail(t.id('fenced'), t.lease('fenced'), 'x', '0');
SELECT t.fence(t.id('fenced'), t.lease('fenced'), 'pending') AS failed_for_now;
SELECT t.take(worker => 'w3', kinds => '{fenced}');
SELECT t.fence(t.id('fenced'), t.lease('fenced', 1), 'w3') AS failed_reclaimed;
SELECT t.lose('fenced');
SELECT t.fence(t.id('fenced'), t.lease('fenced'), 'pending') AS rescued;
SELECT jobq.reschedule(t.id('fenced'), max_attempts => 9), t.take(worker => 'w4', kinds => '{fenced}');
SELECT t.fence(t.id('fenced'), t.lease('fenced', 1), 'w4') AS rescued_reclaimed;
SELECT t.seen('fenced');
-- Over: JQ002 for the lease that ended it, JQ001 for every other.
SELECT jobq.complete(t.id('fenced'), t.lease('fenced'));
SELECT t.fence(t.id('fenced'), t.lease('fenced'), 'completed') AS by_this_lease, t.fence(t.id('fenced'), t.lease('fenced', 1), 'completed') AS by_another, t.seen('fenced');
SELECT jobq.fail(t.id('other'), t.lease('other'), 'x', retry => false);
SELECT t.fence(t.id('other'), t.lease('other'), 'failed') AS failed_by_this_lease, t.fence(t.id('other'), t.lease('fenced'), 'failed') AS failed_by_another;
SELECT count(jobq.enqueue(kind)) FROM unnest('{stopped,never_run,between,lost}'::text[]) AS kind;
SELECT t.take(batch => 3, worker => 'w1', kinds => '{stopped,between,lost}');
SELECT jobq.cancel(t.id('stopped')), jobq.fail(t.id('stopped'), t.lease('stopped')), jobq.cancel(t.id('never_run'));
SELECT t.fence(t.id('stopped'), t.lease('stopped'), 'cancelled') AS cancelled_by_this_lease, t.fence(t.id('stopped'), 1, 'cancelled') AS cancelled_by_another,
       t.fence(t.id('never_run'), 0, 'cancelled') AS cancelled_pending;
SELECT jobq.fail(t.id('between'), t.lease('between'), 'x', '0'), jobq.cancel(t.id('between')), t.fence(t.id('between'), t.lease('between'), 'cancelled') AS cancelled_between_attempts;
SELECT jobq.retry(t.id('between')), t.take(worker => 'w1', kinds => '{between}'), t.lease('between') > t.lease('between', 1) AS lease_grew;
-- A rescue that buries the job was not this lease's doing.
UPDATE jobq._job SET max_attempts = 1 WHERE kind = 'lost';
SELECT t.lose('lost');
SELECT t.seen('lost'), t.fence(t.id('lost'), t.lease('lost'), 'failed') AS buried_by_rescue;
-- Retried: the lease that once finished it is worth nothing now.
SELECT jobq.retry(t.id('other')), t.fence(t.id('other'), t.lease('other'), 'pending');
SELECT jobq.delete(t.id('other')), t.fence(t.id('other'), t.lease('other'), NULL) AS deleted;

-- The worker's own writes go with a refused completion.
CREATE TABLE t.effect (job uuid);
SELECT count(jobq.enqueue('effect'));
SELECT t.take(kinds => '{effect}');
SELECT t.lose('effect');
BEGIN;
INSERT INTO t.effect SELECT t.id('effect');
SELECT jobq.complete(t.id('effect'), t.lease('effect'));
COMMIT;
SELECT count(*) FROM t.effect;

-- An expired lease is good until somebody rescues the job.
SELECT count(jobq.enqueue(kind)) FROM unnest('{late1,late2,late3,late4}'::text[]) AS kind;
SELECT t.take(batch => 4, kinds => '{late1,late2,late3,late4}');
BEGIN;
UPDATE jobq._job SET lease_expires_at = clock_timestamp() - interval '1 hour' WHERE kind LIKE 'late_';
SELECT jobq.heartbeat(t.id('late4'), t.lease('late4')), jobq.complete(t.id('late1'), t.lease('late1')), jobq.fail(t.id('late2'), t.lease('late2')), jobq.release(t.id('late3'), t.lease('late3'));
SELECT t.seen('late1'), t.seen('late2'), t.seen('late3'), t.seen('late4');
COMMIT;

-- complete_many: one row for each id, in the order given; results by place.
SELECT count(*) FROM jobq.enqueue_many('many', (SELECT jsonb_agg(jsonb_build_object('n', n) ORDER BY n) FROM generate_series(1, 6) AS n));
SELECT t.take(batch => 6, kinds => '{many}');
CREATE VIEW t.many AS SELECT id, lease, (payload ->> 'n')::int AS n FROM t.held WHERE kind = 'many';
SELECT f.place, f.id = m.id AS same_place, f.completed
FROM (SELECT array_agg(id ORDER BY n DESC) AS ids, array_agg(lease ORDER BY n DESC) AS leases FROM t.many WHERE n <= 3) AS x,
     jobq.complete_many(x.ids, x.leases, '[{"r": 3}, null, "one"]') WITH ORDINALITY AS f (id, completed, place)
JOIN t.many AS m ON m.n = 4 - f.place ORDER BY f.place;
SELECT m.n, j.state, j.result FROM t.many AS m JOIN jobq.jobs AS j USING (id) WHERE m.n <= 3 ORDER BY m.n;
-- With a stale one among them: all or nothing, or the rest.
SELECT jobq.release(id, lease) FROM t.many WHERE n = 5;
CREATE FUNCTION t.complete_rest(on_stale text, OUT completed text) LANGUAGE sql AS $$
    SELECT string_agg(f.completed::text, ' ' ORDER BY f.place)
    FROM (SELECT array_agg(id ORDER BY n) AS ids, array_agg(lease ORDER BY n) AS leases FROM t.many WHERE n > 3) AS x,
         jobq.complete_many(x.ids, x.leases, NULL, $1) WITH ORDINALITY AS f (id, completed, place)
$$;
SELECT t.outcome($$t.complete_rest(NULL)$$), t.outcome($$t.complete_rest('error')$$), t.outcome($$t.complete_rest('skip')$$);
SELECT m.n, j.state FROM t.many AS m JOIN jobq.jobs AS j USING (id) WHERE m.n > 3 ORDER BY m.n;
SELECT t.complete_rest('skip');
SELECT m.n, j.state FROM t.many AS m JOIN jobq.jobs AS j USING (id) WHERE m.n > 3 ORDER BY m.n;
-- The whole of it once more: done by these very leases. Gone: JQ003, or skipped.
SELECT t.outcome(format('jobq.complete_many(%L, %L)', array_agg(id), array_agg(lease))) FROM t.many WHERE n <= 3;
SELECT jobq.delete(id) FROM t.many WHERE n = 1;
SELECT t.outcome(format('jobq.complete_many(%L, %L)', array_agg(id), array_agg(lease))) FROM t.many WHERE n = 1;
SELECT f.completed FROM t.many AS m, jobq.complete_many(ARRAY[m.id], ARRAY[m.lease], on_stale => 'skip') AS f WHERE m.n = 1;
SELECT count(*) FROM jobq.complete_many('{}', '{}');
SELECT count(*) FROM jobq.complete_many('{}', '{}', '[]', 'skip');

SELECT what, t.outcome(what, says) FROM (VALUES
    (1, $$jobq.complete(NULL, 1)$$, 'id'),
    (2, $$jobq.complete(t.id('effect'), NULL)$$, 'lease'),
    (3, $$jobq.complete_many(NULL, '{1}')$$, 'ids'),
    (4, $$jobq.complete_many('{}', NULL)$$, 'leases'),
    (5, $$jobq.complete_many(ARRAY[NULL]::uuid[], '{1}')$$, 'ids'),
    (6, $$jobq.complete_many(ARRAY[t.id('effect')], '{NULL}')$$, 'leases'),
    (7, $$jobq.complete_many(ARRAY[t.id('effect')], '{1,2}')$$, 'leases'),
    (8, $$jobq.complete_many(ARRAY[t.id('effect'), t.id('plain')], '{1}')$$, 'leases'),
    (9, $$jobq.complete_many(ARRAY[ARRAY[t.id('effect')]], ARRAY[ARRAY[1::bigint]])$$, 'ids'),
    (10, $$jobq.complete_many(ARRAY[t.id('effect')], ARRAY[ARRAY[1::bigint]])$$, 'leases'),
    (11, $$jobq.complete_many(ARRAY[t.id('effect'), t.id('effect')], '{1,2}')$$, 'ids'),
    (12, $$jobq.complete_many(ARRAY[t.id('effect'), t.id('effect')], '{1,1}', on_stale => 'skip')$$, 'ids'),
    (13, $$jobq.complete_many(ARRAY[t.id('effect')], '{1}', '[]')$$, 'results'),
    (14, $$jobq.complete_many(ARRAY[t.id('effect')], '{1}', '[1, 2]')$$, 'results'),
    (15, $$jobq.complete_many(ARRAY[t.id('effect')], '{1}', '{}')$$, 'results'),
    (16, $$jobq.complete_many(ARRAY[t.id('effect')], '{1}', '"canary"')$$, 'results'),
    (17, $$jobq.complete_many(ARRAY[t.id('effect')], '{1}', on_stale => 'ignore')$$, 'on_stale'),
    (18, $$jobq.complete_many(ARRAY[t.id('effect')], '{1}', on_stale => '')$$, 'on_stale'),
    (20, $$jobq.fail(NULL, 1)$$, 'id'),
    (21, $$jobq.fail(t.id('effect'), NULL)$$, 'lease'),
    (22, $$jobq.release(NULL, 1)$$, 'id'),
    (23, $$jobq.release(t.id('effect'), NULL)$$, 'lease'),
    (24, $$jobq.heartbeat(NULL, 1)$$, 'id'),
    (25, $$jobq.heartbeat(t.id('effect'), NULL)$$, 'lease'),
    (30, $$jobq.fail(t.id('late4'), t.lease('late4'), retry_in => '-1 s')$$, 'retry_in'),
    (31, $$jobq.fail(t.id('late4'), t.lease('late4'), retry_in => '1 mon -30 days')$$, 'retry_in'),
    (32, $$jobq.fail(t.id('late4'), t.lease('late4'), retry_in => '178000000 years')$$, 'retry_in'),
    (33, $$jobq.fail(t.id('late4'), t.lease('late4'), retry_in => '11 years')$$, 'retry_in'),
    (34, $$jobq.fail(t.id('late4'), t.lease('late4'), retry_in => '9 years')$$, NULL),
    (35, $$jobq.release(t.id('late4'), t.lease('late4'), '-1 s')$$, 'delay'),
    (36, $$jobq.release(t.id('late4'), t.lease('late4'), '1 mon -30 days')$$, 'delay'),
    (37, $$jobq.release(t.id('late4'), t.lease('late4'), '11 years')$$, 'delay'),
    (40, $$jobq.complete(t.id('late4'), t.lease('late4'), jsonb_build_object('p', repeat('canary', 200000)))$$, 'result')
) AS v (n, what, says) ORDER BY n;
BEGIN READ ONLY;
SELECT jobq.complete(t.id('late4'), t.lease('late4'));
ROLLBACK;
SELECT t.seen('late4'), t.unsound();
